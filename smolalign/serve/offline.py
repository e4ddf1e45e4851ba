"""Answers to many prompts that are all known from the start, as evaluations ask for them."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from smolalign.chat.detokenize import hidden_ids
from smolalign.errors import UserError
from smolalign.serve.engine import Engine, can_batch, stop_ids
from smolalign.serve.row import Ask, Job, Piece, Row


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, its tokens without the stop token, and whether it ended itself or at a stop string."""

    text: str
    ids: tuple[int, ...]
    stopped: bool


def answer_all(
    model: Any,
    tokenizer: Any,
    asks: Sequence[Ask],
    *,
    max_batch: int,
    answered: Callable[[int, Answer], None] = lambda _index, _answer: None,
) -> list[Answer]:
    """Answer every ask: by the engine, or one after the other where the model is none for the engine.

    Each answer leaves the batch at its own end, and the next prompt takes its place, long ones first. What a row draws
    is its own sampling's, so neither its company nor `max_batch` changes an answer, rounding aside.

    Args:
        model: a causal language model.
        tokenizer: its own.
        asks: what to continue.
        max_batch: answers at once.
        answered: called in this thread with an ask's index and its answer, as soon as it is whole.

    Returns:
        The answers in the order of the asks.

    Raises:
        UserError: some could not be generated; all others were, and `answered` was told.
    """
    answers: list[Answer | None] = [None] * len(asks)
    errors: list[str] = []
    order = sorted(range(len(asks)), key=lambda index: -len(asks[index].prompt))
    way = _in_batches if can_batch(model) else _one_by_one
    for place, answer in way(model, tokenizer, [asks[index] for index in order], max_batch):
        if isinstance(answer, str):
            errors.append(answer)
        else:
            answers[order[place]] = answer
            answered(order[place], answer)
    if errors:
        raise UserError(f"{len(errors)} answers could not be generated: {errors[0]}")
    return [answer for answer in answers if answer is not None]


def seed_of(seed: int, number: int) -> int:
    """The seed of one row's own draws, by the seed of all and the row's number."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


class _Whole:
    """Gathers the pieces of an answer; `end` is called with its index and it, or what went wrong."""

    def __init__(self, index: int, end: Callable[[tuple[int, Answer | str]], None]) -> None:
        self._index, self._end = index, end
        self._text: list[str] = []

    def take(self, piece: Piece) -> None:
        """The next piece."""
        self._text.append(piece.text)
        if piece.error is not None:
            self._end((self._index, piece.error))
        elif piece.finish is not None:
            self._end((self._index, Answer("".join(self._text), piece.ids, piece.finish == "stop")))


def _in_batches(model: Any, tokenizer: Any, asks: Sequence[Ask], max_batch: int) -> Iterator[tuple[int, Answer | str]]:
    ended: queue.SimpleQueue[tuple[int, Answer | str]] = queue.SimpleQueue()
    gathered = [_Whole(index, ended.put) for index in range(len(asks))]
    engine = Engine(model, tokenizer, max_batch=max_batch, max_queue=len(asks), fill=True)
    engine.start()
    try:
        engine.submit(asks, lambda index, piece: gathered[index].take(piece))
        for _ in asks:
            yield ended.get()
    finally:
        engine.stop()


def _one_by_one(model: Any, tokenizer: Any, asks: Sequence[Ask], max_batch: int) -> Iterator[tuple[int, Answer | str]]:
    """By Transformers' `generate`, which knows every model's cache, and is told each token by the row."""
    stops, hidden = stop_ids(model, tokenizer), hidden_ids(tokenizer)
    for index, ask in enumerate(asks):
        found: list[tuple[int, Answer | str]] = []
        row = Row(Job(ask, _Whole(index, found.append).take), tokenizer, stops, hidden)
        told = _Told(row)
        ids = torch.tensor([ask.prompt], device=model.device)
        with torch.inference_mode(), _without_settings(model):
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=ask.max_tokens,
                pad_token_id=0,
                logits_processor=[told],
                stopping_criteria=[_Ends(told)],
            )
        yield from found


class _Told(LogitsProcessor):
    """Leaves only the token that a row chooses."""

    def __init__(self, row: Row) -> None:
        self._row, self.ended = row, False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `[1, vocabulary]`."""
        self.ended = not self._row.advance(scores[0].float().cpu())
        scores = torch.full_like(scores, -torch.inf)  # type: ignore[assignment]
        scores[0, self._row.last] = 0
        return scores


class _Ends(StoppingCriteria):
    """Stops when the row has ended."""

    def __init__(self, told: _Told) -> None:
        self._told = told

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.BoolTensor:
        """Whether, as `[1]`."""
        return torch.tensor([self._told.ended], device=input_ids.device)  # type: ignore[return-value]


@contextmanager
def _without_settings(model: Any) -> Iterator[None]:
    """Take away the model's own settings of generation, which count wherever nothing is said."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
