"""A reply, written while it is made: whole characters, a limit, a guard against loops, and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import LogitsProcessor, StoppingCriteria

from smolalign.chat.detokenize import Detokenizer, hidden_ids
from smolalign.errors import UserError

Ended = Literal["stop", "length", "loop", "interrupted"]
# A reply whose last tokens are one passage over and over is cut: so many tokens at least, so many times at least, of a
# passage of at most so many tokens. Tables and lists repeat less than that.
LOOP_TOKENS, LOOP_TIMES, LOOP_PASSAGE = 64, 6, 64


@dataclass(frozen=True, slots=True)
class Reply:
    """The text that was written, and why it ended: the stop token, the limit, a loop, or Ctrl-C."""

    text: str
    ended: Ended


class LoopGuard(StoppingCriteria):
    """Stops a single row that says one passage over and over."""

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt
        self._equal = [0] * LOOP_PASSAGE
        self.found = False

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.BoolTensor:
        """Whether the row `[1, length]` is to stop, as `[1]`; called once a token."""
        last = input_ids[0, self._prompt :][-LOOP_PASSAGE - 1 :].tolist()
        self.found = self.found or self._repeats(last)
        return torch.tensor([self.found], device=input_ids.device)  # type: ignore[return-value]

    def _repeats(self, last: list[int]) -> bool:
        """For each period, how many tokens in a row equal the one a period before; then whether one suffices."""
        for period in range(1, LOOP_PASSAGE + 1):
            same = len(last) > period and last[-1] == last[-1 - period]
            self._equal[period - 1] = self._equal[period - 1] + 1 if same else 0
            if self._equal[period - 1] + period >= max(LOOP_TOKENS, LOOP_TIMES * period):
                return True
        return False


class TextStream:
    """A `streamer` of Transformers' `generate` that says the text of the tokens of a single row as they come."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        self._detokenizer, self._say = Detokenizer(tokenizer, hidden_ids(tokenizer)), say
        self._seen_prompt = False
        self.text = ""

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, `[1, length]`, at the first call, and then the tokens of each step, `[1]`."""
        if self._seen_prompt:
            for token in value.flatten().tolist():
                self._write(self._detokenizer.add(token))
        self._seen_prompt = True

    def end(self) -> None:
        """Write what is held back."""
        self._write(self._detokenizer.rest())

    def _write(self, text: str) -> None:
        if text:
            self.text += text
            self._say(text)


def write_reply(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    say: Callable[[str], None],
    *,
    max_new_tokens: int,
    temperature: float,
    held_to: LogitsProcessor | None = None,
) -> Reply:
    """Generate a reply and say each piece of it as soon as it is there.

    Args:
        prompt: token ids.
        say: called with pieces of text that make up the reply's.
        max_new_tokens: longest reply, in tokens; less where the model's positions end before.
        temperature: 0 decodes greedily.
        held_to: what `Grammar.processor` gave.

    Raises:
        UserError: the prompt leaves no room for a reply.
    """
    room = positions(model) - len(prompt)
    if room < 1:
        raise UserError(
            f"the conversation is {len(prompt)} tokens long, and the model reads {positions(model)} at most",
            mend="/undo takes the last turn back, /reset begins anew",
        )
    ids = torch.tensor([list(prompt)], device=model.device)
    guard, stream = LoopGuard(len(prompt)), TextStream(tokenizer, say)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    ended: Ended = "interrupted"
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(max_new_tokens, room),
                streamer=stream,
                stopping_criteria=[guard],
                logits_processor=[held_to] if held_to else [],
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **sampling,
            )
        ended = "stop" if output[0, -1] == tokenizer.eos_token_id else "loop" if guard.found else "length"
    except KeyboardInterrupt:
        stream.end()
    return Reply(stream.text, ended)


def positions(model: Any) -> int:
    """Longest row that the model was made for, in tokens; without end where its configuration names none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
