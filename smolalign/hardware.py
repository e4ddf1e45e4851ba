"""The machine that a step runs on, as far as it says something about time and cost. Standard library only."""

from __future__ import annotations

import platform
import sys
from typing import Any

from smolalign import processes
from smolalign.memory import total_memory


def hardware() -> dict[str, Any]:
    """System, processor, cores that this process may use, bytes of memory, and the GPUs that are at work.

    No name of the machine or of a person is in it.

    Returns:
        `system`, `cpu`, `cores` and `memory_bytes` of this machine; under `gpu` `name`, `count` and `memory_bytes` (of
        one), or None where nothing computes on one. Every process of a launch has a GPU of its own, so they are counted
        over all machines.
    """
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": processes.usable_cores(),
        "memory_bytes": total_memory(),
        "gpu": _gpu(),
    }


def _gpu() -> dict[str, Any] | None:
    # A step that computes nothing with torch has not loaded it, and uses no GPU.
    torch: Any = sys.modules.get("torch")
    launched_off_gpus = processes.count() > 1 and processes.on_cpu()
    if torch is None or launched_off_gpus or not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {"name": found.name, "count": processes.count(), "memory_bytes": found.total_memory}


def cpu_name() -> str:
    """The processor, or each kind of them, as the kernel names it; the architecture where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    except OSError:
        names = []
    return " ".join(dict.fromkeys(names)) or platform.processor() or platform.machine()
