"""The chosen rows, shuffled, as Parquet shards. Each shard is one worker's task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smolalign.data.assembly.choose import Choice, Rows
from smolalign.data.assembly.documents import TextDigest
from smolalign.data.assembly.plan import Plan
from smolalign.data.assembly.staging import bucket_of, mixed, read_bucket, read_notes
from smolalign.data.formats.fields import ORIGIN_COLUMN
from smolalign.store import read_json, write_json

_ROWS_PER_SHARD = 50_000
_ROWS_PER_GROUP = 1000
_FILE = "choice.npz"
_SHARDS = "shards.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of rows to write: the rows of some neighbouring buckets of one split, of one source where it has one."""

    file: str
    split: str
    first_bucket: int
    last_bucket: int
    rows: int
    source: int | None = None


def save_choice(plan: Plan, rows: Rows, choice: Choice, work: Path) -> list[Shard]:
    """Write down for the workers what stays, and which shards there will be."""
    temporary = work / f".{_FILE}.tmp.npz"
    starts = np.searchsorted(rows.unit, np.arange(len(plan.units) + 1))
    np.savez(temporary, copies=choice.copies, test=choice.test, key=rows.arrays["key"], starts=starts)
    os.replace(temporary, work / _FILE)
    # Pretraining mixes its sources anew in every stage, so each source's documents have shards of their own.
    apart = plan.assembly.kind == "document"
    sources: list[int | None] = list(range(len(plan.assembly.sources))) if apart else [None]
    shards = [shard for split in ("train", "test") for shard in _shards(plan, split, sources, rows, choice)]
    write_json(work / _SHARDS, {"shards": [list(astuple(shard)) for shard in shards]})
    return shards


def read_shards(work: Path) -> list[Shard] | None:
    """The shards that were decided on, or None where that has not been done."""
    found = read_json(work / _SHARDS)
    return None if found is None else [Shard(*item) for item in found["shards"]]


def _shards(plan: Plan, split: str, sources: Sequence[int | None], rows: Rows, choice: Choice) -> list[Shard]:
    """The shards of a split, those of one source after those of another where sources are kept apart."""
    spans = []
    for source in sources:
        own = slice(None) if source is None else rows.source == source
        copies = (choice.test if split == "test" else choice.copies)[own].astype(np.uint16)
        counts = _rows_in_buckets(bucket_of(rows.arrays["key"][own], plan.buckets), copies, plan.buckets)
        spans += [(*span, source) for span in _spans(counts)]
    return [Shard(f"{split}-{number:05}-of-{len(spans):05}.parquet", split, *span) for number, span in enumerate(spans)]


def _rows_in_buckets(bucket: np.ndarray, copies: np.ndarray, buckets: int) -> np.ndarray:
    """How many rows each bucket will have; the copies of a row stand in the buckets after its own."""
    counts = np.zeros(buckets, dtype=np.int64)
    for copy in range(int(copies.max(initial=0))):
        counts += np.roll(np.bincount(bucket[copies > copy], minlength=buckets), copy)
    return counts


def _spans(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Neighbouring buckets together until a shard has its rows: first and last bucket, and rows."""
    spans: list[tuple[int, int, int]] = []
    first = rows = 0
    for bucket, count in enumerate(counts):
        if rows and rows + count > _ROWS_PER_SHARD:
            spans.append((first, bucket - 1, rows))
            first, rows = bucket, 0
        rows += int(count)
    if rows:
        spans.append((first, len(counts) - 1, rows))
    return spans


def write_shard(plan: Plan, shard: Shard, work: Path, target: Path) -> None:
    """Write one shard into the folder `target`, unless it is there."""
    if (target / shard.file).is_file():
        return
    with np.load(work / _FILE) as found:
        choice = {name: found[name] for name in found.files}
    groups = [
        read_notes(work, number).groups if shard.source in (None, unit.source) else []
        for number, unit in enumerate(plan.units)
    ]
    content = TextDigest()
    target.mkdir(parents=True, exist_ok=True)
    temporary = target / f".{shard.file}.tmp"
    writer = None
    try:
        for bucket in range(shard.first_bucket, shard.last_bucket + 1):
            table = _bucket_rows(plan, shard.split, bucket, choice, groups, work)
            if table is not None:
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
                if shard.source is not None:
                    content.add(table)
        assert writer is not None
        if shard.source is not None:
            writer.add_key_value_metadata(content.metadata())
        writer.close()
        os.replace(temporary, target / shard.file)
    finally:
        temporary.unlink(missing_ok=True)


def _bucket_rows(
    plan: Plan, split: str, bucket: int, choice: dict[str, np.ndarray], groups: list[list[int]], work: Path
) -> pa.Table | None:
    """The rows of one bucket in their shuffled order; the copies of a row stand in the buckets after its own."""
    tables: list[pa.Table] = []
    keys: list[np.ndarray] = []
    most = int(choice["copies"].max(initial=0)) if split == "train" else 1
    for copy in range(most):
        home = (bucket - copy) % plan.buckets
        for number, own in enumerate(groups):
            if home not in own:
                continue
            places = _places(choice, number, home, plan.buckets)
            wanted = choice["test"][places] if split == "test" else choice["copies"][places] > copy
            if not wanted.any():
                continue
            tables.append(read_bucket(work, number, own.index(home)).filter(pa.array(wanted)))
            keys.append(mixed(choice["key"][places][wanted], f"copy {copy}"))
    if not tables:
        return None
    whole = pa.concat_tables(tables).take(np.argsort(np.concatenate(keys), kind="stable"))
    return _without_folders(whole)


def _places(choice: dict[str, np.ndarray], number: int, bucket: int, buckets: int) -> slice:
    """Where a unit's rows of a bucket lie among all rows: units are staged by bucket."""
    start, end = choice["starts"][number], choice["starts"][number + 1]
    of_rows = bucket_of(choice["key"][start:end], buckets)
    return slice(start + np.searchsorted(of_rows, bucket), start + np.searchsorted(of_rows, bucket, side="right"))


def _without_folders(table: pa.Table) -> pa.Table:
    """Origins such as `chats.jsonl:12`: a step's output, whose digest decides whether later steps run again, must not
    depend on the folder that its sources lie in."""
    place = table.schema.get_field_index(ORIGIN_COLUMN)
    shortened = pc.replace_substring_regex(table.column(place), r"^/(?:[^/]*/)*", "")
    return table.set_column(place, table.schema.field(place), shortened)
