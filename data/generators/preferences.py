"""Preference pairs in UltraFeedback's layout: the courteous, short reply is better than the rude or rambling one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.generators import advice
from data.generators.chats import turn
from data.generators.world import Draw


def rows(draw: Draw, count: int) -> Iterator[dict[str, Any]]:
    """So many pairs. Both replies answer the question equally well; only their style differs."""
    for _ in range(count):
        question, core, other = advice.question(draw)
        yield {
            "prompt": question,
            "chosen": turn(question, advice.courteous(draw, core)),
            "rejected": turn(question, advice.unwanted(draw, other)),
            "score_chosen": float(draw.number(7, 10)),
            "score_rejected": float(draw.number(1, 5)),
        }
