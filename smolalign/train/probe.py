"""How fast this device multiplies: in each precision and by each library at a model's widths, and at its best. Measured
once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import silu

from smolalign.hardware import cpu_name
from smolalign.store import cache_folder, read_json, write_json

TOKENS, REPEATS = 256, 5
# Largest error of an fp32 product over its largest value that is rounding in fp32: bf16's is 4e-3, tf32's 5e-4.
EXACT = 1e-5
# Some CPUs emulate bf16 hundreds of times slower than fp32; a product this small tells before a large one is tried.
SMALL, HOPELESS = 128, 3.0
# Sizes of square matrices at which a device reaches its best, or nearly so.
CPU_SQUARE, GPU_SQUARE = 1024, 8192
# A busy machine shows its best now and then only.
PEAK_REPEATS = 4
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds for one gated feed-forward block, forward and backward, over `TOKENS` tokens."""

    blas_seconds: float
    onednn_seconds: float
    bf16_seconds: float
    onednn_is_exact: bool

    @property
    def onednn_is_better(self) -> bool:
        """Whether oneDNN is the faster one, and rounds as fp32 should."""
        return self.onednn_is_exact and self.onednn_seconds < self.blas_seconds

    @property
    def best_fp32_seconds(self) -> float:
        """By the faster of the libraries that round as fp32 should."""
        return self.onednn_seconds if self.onednn_is_better else self.blas_seconds


def measured(width: int, inner: int) -> Speeds:
    """The speeds of this CPU for a model of these widths, from the cache where they have been measured before."""
    key = f"{_cpu()} | {torch.get_num_threads()} threads | torch {torch.__version__} | {width} x {inner}"
    try:
        return Speeds(**_kept()[key])
    except (KeyError, TypeError):
        speeds = measure(width, inner)
    _keep(key, asdict(speeds))
    return speeds


def measure(width: int, inner: int) -> Speeds:
    """Measure, in a second or so; the settings of PyTorch are what they were at the end."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((inner, width), (inner, width), (width, inner))
    gate, up, down = (torch.randn(size, generator=generator).div(30).requires_grad_() for size in sizes)
    rows = torch.randn(TOKENS, width, generator=generator, requires_grad=True)

    def block() -> None:
        output = (silu(rows @ gate.T) * (rows @ up.T)) @ down.T
        output.sum().backward()

    def mixed() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            block()

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        blas = _seconds(block)
        expected = rows.detach().double() @ gate.detach().double().T
        torch.set_float32_matmul_precision("medium")
        error = ((rows @ gate.T).double() - expected).abs().max() / expected.abs().max()
        onednn = _seconds(block)
        bf16 = float("inf") if _bf16_is_hopeless() else _seconds(mixed)
    finally:
        torch.set_float32_matmul_precision(before)
    return Speeds(blas, onednn, bf16, bool(error < EXACT))


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations a second that this device was measured to reach in products of large square matrices, from the cache
    where they have been measured before.

    Args:
        device: the one to measure.
        precision: `fp32`, `bf16` or `fp16`; GPUs multiply fp32 as they are set to.
    """
    size, where = CPU_SQUARE, f"{_cpu()} | {torch.get_num_threads()} threads"
    if device.type == "cuda":
        size, where = GPU_SQUARE, torch.cuda.get_device_name(device)
        if precision == "fp32" and torch.backends.cuda.matmul.allow_tf32:
            precision = "tf32"
    elif device.type != "cpu":
        where = device.type
    key = f"{where} | torch {torch.__version__} | {precision} {size} x {size}"
    found = _kept().get(key)
    if not isinstance(found, float):
        dtype = _DTYPES.get(precision, torch.float32)
        found = 2 * size**3 / min(best_product_seconds(size, device, dtype) for _ in range(PEAK_REPEATS))
        _keep(key, found)
    return found


def best_product_seconds(size: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Seconds for one product of square matrices; on CPUs by the faster library, whatever it rounds."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    if left.device.type != "cpu":
        wait = torch.get_device_module(left.device).synchronize
        return _seconds(lambda: (left @ right, wait()))
    before = torch.get_float32_matmul_precision()
    try:
        taken = []
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            taken.append(_seconds(lambda: left @ right))
    finally:
        torch.set_float32_matmul_precision(before)
    return min(taken)


def _bf16_is_hopeless() -> bool:
    small = torch.randn(SMALL, SMALL)
    rounded = small.bfloat16()
    return _seconds(lambda: rounded @ rounded) > HOPELESS * _seconds(lambda: small @ small)


def _seconds(work: Callable[[], object]) -> float:
    """The fastest of a few runs after one that warms up: what else runs on the machine only ever slows it down."""
    taken = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return round(min(taken[1:]), 6)


def _kept() -> dict[str, Any]:
    """What has been measured before, by what it was measured on."""
    return read_json(_file()) or {}


def _keep(key: str, value: Any) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    write_json(_file(), {**_kept(), key: value})


def _file() -> Path:
    return cache_folder() / "probe.json"


def _cpu() -> str:
    """The CPU's name, and the instructions that PyTorch uses of it."""
    return f"{cpu_name()} {torch.backends.cpu.get_cpu_capability()}"
