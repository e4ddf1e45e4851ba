"""The smoltalk step: several sources of chats become one mixture on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smolalign.data.assembly.engine.jobs import end_jobs_left, run_on
from smolalign.data.gather import write_report
from smolalign.outcome import Outcome
from smolalign.recipe.data import source_names
from smolalign.recipe.schema import SmoltalkStep
from smolalign.report import Reporter

if TYPE_CHECKING:
    from smolalign.data.assembly.engine.file import Engine


def run(step: SmoltalkStep, folder: Path, report: Reporter, engine: Engine | None = None) -> Outcome:
    """Write the shards of `train` and, where rows are held out, `test` into `data/`, and the report on them.

    Args:
        step: the recipe.
        folder: of the step.
        report: shown the progress.
        engine: what the work runs on, in place of processes of this machine.
    """
    # Arrow, NumPy and the rest are loaded by the step that needs them.
    from smolalign.data.assembly.assemble import assemble
    from smolalign.data.assembly.plan import assembly_of

    assembly, target = assembly_of(step, "chat", source_names(step.data)), folder / "data"
    work = folder / "checkpoints" / "assembly"
    end_jobs_left(folder, work, [target])
    run = run_on(engine, folder, work / "engine", report)
    found = assemble(assembly, work, target, folder / "rejected.jsonl", report, run=run)
    write_report(folder, found.report)
    counts = {name: found.report[name] for name in ("rows_in", "rows_train", "rows_test", "tokens_out")}
    return Outcome(counts, found.report["sources"])
