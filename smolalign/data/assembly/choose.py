"""Which of all prepared rows stay, how often, and on which side: decided in one process, from arrays alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smolalign.data.assembly import near
from smolalign.data.assembly.balance import length_balanced
from smolalign.data.assembly.plan import Plan
from smolalign.data.assembly.reasons import BALANCE, EQUAL, NEAR, NOT_DRAWN, OVER_MAX_ROWS
from smolalign.data.assembly.staging import held_out, mixed, read_arrays, read_notes
from smolalign.errors import UserError

REASONS = (EQUAL, NEAR, BALANCE, NOT_DRAWN, OVER_MAX_ROWS)


@dataclass(frozen=True, slots=True)
class Rows:
    """All prepared rows, unit after unit in staged order, as arrays of one length.

    Attributes:
        unit, place: where a row is staged.
        source: number of its source.
        order: all rows, those that stay when others are duplicates of them before those.
        arrays: of `staging.read_arrays`.
    """

    unit: np.ndarray
    place: np.ndarray
    source: np.ndarray
    order: np.ndarray
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of each of `Rows`.

    Attributes:
        copies: uint16, how often a row stands in `train`; 0 where it was dropped or is held out.
        test: bool, held out.
        reason: int8, which of REASONS it was dropped for, or -1.
        duplicate_of: int64, the row that it duplicates, or -1.
    """

    copies: np.ndarray
    test: np.ndarray
    reason: np.ndarray
    duplicate_of: np.ndarray


def gather_rows(plan: Plan, work: Path) -> Rows:
    """The arrays of all units. Raises UserError if no unit kept a row."""
    units = [(number, found) for number in range(len(plan.units)) if (found := read_arrays(work, number)) is not None]
    if not units:
        raise _nothing_left(plan, work)
    sizes = [len(found["key"]) for _, found in units]
    arrays = {field: np.concatenate([found[field] for _, found in units]) for field in units[0][1]}
    unit = np.repeat(np.array([number for number, _ in units], dtype=np.int32), sizes)
    place = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    source = np.array([item.source for item in plan.units], dtype=np.int16)[unit]
    priority = np.array([item.priority for item in plan.assembly.sources])[source]
    order = np.lexsort((arrays["index"], unit, source, -priority))
    return Rows(unit, place, source, order, arrays)


def _nothing_left(plan: Plan, work: Path) -> UserError:
    counts: Counter[str] = Counter()
    for number in range(len(plan.units)):
        counts.update({reason: rows for reason, (rows, _) in read_notes(work, number).tally.dropped.items()})
    reasons = ", ".join(f"{reason}: {rows}" for reason, rows in counts.most_common())
    return UserError(f"no row is left of {counts.total()} ({reasons or 'none read'})", mend="loosen the filters")


def choose(plan: Plan, rows: Rows, work: Path) -> Choice:
    """Drop duplicates, balance, draw and split.

    Raises:
        UserError: a weight takes no row of a source, or a side that should hold rows holds none.
    """
    count = len(rows.order)
    reason = np.full(count, -1, dtype=np.int8)
    duplicate_of = np.full(count, -1, dtype=np.int64)
    if plan.assembly.deduplicate is not None:
        _drop_equal(rows, reason, duplicate_of)
        if plan.assembly.deduplicate.near is not None:
            _drop_near(plan, rows, work, reason, duplicate_of)
    copies = np.zeros(count, dtype=np.uint16)
    for number in range(len(plan.assembly.sources)):
        own = np.flatnonzero((rows.source == number) & (reason < 0))
        _draw(plan, number, own, rows, reason, copies)
    test = (copies > 0) & held_out(rows.arrays["prompt"], plan.assembly.test_fraction, plan.assembly.seed)
    copies[test] = 0
    _require_both_sides(plan, int(copies.sum()), int(test.sum()))
    return Choice(copies, test, reason, duplicate_of)


def _drop_equal(rows: Rows, reason: np.ndarray, duplicate_of: np.ndarray) -> None:
    same = rows.arrays["same"][rows.order]
    _, first, which = np.unique(same, return_index=True, return_inverse=True)
    earlier = first[which]
    again = earlier != np.arange(len(same))
    reason[rows.order[again]] = REASONS.index(EQUAL)
    duplicate_of[rows.order[again]] = rows.order[earlier[again]]


