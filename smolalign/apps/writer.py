"""The model behind the small commands: what fits into its context, and its replies to one request each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smolalign.adapters import is_adapter, merging
from smolalign.apps.wishes import DEFAULT_MODEL, Wishes
from smolalign.chat.generation import positions, write_reply
from smolalign.chat.grammar import Grammar
from smolalign.chat.render import render_prompt
from smolalign.chat.session import ENDS, tell
from smolalign.chat.template import SMOLLM2_SYSTEM
from smolalign.chat.terminal import visible
from smolalign.errors import UserError
from smolalign.model import load_model, load_tokenizer
from smolalign.rows import Message

# Longest reply unless told otherwise, in tokens; a quarter of the context where that is less.
LONGEST = 512
# Tokens that joining two texts may add beyond those of each.
MARGIN = 8
# Parts that are shorter than this, in tokens, are not worth asking about.
SHORTEST_PART = 16


@dataclass(frozen=True)
class Task:
    """What a model is asked to do with a text.

    Attributes:
        instruction: stands before the text, on a line of its own.
        system: the system turn that SmolTalk taught SmolLM2 for it; other models are not shown it.
    """

    instruction: str
    system: str = ""

    def ask(self, text: str) -> str:
        """The user's turn."""
        return f"{self.instruction}\n{text}"


@dataclass(frozen=True, slots=True)
class Written:
    """The text of a reply, and why it ended before its end; empty where it did not."""

    text: str
    early: str

    def told(self) -> bool:
        """Whether it came to its end; else why not is told."""
        if self.early:
            tell(self.early)
        return not self.early


class Writer:
    """A chat model that answers single requests.

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """

    def __init__(self, wishes: Wishes) -> None:
        try:
            self._tokenizer: Any = load_tokenizer(wishes.model)
            if not self._tokenizer.chat_template:
                raise UserError(f"{wishes.model} has no chat template", mend="use a model that a smolalign step made")
            if is_adapter(Path(wishes.model)):
                tell(merging(Path(wishes.model)))
            self._model = load_model(wishes.model).eval()
        except UserError as error:
            if wishes.model != DEFAULT_MODEL:
                raise
            mend = "name another with --model: a checkpoint or adapter folder, a .gguf file or a Hub id"
            raise UserError(f"{error.what} (the default model)", mend=mend) from None
        self._wishes = wishes
        self.positions = positions(self._model)
        self.longest = wishes.max_new_tokens or min(LONGEST, self.positions // 4)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def room(self, task: Task) -> int:
        """Tokens that are left for a text and the reply to it. Raises UserError where that is next to nothing."""
        left = self.positions - len(self._prompt(task.ask(""), task.system)) - MARGIN
        if left < 2 * SHORTEST_PART:
            raise UserError(f"the model reads {self.positions} tokens at most, and the instruction takes nearly all")
        return left

    def part_size(self, task: Task) -> int:
        """Tokens of a text that one request may bring beside the longest reply. Raises UserError where none fit."""
        size = self.room(task) - self.longest
        if size < SHORTEST_PART:
            what = (
                f"replies of {self.longest} tokens leave no room for a text: the model reads {self.positions} at most"
            )
            raise UserError(what, mend="give a smaller --max-new-tokens")
        return size

    def fits(self, request: str) -> bool:
        """Whether a request and the longest reply fit into the model's context."""
        return len(self._prompt(request, "")) + self.longest <= self.positions

    def write(
        self,
        request: str,
        say: Callable[[str], None],
        *,
        system: str = "",
        longest: int | None = None,
        held_to: Grammar | None = None,
    ) -> Written:
        """The reply to a request, said as it is made.

        Args:
            longest: in tokens, where it is not what all replies have.

        Raises:
            UserError: the request and the longest reply do not fit into the model's context.
            KeyboardInterrupt: it was stopped.
        """
        prompt, most = self._prompt(request, system), longest or self.longest
        if len(prompt) + most > self.positions:
            raise UserError(
                f"the text and its instruction are {len(prompt)} tokens long, and the model reads {self.positions} "
                f"at most, {most} of them for its reply",
                mend="shorten the text, or give a smaller --max-new-tokens",
            )
        torch.manual_seed(self._wishes.seed)
        reply = write_reply(
            self._model,
            self._tokenizer,
            prompt,
            say,
            max_new_tokens=most,
            temperature=self._wishes.temperature,
            held_to=held_to.processor(self._tokenizer) if held_to else None,
        )
        if reply.ended == "interrupted":
            raise KeyboardInterrupt
        return Written(reply.text, "" if reply.ended == "stop" else ENDS[reply.ended].format(most=most))

    def _prompt(self, request: str, system: str) -> list[int]:
        shown = system if SMOLLM2_SYSTEM in self._tokenizer.chat_template else ""
        messages = [Message("system", shown)] if shown else []
        return render_prompt(self._tokenizer, [*messages, Message("user", request)])


def show(text: str) -> None:
    """Write a piece of a reply to standard output."""
    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)


def silent(_: str) -> None:
    """Write nothing."""
