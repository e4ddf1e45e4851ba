"""One stage of an assembly as a pipeline of datatrove's: what runs in the processes that its executors start.

A stage has a folder that all machines see. Before it begins, `stage.pickle` lies there. Each task that is done leaves a
file in `done/`, and one that fails its error in `failed/`; a rank at work has a file in `ranks/`.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from smolalign import processes
from smolalign.data.assembly.engine.file import executor_class
from smolalign.errors import Failed, UserError

STAGE = "stage.pickle"
DONE, FAILED, RANKS = "done", "failed", "ranks"
LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage runs, by which executor, and the file that keeps the ids of its jobs."""

    kind: str
    tasks: int
    options: dict[str, Any]
    task: Callable[..., None]
    arguments: Sequence[tuple[Any, ...]]
    note: Path


class Share(PipelineStep):
    """A rank's share of the tasks of a stage: of those in its folder, every `world_size`-th.

    It knows the folder alone, since the executor writes down whatever its steps hold.
    """

    type, name = "smolalign", "assembly"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        folder = Path(self.folder)
        stage = read_stage(folder)
        at_work = folder / RANKS / f"{rank:05}"
        at_work.write_text(str(os.getpid()), encoding="utf-8")
        for number in range(rank, len(stage.arguments), world_size):
            try:
                stage.task(*stage.arguments[number])
            except Exception as error:
                told = error if isinstance(error, UserError) else Failed(f"{type(error).__name__}: {error}")
                _write(folder / FAILED / f"{number:05}", pickle.dumps(told))
                raise
            _write(folder / DONE / f"{number:05}", b"")
        at_work.unlink(missing_ok=True)


class Slurm(SlurmPipelineExecutor):
    """Without the job that adds up figures in the end: it would wait forever for tasks that failed."""

    def launch_merge_stats(self) -> None:
        pass


class _NotedJob:
    """Writes down the id of each job as it is submitted, so that whatever happens next it can be cancelled."""

    def __init__(self, note: Path, position: int) -> None:
        self.note, self.position = note, position

    def __call__(self, output: str) -> str:
        words = output.split()
        job = words[self.position] if -len(words) <= self.position < len(words) else output.strip()
        with self.note.open("a", encoding="utf-8") as stream:
            stream.write(f"{job}\n")
        return job


def read_stage(folder: Path) -> Stage:
    """The stage that was written down in its folder."""
    found: Stage = pickle.loads((folder / STAGE).read_bytes())
    return found


def write_stage(folder: Path, stage: Stage) -> None:
    """Make a stage's folder."""
    for name in (DONE, FAILED, RANKS):
        (folder / name).mkdir(parents=True)
    _write(folder / STAGE, pickle.dumps(stage))


def executor_of(folder: Path, stage: Stage) -> Any:
    """The executor of a stage."""
    options = dict(stage.options)
    tasks = min(stage.tasks, len(stage.arguments))
    kind = executor_class(stage.kind)
    if stage.kind == "local":
        options["workers"] = min(tasks, options.get("workers", processes.usable_cores()))
        # As in `pool`.
        options["start_method"] = "spawn"
    elif stage.kind == "slurm":
        kind = Slurm
        options.setdefault("job_name", "smolalign")
        if not {"env_command", "condaenv", "venv_path"} & set(options):
            # The scripts of the very environment that this runs in, on the file system that the machines share.
            options["env_command"] = f'export PATH="{Path(sys.executable).parent}:$PATH"'
        options["job_id_retriever"] = _NotedJob(stage.note, options.pop("job_id_position", -1))
    return kind([Share(str(folder))], tasks=tasks, logging_dir=str(folder / LOGS), **options)


def launch(folder: str, parent: int) -> None:
    """The whole work of a process that is started for a stage: run its executor.

    Workers end with the run that started them: one that outlived it would write into the files of the next. So the
    process leads a group, which ends as a whole. Slurm's jobs outlive it anyway: they are all submitted, and noted.
    """
    stage = read_stage(Path(folder))
    if stage.kind != "slurm":
        signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGKILL))
        processes.signal_of_parents_end(signal.SIGHUP)
        if os.getppid() != parent:
            return
    executor_of(Path(folder), stage).run()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
