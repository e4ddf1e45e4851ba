"""An assembly's stages on one of datatrove's executors: started, waited for, and their errors told as if they had run
here."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from smolalign.data.assembly.engine import slurm
from smolalign.data.assembly.engine.file import Engine
from smolalign.data.assembly.engine.work import DONE, FAILED, LOGS, RANKS, STAGE, Stage, write_stage
from smolalign.data.assembly.pool import Run
from smolalign.errors import UserError
from smolalign.report import Reporter

LOG = "engine.log"
_SECONDS_BETWEEN_LOOKS = {"local": 0.2, "ray": 2.0, "slurm": 5.0}
# A file may be seen here so much later than it was written on another machine.
_SECONDS_TO_BE_SEEN = 90.0
# How often in a row Slurm's controller may not answer.
_UNANSWERED = 60
# What to do about tasks that ended in one of Slurm's states.
_MENDS = {
    "OUT_OF_MEMORY": "raise mem_per_cpu_gb",
    "TIMEOUT": "raise time",
    "CANCELLED": "somebody cancelled them",
}
_GO_ON = "run the same command again to go on"


def stages_on(engine: Engine, home: Path, note: Path, report: Reporter) -> Run:
    """What runs the stages of an assembly on an engine.

    Args:
        engine: where.
        home: folder for what the stages have to tell, on a file system that all machines share.
        note: file for the ids of Slurm's jobs that are under way.
        report: shown where the logs are.
    """

    def run(stage: str, task: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> Generator[int, None, None]:
        folder = _new_folder(home.absolute(), stage)
        write_stage(folder, Stage(engine.kind, engine.tasks, engine.options, task, arguments, note.absolute()))
        tasks = min(engine.tasks, len(arguments))
        report.say(f"{stage} in {tasks} {'task' if tasks == 1 else 'tasks'} on {engine.kind}; logs in {folder}")
        work = _Jobs(folder, engine, note) if engine.kind == "slurm" else _Process(folder, engine)
        try:
            yield from _watched(work, folder, len(arguments), _SECONDS_BETWEEN_LOOKS[engine.kind])
        finally:
            work.end()

    return run


def _new_folder(home: Path, stage: str) -> Path:
    """A folder for this attempt at a stage alone: nothing that an earlier one left counts as done.

    Tasks of earlier attempts that begin only now, since a run was killed as it submitted them, find nothing to do.
    """
    for earlier in home.glob(f"*/{STAGE}"):
        earlier.unlink()
    stem = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
    folders = (home / (stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def _watched(work: _Process | _Jobs, folder: Path, count: int, seconds: float) -> Generator[int, None, None]:
    """The number of each task as it ends. Raises the first error of a task, or UserError if some are never done."""
    seen: set[int] = set()
    over_since: float | None = None
    while True:
        # Looked at before the tasks, so that none that ends meanwhile is missed.
        over = work.is_over()
        new = sorted(_numbers(folder / DONE) - seen)
        seen.update(new)
        yield from new
        for number in sorted(_numbers(folder / FAILED)):
            raise pickle.loads((folder / FAILED / f"{number:05}").read_bytes())
        if over and len(seen) == count:
            return
        if over:
            over_since = over_since or time.monotonic()
            if time.monotonic() - over_since >= work.patience:
                raise work.unfinished(count - len(seen), count)
        time.sleep(seconds)


def _numbers(folder: Path) -> set[int]:
    return {int(name) for name in os.listdir(folder) if name.isdigit()}


class _Process:
    """The process that a stage's executor runs in, with its workers; or that submits its jobs.

    What datatrove says goes into its log, and what it changes in the environment stays there.
    """

    patience = 0.0

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        code = f"import sys; sys.path[:] = {sys.path!r}\nfrom smolalign.data.assembly.engine.work import launch\n"
        code += f"launch({str(folder)!r}, {os.getpid()})"
        # Inside of an array of Slurm's the executor would take itself for a task of its own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_ARRAY_")}
        with (folder / LOG).open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def is_over(self) -> bool:
        """Whether the process has ended. Raises UserError if one of its workers was killed, for which it would wait."""
        if self.process.poll() is not None:
            return True
        # Where a task has failed, workers are ended because of that.
        if self.engine.kind == "local" and self._has_lost_worker() and not _numbers(self.folder / FAILED):
            mend = f"lower workers in {self.engine.file} if memory ran out; {_GO_ON}"
            raise UserError("a worker process was killed", where=str(self.folder / LOGS), mend=mend)
        return False

    def _has_lost_worker(self) -> bool:
        for file in (self.folder / RANKS).iterdir():
            with suppress(FileNotFoundError, ValueError):
                if not _is_alive(int(file.read_text(encoding="utf-8"))) and file.exists():
                    return True
        return False

    def end(self) -> None:
        """End it with all its workers, where it has not ended by itself."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def unfinished(self, missing: int, count: int) -> UserError:
        """Why not all tasks are done, as far as the log tells."""
        what = f"{self.engine.kind} left {missing} of {count} parts undone: {self._last_words()}"
        return UserError(what, where=str(self.folder / LOG), mend=f"see {self.engine.file}; {_GO_ON}")

    def unsubmitted(self) -> UserError:
        """Why jobs were not submitted, as far as the log tells."""
        what = f"Slurm refused the jobs: {self._last_words()}"
        return UserError(what, where=str(self.folder / LOG), mend=f"mend {self.engine.file}")

    def _last_words(self) -> str:
        text = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("sbatch:")] or lines[-1:]
        return " ".join(said) or "it says nothing"


class _Jobs:
    """The jobs of a stage on Slurm, and the process that submits them."""

    patience = _SECONDS_TO_BE_SEEN

    def __init__(self, folder: Path, engine: Engine, note: Path) -> None:
        self.folder, self.engine, self.note = folder, engine, note
        self.submitting = _Process(folder, engine)
        self.unanswered = 0

    def is_over(self) -> bool:
        """Whether no job waits or runs any more. Raises UserError if they could not be submitted."""
        if not self.submitting.is_over():
            return False
        jobs = slurm.jobs_in(self.note)
        if self.submitting.process.returncode or not jobs:
            raise self.submitting.unsubmitted()
        if wrong := [job for job in jobs if not job.isdigit()]:
            self.note.unlink()
            mend = f"scancel it, and set job_id_position in {self.engine.file} to where sbatch says the id"
            raise UserError(f"{wrong[0]!r} is no job's id", where=str(self.folder / LOG), mend=mend)
        try:
            there = slurm.are_there(jobs)
        except UserError:
            self.unanswered += 1
            if self.unanswered > _UNANSWERED:
                raise
            return False
        self.unanswered = 0
        return not there

    def end(self) -> None:
        """Cancel what has not ended by itself; first see what is just being submitted."""
        self.submitting.process.wait()
        self.submitting.end()
        slurm.end_all(self.note)

    def unfinished(self, missing: int, count: int) -> UserError:
        """Why not all tasks are done, as far as Slurm tells."""
        jobs = slurm.jobs_in(self.note)
        ended = slurm.how_they_ended(jobs)
        shown = ", ".join(f"{job} {state}" for job, state in ended[:3]) + (", …" if len(ended) > 3 else "")
        what = f"Slurm's jobs {', '.join(jobs)} left {missing} of {count} parts undone"
        what += f" ({shown})" if shown else ""
        states = {state.split()[0] for _, state in ended}
        mend = next((mend for state, mend in _MENDS.items() if state in states), "see the logs there")
        return UserError(what, where=str(self.folder / LOGS), mend=f"{mend}; {_GO_ON}")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
