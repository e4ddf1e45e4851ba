"""A step's work on an engine: what runs its stages, and jobs of earlier runs, which outlive the run that was killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smolalign.data.assembly.pool import Run
from smolalign.report import Reporter

if TYPE_CHECKING:
    from smolalign.data.assembly.engine.file import Engine

# Beside what a run that starts over removes.
_JOBS = ".slurm-jobs"


def run_on(engine: Engine | None, folder: Path, home: Path, report: Reporter) -> Run | None:
    """What runs the stages of a step in `folder` on an engine, whose notes lie in `home`; None for this machine."""
    if engine is None:
        return None
    from smolalign.data.assembly.engine.stages import stages_on

    return stages_on(engine, home, folder / _JOBS, report)


def end_jobs_left(folder: Path, work: Path, output: Sequence[Path] = ()) -> None:
    """Have no job of an earlier run at work in a step's folder any more.

    Args:
        folder: of the step.
        work: where its assembly is staged.
        output: what else the jobs may have written that is of another assembly where this run starts over.
    """
    if not (folder / _JOBS).exists():
        return
    from smolalign.data.assembly.engine.slurm import end_all

    if end_all(folder / _JOBS) and not (work / "plan.json").exists():
        for path in (work, *output):
            shutil.rmtree(path, ignore_errors=True)
