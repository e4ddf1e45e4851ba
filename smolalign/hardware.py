"""What a step ran on, in words and numbers for its manifest. Standard library only."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from smolalign.processes import usable_cores


def hardware() -> dict[str, Any]:
    """The system, its processor, the cores that this process may use, memory in GB, and GPUs, if torch was needed.

    `memory_gb` is None where the system does not tell. No name of the machine or of a person is in it.
    """
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
    }


def _processor() -> str:
    """Its name as the system has it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [f"{one.name}, {one.total_memory / 1e9:.0f} GB" for one in found]
