"""Jobs of Slurm: whether they are still there, how they ended, and to end them. Standard library and errors only."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from smolalign.errors import UserError

_SECONDS_BETWEEN_LOOKS = 1.0
# How long a job that was cancelled may take to leave.
_SECONDS_TO_LEAVE = 120.0


def are_there(jobs: Sequence[str]) -> bool:
    """Whether any of the jobs waits or runs.

    Raises:
        UserError: Slurm does not answer; its controller may only be busy.
    """
    ended = _run("squeue", "--noheader", f"--jobs={','.join(jobs)}", "--format=%T")
    # Of jobs that have long ended Slurm knows nothing any more.
    if ended.returncode and "Invalid job id" not in ended.stderr:
        raise UserError(f"squeue: {ended.stderr or ended.returncode}", mend="run the same command again to go on")
    return bool(ended.stdout.strip())


def _cancel(jobs: Sequence[str]) -> None:
    """End the jobs, and wait until they are gone.

    Raises:
        UserError: they cannot be ended from here.
    """
    give_up = time.monotonic() + _SECONDS_TO_LEAVE
    told = ""
    while True:
        try:
            if not are_there(jobs):
                return
            told = told or _run("scancel", *jobs).stderr or "they do not leave"
        except UserError as error:
            told = error.what
        if time.monotonic() > give_up:
            mend = f"scancel {' '.join(jobs)} where Slurm answers, then remove that file"
            raise UserError(f"Slurm's jobs {', '.join(jobs)} cannot be ended: {told}", mend=mend)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def how_they_ended(jobs: Sequence[str]) -> list[tuple[str, str]]:
    """Id and state of those tasks of the jobs that did not complete, as far as Slurm keeps account of jobs."""
    ended = _run("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(jobs)}", "-oJobID,State")
    lines = [line.split("|") for line in ended.stdout.splitlines() if line.count("|") == 1]
    return [(job, state) for job, state in lines if state != "COMPLETED"]


def jobs_in(note: Path) -> list[str]:
    """The ids of the jobs that have been submitted, or none."""
    return note.read_text(encoding="utf-8").split() if note.is_file() else []


def end_all(note: Path) -> bool:
    """End the jobs of a note, and remove it; whether there were any.

    Raises:
        UserError: they cannot be ended from here.
    """
    jobs = jobs_in(note)
    if jobs:
        try:
            _cancel(jobs)
        except UserError as error:
            raise error.at(note) from None
    note.unlink(missing_ok=True)
    return bool(jobs)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error.strerror))
