"""What an assembly has to do: sources cut into parts, and how their rows will be spread over shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smolalign.data.records import Part, source_parts
from smolalign.recipe.schema import AssemblyStep, DataSource, Decontaminate, Deduplicate, Filters
from smolalign.rows import RowKind
from smolalign.store import digest_json, read_json, write_json

PLAN = "plan.json"
# Rows of a bucket, the stretch of the shuffled whole that is sorted at once.
_BUCKET_ROWS = 20_000
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


@dataclass(frozen=True, slots=True)
class Plan:
    """An assembly, its units of work, and the number of buckets that rows are dealt into."""

    assembly: Assembly
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

    Raises:
        UserError: a source is not there, or cannot be read at all.
    """
    identity = digest_json(_as_json(assembly))
    known = read_json(work / PLAN)
    if known and known["identity"] == identity:
        return Plan(assembly, [_unit(item) for item in known["units"]], known["buckets"])
    units = [
        Unit(number, part)
        for number, source in enumerate(assembly.sources)
        for part in source_parts(source.source, config=source.config, split=source.split, revision=source.revision)
    ]
    buckets = max(1, sum(map(_rows_in, units)) // _BUCKET_ROWS)
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / PLAN, {"identity": identity, "buckets": buckets, "units": [asdict(unit) for unit in units]})
    return Plan(assembly, units, buckets)


def _rows_in(unit: Unit) -> int:
    return unit.part.records or Path(unit.part.source).stat().st_size // _BYTES_PER_ROW


def _unit(item: dict[str, Any]) -> Unit:
    part = item["part"]
    return Unit(item["source"], Part(**{**part, "hub": tuple(part["hub"]) if part["hub"] else None}))


def _as_json(assembly: Assembly) -> dict[str, Any]:
    """All that shapes the staged rows; the files' content is part of the step's fingerprint, which owns the folder."""
    blocks = (assembly.filters, assembly.deduplicate, assembly.decontaminate)
    return {
        "sources": [source.model_dump(mode="json") for source in assembly.sources],
        "blocks": [block.model_dump(mode="json") if block else None for block in blocks],
        "rest": [
            assembly.kind,
            assembly.seed,
            assembly.count_tokens_with,
            assembly.test_fraction,
            assembly.max_rejected,
        ],
    }
