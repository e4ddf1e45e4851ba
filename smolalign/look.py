"""A look at what a step would read, before the steps that it reads from have run."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolalign.data.load import Loaded, load_rows
from smolalign.data.records import source_parts
from smolalign.errors import UserError
from smolalign.inputs import resolve_data, resolve_model
from smolalign.recipe.data import DataSource
from smolalign.recipe.load import Recipe
from smolalign.recipe.schema import AssemblyStep, PretrainStep, QualityStep, SmoltalkStep, Step, TrainStep, TuneStep
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
class Finding:
    """One thing that was looked at in a step: fine, worth a warning, or wrong."""

    step: str
    text: str = ""
    warning: bool = False
    problem: UserError | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """The recipes of a run by step name, and the folder in which some of them may have run already."""

    steps: Mapping[str, Recipe]
    run_folder: Path
    tokenizers: dict[tuple[str, str], Any] = field(default_factory=dict)
    """Tokenizers trained ahead, by step and template: several steps of a chain have the same one."""

    def is_done(self, name: str) -> bool:
        return read_manifest(self.run_folder / name) is not None

    def before(self, name: str) -> list[str]:
        """The steps that a step may read."""
        return list(itertools.takewhile(lambda other: other != name, self.steps))


def require_step(reference: str, gives: str, chain: Chain, reader: str) -> None:
    """Raise unless `@name` is a step before its reader, or has run outside this chain, and gives what is asked for.

    Args:
        reference: `@name`.
        gives: `model`, `scorer`, or a split of rows.
        chain: the reader among its steps.
        reader: the step that the reference stands in.
    """
    name, before = reference.removeprefix("@"), chain.before(reader)
    where = str(chain.steps[reader].file)
    if name in chain.steps and name not in before:
        mend = "a step cannot read itself" if name == reader else "move that step before this one"
        raise UserError(f"{reference} comes no earlier than the step {reader} that reads it", where=where, mend=mend)
    if name not in chain.steps and not chain.is_done(name):
        close = difflib.get_close_matches(name, before, n=1)
        mend = f"did you mean @{close[0]}?" if close else "run that step first, or name the run's folder with --out"
        what = f"{reference} is no earlier step and has not been run: no finished step in {chain.run_folder / name}"
        raise UserError(what, where=where, mend=mend)
    if name in before and gives not in (given := _gives(chain.steps[name].step)):
        what = f"no {gives}" if gives in ("model", "scorer") else f"no rows of split {gives!r}"
        raise UserError(
            f"{reference} gives {what}: it is a step of kind {chain.steps[name].kind}",
            where=where,
            mend=f"it gives {', '.join(given) or 'nothing to read'}; split 'test' needs test_fraction there",
        )


def _gives(step: Step) -> list[str]:
    """What later steps may read of a step: `model`, `scorer`, and splits of rows."""
    if isinstance(step, QualityStep):
        return ["scorer"]
    rows = ["train"] if isinstance(step, SmoltalkStep) else []
    if isinstance(step, SmoltalkStep | TuneStep) and step.test_fraction:
        rows.append("test")
    return ["model", *rows] if isinstance(step, TrainStep) else rows


def sources_ahead(data: DataSource, chain: Chain, reader: str) -> list[DataSource]:
    """The sources behind a source: itself, or, where it is a step that has not run, what that step would read."""
    if data.source.startswith("@"):
        require_step(data.source, data.split or "train", chain, reader)
        name = data.source[1:]
        if not chain.is_done(name):
            upstream = chain.steps[name].step
            assert isinstance(upstream, SmoltalkStep | TuneStep)
            return [found for item in upstream.data for found in sources_ahead(item, chain, name)]
    return [resolve_data(data, chain.steps[reader], chain.run_folder)[0]]


def rows_ahead(step: Step, name: str, chain: Chain) -> int | None:
    """How many rows a step trains on, before filters; None where that is not known without reading them."""
    assert isinstance(step, AssemblyStep)
    counts = [_rows_of(data, chain, name) for data in step.data]
    known = [count for count in counts if count is not None]
    return round(sum(known) * (1 - step.test_fraction)) if len(known) == len(counts) else None


def _rows_of(data: DataSource, chain: Chain, reader: str) -> float | None:
    """Rows that a source gives."""
    name = data.source[1:]
    if data.source.startswith("@") and not chain.is_done(name):
        count: float | None = rows_ahead(chain.steps[name].step, name, chain)
    else:
        found = resolve_data(data, chain.steps[reader], chain.run_folder)[0]
        parts = source_parts(found.source, config=found.config, split=found.split, revision=found.revision)
        count = sum(part.records for part in parts) if all(part.records for part in parts) else None
    if count is None:
        return None
    return min(count * (data.weight or 1), data.max_rows or count * (data.weight or 1)) * data.repeat


def first_rows(data: DataSource, kind: RowKind, limit: int, max_rejected: float = 0.01) -> Loaded:
    """The first rows of a resolved source; of its first records no more than `max_rejected` may be broken."""
    return load_rows(
        data.source,
        kind,
        format=data.format,
        config=data.config,
        split=data.split,
        revision=data.revision,
        limit=limit,
        max_rejected=max_rejected,
    )


def tokenizer_ahead(reference: str, template: str, chain: Chain, reader: str, limit: int) -> Any:
    """The tokenizer that a model will have: loaded, or trained on the first rows where its pretraining is to come."""
    from smolalign.model import load_tokenizer

    if reference.startswith("@"):
        require_step(reference, "model", chain, reader)
        name = reference[1:]
        if not chain.is_done(name):
            upstream = chain.steps[name].step
            assert isinstance(upstream, PretrainStep | TuneStep)
            template = upstream.template if template == "model" else template
            if isinstance(upstream, TuneStep):
                return tokenizer_ahead(upstream.model, template, chain, name, limit)
            return tokenizer_to_come(template, chain, name, limit)
    return load_tokenizer(resolve_model(reference, chain.steps[reader], chain.run_folder)[0], template)


def added_ahead(reference: str, tokenizer: Any, chain: Chain, reader: str) -> dict[str, int]:
    """The tokens, and their ids, that a step would add to its model; an earlier step's model will have them."""
    from smolalign.model import tokens_added

    if reference.startswith("@"):
        return {}
    return tokens_added(resolve_model(reference, chain.steps[reader], chain.run_folder)[0], tokenizer)


