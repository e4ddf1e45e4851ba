"""A command in a process of its own: its seconds, and the memory of it and of all its children."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import ROOT

# A look takes time from those who are watched; so pauses are this many times as long as looks.
_PAUSE = 20


@dataclass(frozen=True, slots=True)
class Watched:
    """Seconds from start to end; seconds of work on all cores, which other programs beside it hardly change; the most
    bytes that all processes held at once, and the most of them that were no mapped files, which the system can take
    back; what was printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    peak_own_bytes: int
    output: str


def watched(command: list[str], scratch: Path) -> Watched:
    """Run a command from this checkout with an empty cache under `scratch`.

    Raises:
        SystemExit: it failed.
    """
    caches = {"XDG_CACHE_HOME": str(scratch), "HF_DATASETS_CACHE": str(scratch), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **caches, "PYTHONPATH": str(ROOT), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    peaks = [0, 0]
    # Files, not pipes: who fills a pipe that nobody empties waits.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, ended, peaks))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{(output.read() + errors.read())[-2000:]}")
        return Watched(seconds, usage.ru_utime + usage.ru_stime, peaks[0], peaks[1], output.read())


def _watch(root: int, ended: threading.Event, peaks: list[int]) -> None:
    pause = 0.0
    while not ended.wait(pause):
        began = time.monotonic()
        held = [_held(pid) for pid in _tree(root)]
        for kind in range(2):
            peaks[kind] = max(peaks[kind], sum(one[kind] for one in held))
        pause = _PAUSE * (time.monotonic() - began)


def _tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _held(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and those that are no mapped files. A page that several processes share counts by
    its share in each of them, so that the sum over processes counts it once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss")}
    return sizes.get("Pss:", 0), sizes.get("Pss:", 0) - sizes.get("Pss_File:", 0)
