"""How fast this CPU multiplies, in each precision and by each library: measured at a model's widths, once, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.nn.functional import silu

from smolalign.hardware import cpu_name
from smolalign.store import cache_folder, read_json, write_json

TOKENS, REPEATS = 256, 5
# Largest error of an fp32 product over its largest value that is rounding in fp32: bf16's is 4e-3, tf32's 5e-4.
EXACT = 1e-5
# Some CPUs emulate bf16 hundreds of times slower than fp32; a product this small tells before a large one is tried.
SMALL, HOPELESS = 128, 3.0


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
    file = cache_folder() / "probe.json"
    key = f"{_cpu()} | {torch.get_num_threads()} threads | torch {torch.__version__} | {width} x {inner}"
    kept = read_json(file) or {}
    try:
        return Speeds(**kept[key])
    except (KeyError, TypeError):
        speeds = measure(width, inner)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**kept, key: asdict(speeds)})
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


def best_product_seconds(size: int) -> float:
    """Seconds for one fp32 product of square matrices, by the faster library, whatever it rounds."""
    left, right = torch.randn(size, size), torch.randn(size, size)
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


def _cpu() -> str:
    """The CPU's name, and the instructions that PyTorch uses of it."""
    return f"{cpu_name()} {torch.backends.cpu.get_cpu_capability()}"