def tokenizer_to_come(template: str, chain: Chain, name: str, limit: int) -> Any:
    """The tokenizer that a pretrain step would take, or train, here from the first `limit` rows of each of its
    sources."""
    if (name, template) not in chain.tokenizers:
        chain.tokenizers[name, template] = _train_ahead(template, chain, name, limit)
    return chain.tokenizers[name, template]


def _train_ahead(template: str, chain: Chain, name: str, limit: int) -> Any:
    from smolalign.train.tokenizer import tokenizer_texts, train_tokenizer

    def rows(sources: Sequence[DataSource], kind: RowKind) -> list[Any]:
        resolved = [found for source in sources for found in sources_ahead(source, chain, name)]
        return [row for source in resolved for row in first_rows(source, kind, limit).rows]

    step = chain.steps[name].step
    assert isinstance(step, PretrainStep)
    if step.tokenizer.model is not None:
        from smolalign.model import load_tokenizer

        if step.tokenizer.model.startswith("@"):
            require_step(step.tokenizer.model, "model", chain, name)
        return load_tokenizer(resolve_model(step.tokenizer.model, chain.steps[name], chain.run_folder)[0], template)
    texts = tokenizer_texts(rows(step.data, "document") + rows(step.tokenizer_data, "chat"), template)
    return train_tokenizer(texts, step.tokenizer.vocab_size, template, step.architecture.max_position_embeddings)


def counted(rows: int) -> str:
    """A number of rows, in words."""
    return "1 row" if rows == 1 else f"{rows} rows"
