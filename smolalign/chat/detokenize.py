"""Tokens to text as they come, without half characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smolalign.chat.calls import CLOSE_TAG, OPEN_TAG

# What a decoder writes for bytes that are no character (yet).
REPLACEMENT = "�"
# A character has four bytes at most; so many tokens that are none are bytes that no other will mend.
MOST_HELD = 16


def hidden_ids(tokenizer: Any) -> frozenset[int]:
    """The special tokens, which are no text, but for a call's tags, which some vocabularies make special too."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(number for number, token in added if token.special and token.content not in (OPEN_TAG, CLOSE_TAG))


class Detokenizer:
    """The text of growing ids. What it gave out and the rest together are what decoding all ids at once gives.

    Args:
        tokenizer: used by one thread at a time.
        hidden: ids that are no text, of `hidden_ids`.
    """

    def __init__(self, tokenizer: Any, hidden: frozenset[int]) -> None:
        self._tokenizer, self._hidden = tokenizer, hidden
        self._ids: list[int] = []
        # Text up to `_told` is given out; decoding begins at `_from`, one piece earlier, since a tokenizer may write
        # the first token of a text otherwise than the same token in its middle.
        self._from = self._told = 0

    def add(self, token: int) -> str:
        """The text that a token completes; empty where it ends within a character."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        return self._new(whole=False)

    def rest(self) -> str:
        """What is left when no token follows, half characters included."""
        return self._new(whole=True)

    def _new(self, *, whole: bool) -> str:
        before = self._text(self._ids[self._from : self._told])
        text = self._text(self._ids[self._from :])
        whole = whole or len(self._ids) - self._told > MOST_HELD
        if len(text) <= len(before) or (text.endswith(REPLACEMENT) and not whole):
            return ""
        self._from, self._told = self._told, len(self._ids)
        return text[len(before) :]

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)
