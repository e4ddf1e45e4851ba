"""Amounts of memory: read from text, written for people, and what this machine has free. Standard library only."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from smolalign.errors import UserError

UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
# Limits at least this large stand for none: version 1 of Linux's control groups writes 2 ** 63 less a page.
UNLIMITED = 2**60


def parse_size(text: str) -> int:
    """Bytes of an amount such as `24GB` or `7.5 GiB`: a number above zero and a unit, decimal or binary.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text.strip(), flags=re.ASCII)
    unit = (UNITS | {name.lower(): size for name, size in UNITS.items()}).get(found[2]) if found else None
    if found is None or unit is None or not float(found[1]):
        raise UserError(f"{text!r} is no amount of memory", mend="write it like 24GB, 7.5GiB or 800MB")
    return round(float(found[1]) * unit)


def say_size(size: float) -> str:
    """Bytes in decimal gigabytes, with two digits or so that count: `0.004`, `0.54`, `3.1`, `24`."""
    giga = size / 1e9
    digits = 0 if giga >= 9.95 else 1 if giga >= 0.995 else 2 if giga >= 0.0995 else 3
    return f"{giga:.{digits}f}"


def free_memory() -> int:
    """Bytes that a new process could have here: what is available, within the limits of the control groups we are in.

    What this process holds counts as free, since it will have ended by then.
    """
    free = _available()
    for group in _control_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        free = min(free, _free_in(group, free))
    return free + resident_memory()


def total_memory() -> int:
    """Bytes of memory that this process could have if it were alone here, within the limits of its control groups."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in _control_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        for limit in ("memory.max", "memory.limit_in_bytes"):
            try:
                total = min(total, int((group / limit).read_text(encoding="ascii")))
            except (OSError, ValueError):
                continue
    return total


def resident_memory() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_held() -> int:
    """Bytes that training holds now: on the GPU where it runs on one, else in this process; 0 where nobody tells."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(sum(torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count())))
    return resident_memory()


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _control_groups(root: Path, own: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, with those above them; of both versions."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        folder = top / name.lstrip("/")
        # A container may see its own group as the root, under the name that it has outside.
        yield from (place for place in (folder, *folder.parents) if place == top or top in place.parents)


def _free_in(group: Path, otherwise: int) -> int:
    """What a control group leaves free; pages of files that it could drop count as free."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((group / limit).read_text(encoding="ascii"))
            used = int((group / usage).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if most < UNLIMITED:
            return max(0, most - used + int(stat.get(cache, 0)))
    return otherwise
