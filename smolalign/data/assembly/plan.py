"""What an assembly has to do: sources cut into parts, and how their rows will be spread over shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smolalign.data.load import source_format
from smolalign.data.records import Part, read_part, source_parts
from smolalign.data.sources import local_path
from smolalign.recipe.data import DataSource, Decontaminate, Deduplicate, Filters
from smolalign.recipe.schema import AssemblyStep
from smolalign.rows import RowKind
from smolalign.store import read_json, write_json

_FILE = "plan.json"
# Rows of a bucket, the stretch of the shuffled whole that is sorted at once.
_BUCKET_ROWS = 20_000
# Units of a bucket of documents, which may be books: 256 MB of them.
_BUCKET_UNITS = 16
# A guess for files whose rows are counted only by reading them.
_BYTES_PER_ROW = 2000


@dataclass(frozen=True, slots=True)
class Assembly:
    """What is to be assembled. `names` are the sources' short names, the same wherever the files lie."""

    sources: Sequence[DataSource]
    names: Sequence[str]
    kind: RowKind
    seed: int
    filters: Filters = field(default_factory=Filters)
    deduplicate: Deduplicate | None = None
    decontaminate: Decontaminate | None = None
    count_tokens_with: str | None = None
    test_fraction: float = 0.0
    max_rejected: float = 0.01

    def filters_of(self, source: int) -> Filters:
        """The filters of a source: its own, or else the step's."""
        own = self.sources[source].filters
        return self.filters if own is None else own


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source, which one worker prepares."""

    source: int
    part: Part

    @property
    def rows(self) -> int:
        """How many records it holds, about."""
        return self.part.records or Path(self.part.source).stat().st_size // _BYTES_PER_ROW


@dataclass(frozen=True, slots=True)
class Plan:
    """An assembly, the format of each source, the units of work, and the number of buckets that rows are dealt into."""

    assembly: Assembly
    formats: Sequence[str]
    units: Sequence[Unit]
    buckets: int


def assembly_of(step: AssemblyStep, kind: RowKind, names: Sequence[str]) -> Assembly:
    """The assembly that a step asks for."""
    return Assembly(
        step.data,
        names,
        kind,
        step.seed,
        step.filters,
        step.deduplicate,
        step.decontaminate,
        step.count_tokens_with,
        step.test_fraction,
        step.max_rejected,
    )


def make_plan(assembly: Assembly, work: Path) -> Plan:
    """Cut the sources into units, or read how they were cut by a run that was broken off.

    The folder belongs to this assembly alone: a step whose recipe or whose sources' content has changed begins with an
    empty one.

    Raises:
        UserError: a source is not there, cannot be read at all, or has no format that the step can use.
    """
    known = read_json(work / _FILE)
    if known:
        return Plan(assembly, known["formats"], [_unit(item) for item in known["units"]], known["buckets"])
    streamed = [_streamed(assembly, number) for number in range(len(assembly.sources))]
    formats = [
        source_format(source, assembly.kind, read_part(parts[0]) if parts else None)
        for source, parts in zip(assembly.sources, streamed, strict=True)
    ]
    units = [
        Unit(number, part)
        for number, (source, parts) in enumerate(zip(assembly.sources, streamed, strict=True))
        for part in parts
        or source_parts(source.source, config=source.config, split=source.split, revision=source.revision)
    ]
    buckets = sum(unit.rows for unit in units) // _BUCKET_ROWS
    if assembly.kind == "document":
        buckets = max(buckets, len(units) // _BUCKET_UNITS)
    plan = Plan(assembly, formats, units, max(1, buckets))
    work.mkdir(parents=True, exist_ok=True)
    write_json(
        work / _FILE, {"formats": formats, "buckets": plan.buckets, "units": [asdict(unit) for unit in plan.units]}
    )
    return plan


def _streamed(assembly: Assembly, number: int) -> list[Part]:
    """The parts of a source that is not downloaded; none where it is."""
    source = assembly.sources[number]
    if assembly.kind != "document" or local_path(source.source) is not None:
        return []
    from smolalign.data.hub_stream import big_split, streamed_parts

    split = big_split(source.source, source.config, source.split, source.revision)
    if split is None:
        return []
    draw = f"{assembly.seed} {assembly.names[number]}"
    return streamed_parts(source.source, source.config, split, most_rows=source.max_rows, draw=draw)


def _unit(item: dict[str, Any]) -> Unit:
    part = item["part"]
    return Unit(item["source"], Part(**{**part, "hub": tuple(part["hub"]) if part["hub"] else None}))
