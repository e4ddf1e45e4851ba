"""`smolalign preview`: what the model will see, and on what it will be trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.look import Chain, first_rows, sources_ahead, tokenizer_ahead, tokenizer_to_come
from smolalign.recipe.load import Recipe
from smolalign.recipe.schema import PretrainStep, TrainStep, TuneStep
from smolalign.rows import Chat, Document, Pair, Row

# Rows from which the tokenizer of a base model that is still to be trained is learned.
TOKENIZER_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Shown:
    """One row: where it came from, its text in runs of trained and untrained tokens, and its figures."""

    title: str
    parts: list[tuple[str, bool]]
    footer: str


def preview(chain: Chain, name: str, rows: int) -> Iterator[Shown]:
    """The first rows of a training step, rendered; a pair is shown twice, with either answer.

    Args:
        chain: the step among those it may read from.
        name: of the step.
        rows: how many to show.

    Raises:
        UserError: the step trains on nothing, or its rows or tokenizer cannot be had.
    """
    recipe = chain.steps[name]
    step = recipe.step
    if not isinstance(step, TrainStep):
        raise UserError(f"a step of kind {recipe.kind} trains on nothing", mend="preview pretrain, sft, dpo or fc")
    tokenizer = _tokenizer(recipe, chain, name)
    kind = {"pretrain": "document", "dpo": "pair"}.get(recipe.kind, "chat")
    left = rows
    for data in step.data:
        for source in sources_ahead(data, chain, name):
            for row in first_rows(source, kind, left).rows[:left]:  # type: ignore[arg-type]
                left -= 1
                yield from _show(tokenizer, row, step.max_length)
            if left <= 0:
                return


def _tokenizer(recipe: Recipe, chain: Chain, name: str) -> Any:
    if isinstance(recipe.step, PretrainStep):
        return tokenizer_to_come(recipe.step.template, chain, name, TOKENIZER_ROWS)
    assert isinstance(recipe.step, TuneStep)
    return tokenizer_ahead(recipe.step.model, recipe.step.template, chain, name, TOKENIZER_ROWS)


def _show(tokenizer: Any, row: Row, max_length: int) -> Iterator[Shown]:
    from smolalign.chat.render import render_chat, render_pair

    if isinstance(row, Document):
        ids = tokenizer(row.text, add_special_tokens=False)["input_ids"]
        yield _shown(tokenizer, row.origin, ids, [True] * len(ids), max_length)
    elif isinstance(row, Chat):
        rendered = render_chat(tokenizer, row)
        yield _shown(tokenizer, row.origin, rendered.ids, rendered.trained, max_length)
    elif isinstance(row, Pair):
        pair = render_pair(tokenizer, row)
        for title, answer in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
            marks = [False] * len(pair.prompt_ids) + [True] * len(answer)
            yield _shown(tokenizer, f"{row.origin} {title}", [*pair.prompt_ids, *answer], marks, max_length)


def _shown(tokenizer: Any, origin: str, ids: Sequence[int], trained: Sequence[bool], max_length: int) -> Shown:
    runs = groupby(zip(ids, trained, strict=True), key=lambda item: item[1])
    parts = [(tokenizer.decode([token for token, _ in run]), mark) for mark, run in runs]
    over = f", {len(ids) - max_length} over max_length {max_length}" if len(ids) > max_length else ""
    return Shown(Path(origin).name, parts, f"{len(ids)} tokens, {sum(trained)} trained on{over}")
