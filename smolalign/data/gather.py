"""The `data:` block of a step, read: rows to train on, rows held out, and the count of everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from smolalign import processes
from smolalign.data.load import load_rows
from smolalign.recipe.data import AnnotatedSource, DataSource
from smolalign.recipe.schema import AssemblyStep
from smolalign.report import Reporter, Silent
from smolalign.rows import RowKind
from smolalign.store import taking_turns, write_json, write_text

if TYPE_CHECKING:
    from smolalign.data.assembly.assemble import Assembled, Assembly


@dataclass(frozen=True, slots=True)
class Gathered:
    """Mixed rows of the kind asked for, those held out by `test_fraction`, and an entry a source on rows in and out."""

    train: list[Any]
    test: list[Any]
    report: list[dict[str, Any]]


def gather(step: AssemblyStep, kind: RowKind, folder: Path, report: Reporter) -> Gathered:
    """Assemble a step's `data` under its folder, and read the rows back.

    Raises:
        UserError: see `assemble`.
    """
    from smolalign.data.assembly.plan import assembly_of

    found = _assembled(assembly_of(step, kind, source_names(step.data)), folder, "rows", report)
    if processes.is_main():
        write_report(folder, found.report)
    return _read(found, kind)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write what became of a step's rows as `data_report.json`, and as a page for people."""
    from smolalign.data.assembly.page import render_page

    write_json(folder / "data_report.json", report)
    write_text(folder / "data_report.html", render_page(report, str(folder)))


def gather_sources(sources: Sequence[DataSource], kind: RowKind, folder: Path, name: str, seed: int) -> Gathered:
    """Assemble sources as they are, without a step's filters. `name` tells them from others of the same step."""
    from smolalign.data.assembly.plan import Assembly

    return _read(_assembled(Assembly(sources, source_names(sources), kind, seed), folder, name, Silent()), kind)


def _assembled(assembly: Assembly, folder: Path, name: str, report: Reporter) -> Assembled:
    from smolalign.data.assembly.assemble import assemble

    work = folder / "checkpoints" / "assembly" / name
    # Of several processes of a launch the first does the work; the others find it done.
    aside = folder / "rejected.jsonl" if name == "rows" else work / "rejected.jsonl"
    with taking_turns(work):
        return assemble(assembly, work, work / "shards", aside, report)


def _read(found: Assembled, kind: RowKind) -> Gathered:
    train, test = (
        [row for file in files for row in load_rows(str(found.folder / file), kind).rows]
        for files in (found.train, found.test)
    )
    return Gathered(train, test, found.report["sources"])


def source_names(sources: Sequence[DataSource | AnnotatedSource]) -> list[str]:
    """A short name for each source, the same wherever the files lie, so that sampling by name is reproducible."""
    parts = [PurePath(s.source).parts for s in sources]
    names = []
    for own, source in zip(parts, sources, strict=True):
        length = 2 if own[-1:] == ("data",) else 1  # a step's rows are named by the step
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        suffix = "".join(f":{part}" for part in (source.config, source.split) if part)
        names.append("/".join(own[-length:]) + suffix)
    return names
