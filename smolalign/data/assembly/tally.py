"""Counts of rows and tokens in, dropped and kept, with examples; plain data that adds up over parts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from smolalign.data.assembly.reasons import in_stages

EXAMPLES = 10
EXAMPLE_CHARACTERS = 800
# Lengths in tokens, from 0; the last bin has no end.
LENGTH_EDGES = [0, *(32 << power for power in range(11))]


@dataclass(slots=True)
class Tally:
    """Counts of one source, or of one part of it.

    Attributes:
        format: the records' format.
        rows_in: rows that the records hold; one that becomes no row counts as one.
        tokens_in: tokens of these rows.
        dropped: `[rows, tokens]` by reason. `rows_in` is their sum and the rows that are kept.
        lengths: rows in by length, as many as LENGTH_EDGES.
        examples: up to ten of the rows dropped, by reason.
        scores: rows by the score that `filters.quality` saw, from 0 to 5; empty where it saw none.
        made: rows in by the negatives that were made of them, where a source asks for any.
    """

    format: str = ""
    rows_in: int = 0
    tokens_in: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=lambda: [0] * len(LENGTH_EDGES))
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    scores: list[int] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=dict)

    def take(self, tokens: int) -> None:
        """Count a row in."""
        self.rows_in += 1
        self.tokens_in += tokens
        self.lengths[length_bin(tokens)] += 1

    def drop(self, reason: str, tokens: int, rows: int = 1) -> None:
        """Count rows that were taken in as dropped."""
        count = self.dropped.setdefault(reason, [0, 0])
        count[0] += rows
        count[1] += tokens

    def show(self, reason: str, origin: str, detail: str, text: str) -> None:
        """Keep a dropped row as an example, unless there are enough."""
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            cut = text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS] + "…"
            shown.append({"origin": origin, "detail": detail, "text": cut})

    def count_scores(self, scores: Sequence[int]) -> None:
        """Count rows by their scores."""
        self.scores = [a + b for a, b in zip_longest(self.scores, scores, fillvalue=0)]

    def add(self, other: Tally) -> None:
        """Add the counts of another part of the same source."""
        self.format = self.format or other.format
        self.rows_in += other.rows_in
        self.tokens_in += other.tokens_in
        self.lengths = [a + b for a, b in zip(self.lengths, other.lengths, strict=True)]
        self.count_scores(other.scores)
        for reason, (rows, tokens) in other.dropped.items():
            self.drop(reason, tokens, rows)
        for reason, shown in other.examples.items():
            self.examples[reason] = [*self.examples.get(reason, []), *shown][:EXAMPLES]
        for name, rows in other.made.items():
            self.made[name] = self.made.get(name, 0) + rows

    def in_order(self) -> dict[str, dict[str, int]]:
        """What was dropped, by reason, in the order in which it came about."""
        return {
            reason: dict(zip(("rows", "tokens"), self.dropped[reason], strict=True))
            for reason in in_stages([self.dropped])
        }

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them; `Tally(**fields)` gives them back."""
        return asdict(self)


def length_bin(tokens: int) -> int:
    """The bin of LENGTH_EDGES that a length falls in."""
    return bisect_right(LENGTH_EDGES, tokens) - 1
