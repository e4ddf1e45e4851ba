"""How many of a model's calls are well-formed, free and held to their grammar, and what holding them costs.

python -m benchmarks.constrained MODEL ROWS [--rows 24] [--max-new-tokens 128]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch

from smolalign.chat.calls import parse_reply
from smolalign.chat.generation import write_reply
from smolalign.chat.grammar import Grammar, dialect_of, tool_calls
from smolalign.chat.render import render_prompt
from smolalign.chat.run_tools import flaw
from smolalign.chat.tools import ToolBox
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.model import load_model, load_tokenizer
from smolalign.rows import Chat


def tasks(source: str, most: int, dialect: Any) -> tuple[list[tuple[Chat, Grammar]], int]:
    """Rows with a user's turn and tools, with the grammar that asks for a call; and how many no grammar could hold."""
    out, refused = [], 0
    for row in load_rows(source, "chat").rows:
        if isinstance(row, Chat) and row.tools and len(out) < most:
            try:
                out.append((row, tool_calls(row.tools, required=True, dialect=dialect)))
            except UserError:
                refused += 1
    return out, refused


def is_well_formed(text: str, tools: Sequence[dict[str, Any]]) -> bool:
    """Whether a reply is calls of the tools, each with arguments by its schema."""
    read = parse_reply(text, tools)
    box = ToolBox(tuple(tools), {tool["name"]: lambda **_: None for tool in tools})
    return bool(read.calls) and all(flaw(call, box) is None for call in read.calls or ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    options = parser.parse_args()
    tokenizer, model = load_tokenizer(options.model), load_model(options.model).eval()
    todo, refused = tasks(options.source, options.rows, dialect_of(tokenizer))
    if not todo:
        raise SystemExit("no rows with tools")
    print(f"{len(todo)} rows; {refused} more whose schemas no grammar holds\n")
    print("| | well-formed | cut off | ms a token |\n|---|---|---|---|")
    for name in ("free", "held to the grammar"):
        good, cut, tokens, began = 0, 0, 0, time.perf_counter()
        for row, grammar in todo:
            first = next(index for index, turn in enumerate(row.messages) if turn.role == "user")
            prompt = render_prompt(tokenizer, row.messages[: first + 1], row.tools)
            held_to = grammar.processor(tokenizer) if name != "free" else None
            torch.manual_seed(0)
            reply = write_reply(
                model,
                tokenizer,
                prompt,
                lambda _: None,
                max_new_tokens=options.max_new_tokens,
                temperature=0,
                held_to=held_to,
            )
            good, cut = good + is_well_formed(reply.text, row.tools), cut + (reply.ended != "stop")
            tokens += len(tokenizer.encode(reply.text, add_special_tokens=False))
        cost = 1000 * (time.perf_counter() - began) / tokens
        print(f"| {name} | {good / len(todo):.0%} | {cut / len(todo):.0%} | {cost:.1f} |")


if __name__ == "__main__":
    main()
