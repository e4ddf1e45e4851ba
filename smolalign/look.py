"""A look at what a step would read, before the steps that it reads from have run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.data.load import Loaded, load_rows
from smolalign.errors import UserError
from smolalign.pipeline import resolve_data, resolve_model
from smolalign.recipe.load import Recipe
from smolalign.recipe.schema import DataSource, PretrainStep
from smolalign.rows import RowKind
from smolalign.store import read_manifest

KIND_OF_ROWS: dict[str, RowKind] = {
    "pretrain": "document",
    "smoltalk": "chat",
    "sft": "chat",
    "fc": "chat",
    "dpo": "pair",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """The recipes of a run by step name, and the folder in which some of them may have run already."""

    steps: Mapping[str, Recipe]
    run_folder: Path

    def is_done(self, name: str) -> bool:
        return read_manifest(self.run_folder / name) is not None


def require_step(reference: str, recipe: Recipe, chain: Chain, reader: str) -> None:
    """Raise unless `@name` has run, or is a step that comes before its reader."""
    name = reference.removeprefix("@")
    names = list(chain.steps)
    before = names[: names.index(reader)] if reader in names else []
    if name in before or chain.is_done(name):
        return
    close = difflib.get_close_matches(name, before, n=1)
    mend = (
        f"did you mean @{close[0]}?" if close else f"run that step first: no finished step in {chain.run_folder / name}"
    )
    raise UserError(f"{reference} has not been run and is no earlier step", where=str(recipe.file), mend=mend)


def sources_ahead(data: DataSource, recipe: Recipe, chain: Chain) -> list[DataSource]:
    """The sources behind a source: itself, or, where it is a step that has not run, what that step would read."""
    name = data.source.removeprefix("@")
    if data.source.startswith("@") and not chain.is_done(name) and name in chain.steps:
        upstream = chain.steps[name]
        return [found for item in getattr(upstream.step, "data", []) for found in sources_ahead(item, upstream, chain)]
    return [resolve_data(data, recipe, chain.run_folder)[0]]


def first_rows(data: DataSource, kind: RowKind, limit: int) -> Loaded:
    """The first rows of a resolved source."""
    return load_rows(
        data.source, kind, format=data.format, config=data.config, split=data.split, revision=data.revision, limit=limit
    )


def tokenizer_ahead(reference: str, template: str, recipe: Recipe, chain: Chain, limit: int) -> Any:
    """The tokenizer that a model will have: loaded, or trained on the first rows where its pretraining is to come."""
    from smolalign.model import load_tokenizer

    name = reference.removeprefix("@")
    if not reference.startswith("@") or chain.is_done(name):
        return load_tokenizer(resolve_model(reference, recipe, chain.run_folder)[0], template)
    upstream = chain.steps[name]
    if isinstance(upstream.step, PretrainStep):
        return _tokenizer_to_come(upstream.step, template, upstream, chain, limit)
    return tokenizer_ahead(getattr(upstream.step, "model"), template, upstream, chain, limit)  # noqa: B009


def _tokenizer_to_come(step: PretrainStep, template: str, recipe: Recipe, chain: Chain, limit: int) -> Any:
    from smolalign.train.tokenizer import tokenizer_texts, train_tokenizer

    def rows(sources: Sequence[DataSource], kind: RowKind) -> list[Any]:
        resolved = [resolve_data(source, recipe, chain.run_folder)[0] for source in sources]
        return [row for source in resolved for row in first_rows(source, kind, limit).rows]

    name = step.template if template == "model" else template
    texts = tokenizer_texts(rows(step.data, "document") + rows(step.tokenizer_data, "chat"), name)
    return train_tokenizer(texts, step.tokenizer.vocab_size, name, step.architecture.max_position_embeddings)
