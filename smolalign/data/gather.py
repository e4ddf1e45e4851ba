"""The `data:` block of a step, read: rows to train on, rows held out, and the count of everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolalign import processes
from smolalign.data.load import load_rows
from smolalign.recipe.data import DataSource, source_names
from smolalign.recipe.schema import AssemblyStep
from smolalign.report import Reporter, Silent
from smolalign.rows import RowKind
from smolalign.store import taking_turns, write_json, write_text

if TYPE_CHECKING:
    from smolalign.data.assembly.assemble import Assembled, Assembly
    from smolalign.data.assembly.engine.file import Engine
    from smolalign.data.assembly.pool import Run


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


def assemble_documents(
    step: AssemblyStep,
    sources: Sequence[DataSource],
    names: Sequence[str],
    folder: Path,
    report: Reporter,
    engine: Engine | None = None,
) -> Assembled:
    """Assemble a step's documents under its folder, each source's in shards of its own.

    Args:
        step: says what becomes of the rows.
        sources: in place of the step's `data`.
        names: of the sources.
        folder: of the step.
        report: shown the progress.
        engine: what the work runs on, in place of processes of this machine.

    Raises:
        UserError: see `assemble`.
    """
    from smolalign.data.assembly.engine.jobs import end_jobs_left, run_on
    from smolalign.data.assembly.plan import assembly_of

    home = folder / "checkpoints" / "engine"
    if processes.is_main():
        end_jobs_left(folder, folder / "checkpoints" / "assembly" / "rows", [home])
    assembly = replace(assembly_of(step, "document", names), sources=sources)
    return _assembled(assembly, folder, "rows", report, run_on(engine, folder, home, report))


def assemble_held_out(
    sources: Sequence[DataSource], names: Sequence[str], folder: Path, name: str, seed: int
) -> Assembled:
    """As `assemble_documents`, but as they are, without a step's filters. `name` tells them from others of the step."""
    from smolalign.data.assembly.plan import Assembly

    return _assembled(Assembly(sources, names, "document", seed), folder, name, Silent())


def _assembled(assembly: Assembly, folder: Path, name: str, report: Reporter, run: Run | None = None) -> Assembled:
    from smolalign.data.assembly.assemble import assemble

    work = folder / "checkpoints" / "assembly" / name
    # Of several processes of a launch the first does the work; the others find it done.
    aside = folder / "rejected.jsonl" if name == "rows" else work / "rejected.jsonl"
    with taking_turns(work):
        return assemble(assembly, work, work / "shards", aside, report, run=run)


def _read(found: Assembled, kind: RowKind) -> Gathered:
    train, test = (
        [row for file in files for row in load_rows(str(found.folder / file), kind).rows]
        for files in (found.train, found.test)
    )
    return Gathered(train, test, found.report["sources"])
