"""One answer in the making: what was asked, and what becomes of each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from smolalign.chat.detokenize import Detokenizer
from smolalign.serve.sampling import Chooser, Sampling
from smolalign.serve.text import Finder

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt to continue.

    Args:
        prompt: token ids, at least one.
        max_tokens: longest continuation, in tokens; 0 computes the prompt alone.
        stop: strings that end the answer, which they are no part of.
        top: tokens to give with each position's log-probabilities; None gives none at all.
        score_prompt: give those of the prompt's own tokens too.
        constraint: a logits processor for a batch of this row alone.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    top: int | None = None
    score_prompt: bool = False
    constraint: Any = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its log-probability by the model itself, before temperature and constraints, and those of the
    likeliest tokens. None for the first token of a prompt, which nothing comes before."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new in an answer: text, the tokens that begin in it, and on the last piece why it ended.

    `written` counts the answer's tokens so far, its stop token included. `error` says what went wrong; it ends the
    answer as `finish` does, and is the request's own mistake where it is `refused`. `prompt` comes once, before all
    others, where the prompt is scored. `ids`, on the last piece, are the answer's tokens, without the stop token.
    """

    text: str = ""
    tokens: tuple[Scored, ...] = ()
    finish: Finish | None = None
    written: int = 0
    error: str | None = None
    prompt: tuple[Scored, ...] = ()
    refused: bool = False
    ids: tuple[int, ...] = ()


class Job:
    """An answer that was asked for. `cancel` may be called from any thread, at any time."""

    def __init__(self, ask: Ask, emit: Callable[[Piece], None]) -> None:
        self.ask, self.emit = ask, emit
        self.cancelled = False

    def cancel(self) -> None:
        """Free its place at the next step; nothing more is emitted."""
        self.cancelled = True


class Row:
    """The state of a running answer.

    Args:
        job: what is answered.
        tokenizer: of the engine's thread.
        stop_ids: tokens that end an answer.
        hidden: tokens that are no text.
    """

    def __init__(self, job: Job, tokenizer: Any, stop_ids: frozenset[int], hidden: frozenset[int]) -> None:
        self.job, self.last, self.written = job, job.ask.prompt[-1], 0
        self._stop_ids = stop_ids
        self._chooser = Chooser(job.ask.sampling, job.ask.prompt, job.ask.constraint)
        self._detokenizer, self._finder = Detokenizer(tokenizer, hidden), Finder(job.ask.stop)
        self._characters, self._given = 0, 0
        self._ids: list[int] = []
        self._waiting: list[tuple[int, Scored]] = []

    def advance(self, logits: torch.Tensor) -> bool:
        """Choose a token by its logits, `[vocabulary]`, and emit what it completes; whether the answer goes on."""
        ask = self.job.ask
        self.last = self._chooser.choose(logits)
        self.written += 1
        if self.last in self._stop_ids:
            return self._end("stop")
        self._ids.append(self.last)
        if ask.top is not None:
            self._waiting.append((self._characters, scored(logits, self.last, ask.top)))
        if self._tell(self._detokenizer.add(self.last)):
            return False
        return self.written < ask.max_tokens or self._end("length")

    def _tell(self, new: str) -> bool:
        """Emit text as far as it can be no stop string; whether one ended the answer."""
        self._characters += len(new)
        text = self._finder.add(new)
        if text or self._finder.found:
            finish: Finish | None = "stop" if self._finder.found else None
            self._given += len(text)
            self._emit(text, [one for start, one in self._waiting if start < self._given], finish)
            self._waiting = [(start, one) for start, one in self._waiting if start >= self._given]
        return self._finder.found

    def _end(self, finish: Finish) -> Literal[False]:
        text = self._finder.add(self._detokenizer.rest())
        if self._finder.found:
            self._given += len(text)
            kept = [one for start, one in self._waiting if start < self._given]
            self._emit(text, kept, "stop")
        else:
            self._emit(text + self._finder.rest(), [one for _, one in self._waiting], finish)
        return False

    def _emit(self, text: str, tokens: list[Scored], finish: Finish | None) -> None:
        if not self.job.cancelled:
            ids = tuple(self._ids) if finish else ()
            self.job.emit(Piece(text, tuple(tokens), finish, self.written, ids=ids))


def scored(logits: torch.Tensor, token: int, top: int) -> Scored:
    """A token's log-probability by the logits of all, `[vocabulary]`, and those of the `top` likeliest."""
    logs = logits.log_softmax(-1)
    best = logs.topk(min(top, len(logs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Scored(token, float(logs[token]), tuple(pairs))
