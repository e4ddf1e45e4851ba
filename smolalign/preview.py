"""`smolalign preview`: what the model will see, and on what it will be trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.look import Chain, first_rows, sources_ahead, tokenizer_ahead, tokenizer_to_come
from smolalign.recipe.load import Recipe
from smolalign.recipe.schema import PretrainStep, TrainStep, TuneStep
from smolalign.rows import Chat, Pair, Row

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
    if isinstance(step, PretrainStep):
        yield from _show_packed(step, chain, name, tokenizer, rows)
        return
    kind = "pair" if recipe.kind == "dpo" else "chat"
    left = rows
    for data in step.data:
        for source in sources_ahead(data, chain, name):
            for row in first_rows(source, kind, left).rows[:left]:  # type: ignore[arg-type]
                left -= 1
                yield from _show(tokenizer, row, step.max_length)
            if left <= 0:
                return


def _show_packed(step: PretrainStep, chain: Chain, name: str, tokenizer: Any, rows: int) -> Iterator[Shown]:
    """Rows of each stage in turn, packed as they are trained on, but from the first documents of each source, as if it
    had no others. Documents begin on a line of their own."""
    from smolalign.pretrain_ahead import look_at_sources, step_tokens
    from smolalign.recipe.pretraining import Stage
    from smolalign.train.curriculum import Plan

    documents = {source.name: source.documents for source in look_at_sources(step, name, chain, tokenizer)}
    held = {source: sum(map(len, ids)) for source, ids in documents.items()}
    plan = Plan(
        step.stages or [Stage(name="all", tokens=sum(held.values()))],
        held,
        step_tokens=step_tokens(step),
        length=step.max_length,
        rope_theta=step.architecture.rope_theta,
        seed=step.seed,
    )
    stages = plan.stages[step.branch.stage - 1 if step.branch else 0 :]
    for number in range(rows):
        stretch, index = stages[number % len(stages)], number // len(stages)
        if index < stretch.rows:
            row = plan.row(stretch, index)
            pieces = list(_cut(documents[row.source], row.start, row.length))
            yield _shown_packed(tokenizer, f"stage {stretch.name}, row {index + 1}: {row.source}", pieces)


def _cut(documents: Sequence[Sequence[int]], start: int, length: int) -> Iterator[Sequence[int]]:
    """The pieces of documents, repeated without end, in a stretch of so many tokens."""
    start %= sum(map(len, documents))
    for document in cycle(documents):
        if start < len(document):
            yield (piece := document[start : start + length])
            length -= len(piece)
            if not length:
                return
        start = max(0, start - len(document))


def _shown_packed(tokenizer: Any, title: str, pieces: Sequence[Sequence[int]]) -> Shown:
    """A packed row: what nothing in the row comes before, the first token of each piece, is not trained on."""
    parts: list[tuple[str, bool]] = []
    for piece in pieces:
        parts += [("\n", False)] if parts else []
        parts.append((tokenizer.decode(piece[:1]), False))
        parts += [(tokenizer.decode(piece[1:]), True)] if len(piece) > 1 else []
    tokens = sum(map(len, pieces))
    count = f"{len(pieces)} document{'s' if len(pieces) > 1 else ''}"
    return Shown(title, parts, f"{tokens} tokens, {count}, {tokens - len(pieces)} trained on")


def _tokenizer(recipe: Recipe, chain: Chain, name: str) -> Any:
    if isinstance(recipe.step, PretrainStep):
        return tokenizer_to_come(recipe.step.template, chain, name, TOKENIZER_ROWS)
    assert isinstance(recipe.step, TuneStep)
    return tokenizer_ahead(recipe.step.model, recipe.step.template, chain, name, TOKENIZER_ROWS)


def _show(tokenizer: Any, row: Row, max_length: int) -> Iterator[Shown]:
    from smolalign.chat.render import render_chat, render_pair

    if isinstance(row, Chat):
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
