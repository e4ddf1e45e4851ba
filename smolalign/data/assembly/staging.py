"""Prepared rows on disk, unit by unit, until it is known which of them stay.

A unit's rows lie in one Arrow file, those of each bucket in a record batch of its own. A bucket is a stretch of the
shuffled whole: its rows have keys from `bucket / buckets` to before `(bucket + 1) / buckets`. What is needed to choose
lies beside them in NumPy arrays in the same order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smolalign.data.assembly.plan import Plan
from smolalign.data.assembly.tally import Tally
from smolalign.data.assembly.words import Hashes
from smolalign.store import read_json, write_json

_ROWS = ".arrow"
_ARRAYS = ("content", "same", "prompt", "key", "tokens", "longer", "index")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is broken: where, why, in words that are the same for all such records, and in its own."""

    origin: str
    reason: str
    what: str
    record: Any


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows of a batch.

    Attributes:
        table: the rows, as `rows_table` gives them.
        content: uint64 [rows], a hash of all that the row holds.
        same: uint64 [rows], a hash of what makes two rows equal.
        prompt: uint64 [rows], a hash of the first user turn.
        tokens: uint32 [rows].
        longer: int32 [rows], words by which a pair's chosen answer is longer.
        signatures: uint32 [rows, permutations], or None.
        shingles: of each row, or None.
    """

    table: pa.Table
    content: np.ndarray
    same: np.ndarray
    prompt: np.ndarray
    tokens: np.ndarray
    longer: np.ndarray
    signatures: np.ndarray | None
    shingles: Hashes | None


def unit_is_staged(work: Path, number: int) -> bool:
    """Whether a unit has been prepared in whole."""
    return (work / f"unit-{number:05}.json").is_file()


def write_unit(
    work: Path,
    number: int,
    batches: Sequence[Staged],
    plan: Plan,
    tally: Tally,
    rejected: Sequence[Rejected],
    hits: Sequence[dict[str, str]],
) -> None:
    """Write a unit's rows, arrays and counts; the counts last, which makes it whole."""
    stem = work / f"unit-{number:05}"
    groups: list[int] = []
    if batches:
        name = plan.assembly.names[plan.units[number].source]
        arrays = {field: np.concatenate([getattr(b, field) for b in batches]) for field in _ARRAYS[:3] + _ARRAYS[4:6]}
        # Streams put documents into an order of their own: here it depends on them alone, so that they are the same
        # shards, and are tokenized once, whatever the seed is and whatever they are called.
        order_by = "documents" if plan.assembly.kind == "document" else f"{plan.assembly.seed} source {name}"
        arrays["key"] = mixed(arrays["content"], order_by)
        arrays["index"] = np.arange(len(arrays["key"]), dtype=np.uint32)
        bucket = bucket_of(arrays["key"], plan.buckets)
        order = np.argsort(bucket, kind="stable")
        groups = _write_table(stem, pa.concat_tables([b.table for b in batches]).take(order), bucket[order])
        sorted_arrays: Any = {field: values[order] for field, values in arrays.items()}
        np.savez(_temporary(stem, ".npz"), **sorted_arrays)
        os.replace(_temporary(stem, ".npz"), stem.with_suffix(".npz"))
        if batches[0].signatures is not None:
            _write_signatures(stem, batches, order)
    write_json(
        stem.with_suffix(".json"),
        {
            "tally": tally.as_json(),
            "groups": groups,
            "rejected": [asdict(item) for item in rejected],
            "contaminated": list(hits),
        },
    )


def _write_table(stem: Path, table: pa.Table, bucket: np.ndarray) -> list[int]:
    """Write the rows, sorted by bucket; returns the bucket of each record batch."""
    buckets, starts = np.unique(bucket, return_index=True)
    ends = [*starts[1:], len(bucket)]
    temporary = _temporary(stem, _ROWS)
    with pa.ipc.new_file(temporary, table.schema) as writer:
        for start, end in zip(starts, ends, strict=True):
            writer.write_table(table.slice(start, end - start).combine_chunks())
    os.replace(temporary, stem.with_suffix(_ROWS))
    return [int(number) for number in buckets]


def read_bucket(work: Path, number: int, place: int) -> pa.Table:
    """The rows of a unit in the bucket that stands at `place` in its notes' `groups`."""
    with pa.memory_map(str(work / f"unit-{number:05}{_ROWS}")) as file:
        return pa.Table.from_batches([pa.ipc.open_file(file).get_batch(place)])


def read_row(work: Path, number: int, place: int) -> dict[str, Any]:
    """One row of a unit as it was staged, by its place among all of them."""
    with pa.memory_map(str(work / f"unit-{number:05}{_ROWS}")) as file:
        batches = pa.ipc.open_file(file)
        for group in range(batches.num_record_batches):
            batch = batches.get_batch(group)
            if place < len(batch):
                record: dict[str, Any] = batch.slice(place, 1).to_pylist()[0]
                return record
            place -= len(batch)
    raise IndexError(f"unit {number} has {place} rows too few")


def _write_signatures(stem: Path, batches: Sequence[Staged], order: np.ndarray) -> None:
    """Signatures lie [permutations, rows], so that a band is one stretch of the file."""
    signatures = np.concatenate([b.signatures for b in batches if b.signatures is not None])[order]
    parts = [b.shingles for b in batches if b.shingles is not None]
    each = [part.of(row) for part in parts for row in range(len(part))]
    counts = np.array([len(each[row]) for row in order], dtype=np.int64)
    np.save(stem.with_suffix(".signatures.npy"), np.ascontiguousarray(signatures.T))
    np.save(stem.with_suffix(".shingles.npy"), np.concatenate([each[row] for row in order]).astype(np.uint32))
    np.save(stem.with_suffix(".offsets.npy"), np.concatenate([[0], np.cumsum(counts)]))


def _temporary(stem: Path, suffix: str) -> Path:
    return stem.with_name(f".{stem.name}.tmp{suffix}")


@dataclass(frozen=True, slots=True)
class UnitNotes:
    """What a unit's rows were counted as."""

    tally: Tally
    groups: list[int]
    rejected: list[Rejected]
    contaminated: list[dict[str, str]]


def read_notes(work: Path, number: int) -> UnitNotes:
    """The counts of a unit that has been prepared."""
    found = read_json(work / f"unit-{number:05}.json")
    assert found is not None
    rejected = [Rejected(**item) for item in found["rejected"]]
    return UnitNotes(Tally(**found["tally"]), found["groups"], rejected, found["contaminated"])


def read_arrays(work: Path, number: int) -> dict[str, np.ndarray] | None:
    """The arrays of a unit, or None where it kept no row."""
    file = work / f"unit-{number:05}.npz"
    if not file.is_file():
        return None
    with np.load(file) as found:
        return {field: found[field] for field in _ARRAYS}


def bucket_of(key: np.ndarray, buckets: int) -> np.ndarray:
    """The bucket of each key: which of `buckets` equal stretches of all 64-bit numbers it lies in."""
    return ((key >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


def held_out(prompts: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which rows a split holds out, as booleans, by the hashes of their first prompts: uint64, of any shape."""
    return mixed(prompts, f"{seed} split") / 2.0**64 < fraction


def mixed(values: np.ndarray, purpose: str) -> np.ndarray:
    """64-bit hashes hashed anew for a purpose (SplitMix64's finaliser, Steele et al. 2014)."""
    salt = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest())
    with np.errstate(over="ignore"):
        x = values + np.uint64(salt)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
