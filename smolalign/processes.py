"""Which process of a launch this one is, by what torch's launchers put in the environment. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence

# Set by `smolalign --launch` for the processes it starts: whatever ends one of them, the launching process tells.
LAUNCHED = "SMOLALIGN_LAUNCHED"
# Where torch's launcher reads what ended a process.
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def count() -> int:
    """How many processes train together; 1 where nothing was launched."""
    together = all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return int(os.environ["WORLD_SIZE"]) if together else 1


def index() -> int:
    """This process's number among all, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_index() -> int:
    """This process's number among those on its machine, which is the number of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes and speaks; so is one that runs alone."""
    return index() == 0


def is_launched() -> bool:
    """Whether a `smolalign --launch` waits for this process, and will say how it ended."""
    return LAUNCHED in os.environ


def on_cpu() -> bool:
    """Whether the launch keeps its processes off GPUs."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")


def sharded() -> str:
    """What divides the weights among the processes: `fsdp`, `deepspeed`, or nothing."""
    for name in ("fsdp", "deepspeed"):
        if count() > 1 and os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ("1", "true"):
            return name
    return ""


def layout() -> str:
    """How checkpoints are divided, in words, empty where they are whole: those of one layout do not go on in another.

    FSDP2 divides its checkpoints anew for any number of processes; DeepSpeed, and FSDP where each process keeps its
    part, do not.
    """
    kind = sharded()
    anew = os.environ.get("FSDP_VERSION") == "2" and os.environ.get("FSDP_STATE_DICT_TYPE") != "LOCAL_STATE_DICT"
    return "fsdp2" if kind == "fsdp" and anew else f"{kind} in {count()} processes" if kind else ""


def threads_each(processes: int) -> int:
    """Threads for each of so many processes on this machine, so that all together have one a core."""
    return max(1, usable_cores() // processes)


def usable_cores() -> int:
    """Cores that this process may use: by affinity, by the control group's quota, and physical ones only."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = len({_siblings(number) for number in usable})
    return max(1, min(cores, _quota() or cores))


def _siblings(number: int) -> str:
    """The processors, as the kernel lists them, that are one core with this one; itself where it does not tell."""
    try:
        with open(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return str(number)


def _quota() -> int | None:
    """Cores that the control group (version 2) grants, rounded up; None where it sets no limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="utf-8") as stream:
            quota, period = stream.read().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


def tell_launcher(message: str, user_errors: Sequence[str] = ()) -> bool:
    """Leave what ends this process where the launching process finds it; False where none is there to read it.

    Args:
        message: what was raised.
        user_errors: the lines of a user's mistake; empty for any other failure.
    """
    file = os.environ.get(_ERROR_FILE)
    if file is None or not is_launched():
        return False
    now = time.time()
    content = {"message": message, "timestamp": int(now), "raised": now, "user_errors": list(user_errors)}
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(content, stream)
    return True


def end_with_launcher() -> None:
    """Have the system end this process when the launching one is gone, even by kill -9. Linux only; elsewhere nothing.

    Without it the processes of a killed launch would train on, and hold the step's folder.
    """
    if is_launched():
        signal_of_parents_end(signal.SIGKILL)


def signal_of_parents_end(number: signal.Signals) -> None:
    """Have the system send this process a signal when its parent is gone. Linux only; elsewhere nothing."""
    if not hasattr(os, "sched_getaffinity"):
        return
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, number)
