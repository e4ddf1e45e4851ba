"""One thread that computes all answers: requests join a running batch and leave it, step by step.

A turn of the loop computes a part of one prompt, where one waits, and one token of every running answer. So a long
prompt delays the others by a part at most, and an answer that ends or whose client hangs up makes room at once.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from smolalign.chat.detokenize import hidden_ids
from smolalign.errors import UserError
from smolalign.serve.cache import BatchCache, new_cache
from smolalign.serve.row import Ask, Job, Piece, Row, Scored, scored

# Tokens of a prompt that are computed between two steps of the running answers.
PROMPT_PART = 512
STOPPED = "the server is shutting down"


class Busy(Exception):
    """All places in the batch and in the queue are taken."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine has to do and has done: answers running and waiting, passes through the model for prompts and for
    steps of the batch, and tokens written."""

    running: int
    waiting: int
    prompt_passes: int
    step_passes: int
    tokens: int


@dataclass(slots=True)
class Entering:
    """A prompt on its way into the batch, computed up to `done`, with a cache of its own."""

    row: Row
    cache: Any
    done: int
    scores: list[Scored]


class Engine:
    """Answers in batches. `submit` and `load` may be called from any thread.

    Args:
        model: a causal language model that keeps keys and values.
        tokenizer: copied, since tokenizers may not be used by two threads at once.
        max_batch: answers at once.
        max_queue: answers that wait beyond these.
        fill: let running answers wait while prompts can join them; nobody reads them as they come, and a step costs
            hardly more for a whole batch than for a part of one.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_batch: int, max_queue: int, fill: bool = False) -> None:
        self._model, self._tokenizer = model, copy.deepcopy(tokenizer)
        self._stop_ids, self._hidden = stop_ids(model, tokenizer), hidden_ids(tokenizer)
        self.max_batch, self.places, self._fill = max_batch, max_batch + max_queue, fill
        self._waiting: deque[Job] = deque()
        self._entering: Entering | None = None
        self._rows: list[Row] = []
        self._cache = BatchCache(model.device)
        self._prompt_passes = self._step_passes = self._tokens = 0
        self._changed, self._stopping = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End every answer with an error, and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def alive(self) -> bool:
        """Whether answers can be made."""
        return self._thread.is_alive()

    def submit(self, asks: Sequence[Ask], emit: Callable[[int, Piece], None]) -> list[Job]:
        """Take up all of them, or none.

        Args:
            asks: what to continue.
            emit: called in the engine's thread with an ask's index and each piece of its answer; must not block.

        Raises:
            Busy: there are not so many places.
        """
        jobs = [Job(ask, functools.partial(emit, index)) for index, ask in enumerate(asks)]
        with self._changed:
            if self._stopping or self._taken() + len(jobs) > self.places:
                raise Busy
            self._waiting.extend(jobs)
            self._changed.notify()
        return jobs

    def load(self) -> Load:
        """What there is to do, and what was done."""
        with self._changed:
            waiting = sum(not job.cancelled for job in self._waiting)
            running = self._taken() - waiting
            return Load(running, waiting, self._prompt_passes, self._step_passes, self._tokens)

    def _taken(self) -> int:
        entering = self._entering  # read once: the engine's thread may let it go meanwhile
        jobs = [*self._waiting, *([entering.row.job] if entering else []), *(row.job for row in self._rows)]
        return sum(not job.cancelled for job in jobs)

    def _run(self) -> None:
        while self._wait_for_work():
            with torch.inference_mode():
                self._turn()
        self._fail_all(STOPPED)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._stopping or self._waiting or self._entering or self._rows):
                self._changed.wait()
            return not self._stopping

    def _turn(self) -> None:
        try:
            self._drop_cancelled()
            self._admit()
            if self._entering is not None:
                self._compute_prompt(self._entering)
            if self._rows and not (self._fill and self._joins()):
                self._step()
        except Exception as error:  # whatever it is, such as no memory, the server must go on with what comes next
            self._fail_all(f"{type(error).__name__}: {error}", waiting=False)

    def _drop_cancelled(self) -> None:
        if self._entering is not None and self._entering.row.job.cancelled:
            self._entering = None
        self._keep([not row.job.cancelled for row in self._rows])

    def _admit(self) -> None:
        with self._changed:
            while self._waiting and self._waiting[0].cancelled:
                self._waiting.popleft()
            if self._entering is None and self._waiting and len(self._rows) < self.max_batch:
                row = Row(self._waiting.popleft(), self._tokenizer, self._stop_ids, self._hidden)
                self._entering = Entering(row, new_cache(), 0, [Scored(row.job.ask.prompt[0], None)])

    def _joins(self) -> bool:
        """Whether a prompt is on its way into the batch, or can set out for it."""
        return self._entering is not None or (bool(self._waiting) and len(self._rows) < self.max_batch)

    def _compute_prompt(self, entering: Entering) -> None:
        """A part of a prompt; after the last one the row has its first token, and joins unless that was all."""
        row, ask = entering.row, entering.row.job.ask
        part = ask.prompt[entering.done : entering.done + PROMPT_PART]
        try:
            keep = {} if ask.score_prompt else {"logits_to_keep": 1}
            logits = self._pass([list(part)], entering.cache, **keep)
            self._prompt_passes += 1
            if ask.score_prompt:
                following = ask.prompt[entering.done + 1 : entering.done + 1 + len(part)]
                places = zip(logits[0], following, strict=False)
                entering.scores += [scored(place, token, ask.top or 0) for place, token in places]
            entering.done += len(part)
            if entering.done < len(ask.prompt):
                return
            goes_on = self._first(entering, logits[0, -1])
        except Exception as error:  # one request's mistake, or no memory for it, must not end the others
            goes_on = False
            self._fail(row.job, error)
        self._entering = None
        if goes_on:
            self._cache.join(entering.cache)
            self._rows.append(row)

    def _first(self, entering: Entering, logits: torch.Tensor) -> bool:
        row = entering.row
        if row.job.ask.score_prompt and not row.job.cancelled:
            row.job.emit(Piece(prompt=tuple(entering.scores)))
        if row.job.ask.max_tokens == 0:
            row.job.emit(Piece(finish="length"))
            return False
        return self._advance(row, logits)

    def _step(self) -> None:
        """One token of every row."""
        inputs = self._cache.step_inputs()
        logits = self._pass([[row.last] for row in self._rows], self._cache.cache, **inputs)[:, -1]
        self._step_passes += 1
        self._keep([self._advance(row, one) for row, one in zip(self._rows, logits, strict=True)])

    def _advance(self, row: Row, logits: torch.Tensor) -> bool:
        try:
            self._tokens += 1
            return row.advance(logits)
        except Exception as error:  # as where a grammar leaves no token: the others go on
            self._fail(row.job, error)
            return False

    def _pass(self, ids: list[list[int]], cache: Any, **inputs: Any) -> torch.Tensor:
        """Logits `[rows, positions, vocabulary]`, fp32 on the CPU."""
        batch = torch.tensor(ids, device=self._model.device)
        return self._model(input_ids=batch, past_key_values=cache, use_cache=True, **inputs).logits.float().cpu()

    def _keep(self, kept: Sequence[bool]) -> None:
        if not all(kept):
            rows = [row for row, keep in enumerate(kept) if keep]
            self._cache.keep(rows)
            with self._changed:
                self._rows = [self._rows[row] for row in rows]

    def _fail(self, job: Job, error: Exception) -> None:
        if job.cancelled:
            return
        if isinstance(error, UserError):  # as where a grammar is too large to follow
            job.emit(Piece(error=error.line(), refused=True))
        else:
            job.emit(Piece(error=f"{type(error).__name__}: {error}"))

    def _fail_all(self, what: str, *, waiting: bool = True) -> None:
        with self._changed:
            jobs = [row.job for row in self._rows] + ([self._entering.row.job] if self._entering else [])
            if waiting:
                jobs += self._waiting
                self._waiting.clear()
            self._rows, self._entering = [], None
            self._cache = BatchCache(self._model.device)
        for job in jobs:
            if not job.cancelled:
                job.emit(Piece(error=what))


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's end of sequence, and those that the model's own settings name."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    return frozenset(one for one in ids if one is not None)


def can_batch(model: Any) -> bool:
    """Whether the engine can run a model: one that keeps keys and values alone, and is told of masks and positions."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    return (
        bool(model._supports_attention_backend)
        and not model._is_stateful
        and not model.config.is_encoder_decoder
        and kinds <= {"full_attention", "sliding_attention"}
        and {"position_ids", "logits_to_keep"} <= inspect.signature(model.forward).parameters.keys()
    )
