"""The smoltalk step: several sources of chats become one mixture on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from smolalign.data.gather import write_report
from smolalign.outcome import Outcome
from smolalign.recipe.data import source_names
from smolalign.recipe.schema import SmoltalkStep
from smolalign.report import Reporter

if TYPE_CHECKING:
    from smolalign.data.assembly.engine.file import Engine

# Beside what a run that starts over removes: jobs outlive the run that was killed.
_JOBS = ".slurm-jobs"


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

    assembly, work, target = assembly_of(step, "chat", source_names(step.data)), _work(folder), folder / "data"
    run = None
    if engine is not None:
        from smolalign.data.assembly.engine.stages import stages_on

        run = stages_on(engine, work / "engine", folder / _JOBS, report)
    found = assemble(assembly, work, target, folder / "rejected.jsonl", report, run=run)
    write_report(folder, found.report)
    counts = {name: found.report[name] for name in ("rows_in", "rows_train", "rows_test", "tokens_out")}
    return Outcome(counts, found.report["sources"])


def _work(folder: Path) -> Path:
    """Where rows are staged, with no job of an earlier run at work there any more."""
    work = folder / "checkpoints" / "assembly"
    if (folder / _JOBS).exists():
        from smolalign.data.assembly.engine.slurm import end_all

        if end_all(folder / _JOBS) and not (work / "plan.json").exists():
            # This run starts over: what the jobs have written since is of another assembly.
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(folder / "data", ignore_errors=True)
    return work
