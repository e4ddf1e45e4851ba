"""The `data:` block of a step, read: rows to train on, rows held out, and the count of everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from smolalign.data.load import load_rows
from smolalign.data.mix import mix, split_rows
from smolalign.errors import UserError
from smolalign.recipe.schema import DataSource
from smolalign.rows import Row, RowKind


@dataclass(frozen=True, slots=True)
class Gathered:
    """Mixed rows of the kind asked for, those held out by `test_fraction`, and an entry a source on rows in and out."""

    train: list[Any]
    test: list[Any]
    report: list[dict[str, Any]]


def gather(sources: Sequence[DataSource], kind: RowKind, *, seed: int, test_fraction: float = 0.0) -> Gathered:
    """Read, mix and split the sources of a step.

    Args:
        sources: with paths resolved.
        kind: what rows the step needs.
        seed: of the mixing.
        test_fraction: share held out, by a hash of each row's first user turn.

    Raises:
        UserError: a source cannot be read, or nothing is left on a side that should hold rows.
    """
    names = source_names(sources)
    loaded = [
        load_rows(s.source, kind, format=s.format, config=s.config, split=s.split, revision=s.revision) for s in sources
    ]
    drawn = mix(
        [(name, part.rows, s.weight, s.max_rows) for name, part, s in zip(names, loaded, sources, strict=True)], seed
    )
    train, test = split_rows(drawn, test_fraction, seed)
    if not train:
        raise UserError(f"test_fraction {test_fraction} leaves no row to train on", mend="lower it")
    if test_fraction and not test:
        raise UserError(f"test_fraction {test_fraction} of {len(drawn)} rows holds out none", mend="raise it")
    drawn_from = _count_by_source(drawn, names, loaded)
    report = [
        {
            "source": name,
            "format": part.format,
            "rows_in": part.rows_in,
            "skipped": part.skipped,
            "rows_drawn": drawn_from[name],
        }
        for name, part in zip(names, loaded, strict=True)
    ]
    return Gathered(train, test, report)


def source_names(sources: Sequence[DataSource]) -> list[str]:
    """A short name for each source, the same wherever the files lie, so that sampling by name is reproducible."""
    parts = [PurePath(s.source).parts for s in sources]
    names = []
    for own, source in zip(parts, sources, strict=True):
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        suffix = f":{source.split}" if source.split else ""
        names.append("/".join(own[-length:]) + suffix)
    return names


def _count_by_source(drawn: list[Row], names: list[str], loaded: list[Any]) -> dict[str, int]:
    source_of = {id(row): name for name, part in zip(names, loaded, strict=True) for row in part.rows}
    counts = dict.fromkeys(names, 0)
    for row in drawn:
        counts[source_of[id(row)]] += 1
    return counts
