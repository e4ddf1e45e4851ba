"""Mixing sources by weight, and splitting rows into train and test, so that each row's fate depends on little else."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Row


def mix(sources: Sequence[tuple[str, Sequence[Row], float | None, int | None]], seed: int) -> list[Row]:
    """Draws from `(name, rows, weight, max_rows)` sources and shuffles the whole.

    `weight` is how often a source's rows are seen: 0.25 is a random quarter, 2 every row twice, 1.5 all once and a
    random half twice; `None` is 1. `max_rows` then caps the number drawn, evenly: no row is seen twice before all
    are seen once. Which rows a source gives depends on the seed, its name and its rows only, and a smaller draw is
    part of a larger one. Raises UserError for a weight or cap that draws nothing, and for two sources of one name.
    """
    seen: set[str] = set()
    drawn: list[Row] = []
    for name, rows, weight, max_rows in sources:
        if name in seen:
            raise UserError(f'two sources are named "{name}"', mend="give one source a larger weight instead")
        seen.add(name)
        drawn.extend(_draw(name, rows, weight, max_rows, seed))
    _random(seed, "shuffle").shuffle(drawn)
    return drawn


def _draw(name: str, rows: Sequence[Row], weight: float | None, max_rows: int | None, seed: int) -> list[Row]:
    if weight is not None and not (math.isfinite(weight) and weight > 0):
        raise UserError(f"weight must be a number above 0, not {weight}", where=name)
    if max_rows is not None and max_rows < 1:
        raise UserError(f"max_rows must be at least 1, not {max_rows}", where=name)
    total = round((1.0 if weight is None else weight) * len(rows))
    if rows and not total:
        raise UserError(f"weight {weight} of {len(rows)} rows takes no row", where=name, mend="raise the weight")
    total = total if max_rows is None else min(total, max_rows)
    order = list(range(len(rows)))
    _random(seed, f"source {name}").shuffle(order)
    return [rows[order[index % len(rows)]] for index in range(total)]


def split_rows(rows: Sequence[Row], test_fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """`(train, test)` by a hash of each row's first user turn (a document's text), order kept.

    Rows of equal prompts stand on the same side, and a row's side never depends on other rows. `test_fraction` (0 to
    below 1) is therefore met only about. Raises UserError if it is out of range.
    """
    if not 0 <= test_fraction < 1:
        raise UserError(f"test_fraction must be from 0 to below 1, not {test_fraction}")
    train: list[Row] = []
    test: list[Row] = []
    for row in rows:
        (test if _share(_split_key(row), seed) < test_fraction else train).append(row)
    return train, test


def _split_key(row: Row) -> str:
    if isinstance(row, Document):
        return row.text
    messages = row.messages if isinstance(row, Chat) else row.prompt
    return next((message.content for message in messages if message.role == "user"), messages[0].content)


def _share(key: str, seed: int) -> float:
    """A number from 0 to below 1 that depends on `key` and `seed` only."""
    return int.from_bytes(_digest(seed, f"split {key}")[:6]) / 2**48


def _random(seed: int, purpose: str) -> random.Random:
    return random.Random(_digest(seed, purpose))


def _digest(seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed} {purpose}".encode()).digest()