def _drop_near(plan: Plan, rows: Rows, work: Path, reason: np.ndarray, duplicate_of: np.ndarray) -> None:
    again = plan.assembly.deduplicate
    assert again is not None
    assert again.near is not None
    alive = rows.order[reason[rows.order] < 0]
    staged = _StagedSignatures(rows, alive, work, len(plan.units))
    found = near.near_duplicates(staged.block, staged.shingles, len(alive), again.near, again.permutations)
    removed = np.flatnonzero(found >= 0)
    reason[alive[removed]] = REASONS.index(NEAR)
    duplicate_of[alive[removed]] = alive[found[removed]]


class _StagedSignatures:
    """Signatures and shingles of chosen rows, read from the units' memory-mapped files as they are asked for."""

    def __init__(self, rows: Rows, chosen: np.ndarray, work: Path, units: int) -> None:
        self._unit, self._place = rows.unit[chosen], rows.place[chosen]
        stems = [work / f"unit-{number:05}" for number in range(units)]
        self._signatures, self._shingles, self._offsets = (
            [np.load(file, mmap_mode="r") if (file := stem.with_suffix(suffix)).is_file() else None for stem in stems]
            for suffix in (".signatures.npy", ".shingles.npy", ".offsets.npy")
        )
        self._by_unit = np.argsort(self._unit, kind="stable")
        self._starts = np.searchsorted(self._unit[self._by_unit], np.arange(units + 1))

    def block(self, start: int, stop: int) -> np.ndarray:
        """Permutations `start` to before `stop` of all rows: uint32 [rows, stop - start]."""
        out = np.empty((len(self._unit), stop - start), dtype=np.uint32)
        for number, signatures in enumerate(self._signatures):
            own = self._by_unit[self._starts[number] : self._starts[number + 1]]
            if len(own):
                assert signatures is not None
                out[own] = signatures[start:stop][:, self._place[own]].T
        return out

    def shingles(self, row: int) -> np.ndarray:
        """The sorted shingles of a row: uint32."""
        number, place = self._unit[row], self._place[row]
        shingles, offsets = self._shingles[number], self._offsets[number]
        assert shingles is not None
        assert offsets is not None
        return np.asarray(shingles[offsets[place] : offsets[place + 1]])


def _draw(plan: Plan, number: int, own: np.ndarray, rows: Rows, reason: np.ndarray, copies: np.ndarray) -> None:
    """Set the copies of the rows of one source, and the reason of those that get none."""
    source, name = plan.assembly.sources[number], plan.assembly.names[number]
    if source.pairs.length_balanced and len(own):
        stays = length_balanced(rows.arrays["longer"][own], rows.arrays["content"][own])
        reason[own[~stays]] = REASONS.index(BALANCE)
        own = own[stays]
    if not len(own):
        return
    weight = 1.0 if source.weight is None else source.weight
    drawn = round(weight * len(own))
    if not drawn:
        raise UserError(f"weight {weight:g} of {len(own)} rows takes no row", where=name, mend="raise the weight")
    capped = min(drawn, source.max_rows or drawn)
    # Rows of equal content differ by their place in the source, which lexsort's last key keeps.
    rank = np.empty(len(own), dtype=np.int64)
    by_place = (rows.arrays["index"][own], rows.unit[own])
    rank[np.lexsort((*by_place, mixed(rows.arrays["content"][own], f"{plan.assembly.seed} sample {name}")))] = (
        np.arange(len(own))
    )
    each, rest = divmod(capped, len(own))
    copies[own] = (each + (rank < rest)) * source.repeat
    reason[own[(rank >= drawn)]] = REASONS.index(NOT_DRAWN)
    reason[own[(rank >= capped) & (rank < drawn)]] = REASONS.index(OVER_MAX_ROWS)


def _require_both_sides(plan: Plan, train: int, test: int) -> None:
    fraction = plan.assembly.test_fraction
    if not train and test:
        raise UserError(f"test_fraction {fraction} leaves no row to train on", mend="lower it")
    if fraction and not test:
        raise UserError(f"test_fraction {fraction} of {train} rows holds out none", mend="raise it")


def examples_of(rows: Rows, choice: Choice, source: int, reason: int, limit: int) -> Sequence[int]:
    """The first rows of a source that were dropped for one of REASONS."""
    return [int(row) for row in np.flatnonzero((rows.source == source) & (choice.reason == reason))[:limit]]
