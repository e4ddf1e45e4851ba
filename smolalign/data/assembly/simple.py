"""The short and simple rows that models below 1B learn from.

smol-smoltalk, which SmolLM2-135M and 360M were trained on, is SmolTalk with shorter conversations, without function
calls and without advanced mathematics (its dataset card). The limits are ours.
"""

from __future__ import annotations

import re

from smolalign.data.assembly.text import turns_of
from smolalign.data.assembly.words import words_of
from smolalign.rows import Document, Row

# Three exchanges, and what fits 1,024 tokens with room for a system turn.
MAX_TURNS = 6
MAX_WORDS = 700
_MATHEMATICS = re.compile(r"\\(?:boxed|frac|sqrt|sum|int|begin|left|cdot|mathbb|mathrm)\b|\$\$|\\\[")
_TOOLS = re.compile(r"<tool_call>|<tools>")


def too_hard(row: Row) -> str:
    """Why a row is not short and simple, or an empty string."""
    turns = turns_of(row)
    if not isinstance(row, Document) and row.tools:
        return "tools"
    if len([turn for turn in turns if turn.role != "system"]) > MAX_TURNS:
        return f"over {MAX_TURNS} turns"
    if any(turn.tool_calls is not None or _TOOLS.search(turn.content) for turn in turns):
        return "tools"
    if any(_MATHEMATICS.search(turn.content) for turn in turns):
        return "advanced mathematics"
    return f"over {MAX_WORDS} words" if sum(len(words_of(turn.content)) for turn in turns) > MAX_WORDS else ""
