"""One training run as its users start it, in a process of its own, watched from outside."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(slots=True)
class Run:
    """What was seen of one run. `steps` are (seconds since the process began, tokens so far, loss)."""

    name: str
    steps: list[tuple[float, float, float]] = field(default_factory=list)
    peak_bytes: int = 0
    reference_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, from the end of the first step to the end of the last; DPO's reference is counted in."""
        (began, before, _), (ended, after, _) = self.steps[0], self.steps[-1]
        share = (after - before) / after
        return (after - before) / (ended - began + share * self.reference_seconds)

    @property
    def loss(self) -> float:
        """Mean over all steps."""
        return sum(loss for *_, loss in self.steps) / len(self.steps)


def trl_command(kind: str, model: Path, rows: Path, folder: Path, fields: dict[str, Any]) -> Run:
    """`trl sft` or `trl dpo` from a shell."""
    options = {**fields, "model_name_or_path": model, "dataset_name": rows, "dtype": "float32", "output_dir": folder}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return _watch(f"trl {kind}", [str(BIN / "trl"), kind, *flags], _from_output)


def trl_in_process(kind: str, name: str, model: Path, rows: Path, folder: Path, fields: dict[str, Any]) -> Run:
    """TRL's trainer called from Python."""
    job = {"kind": kind, "model": str(model), "rows": str(rows), "fields": {**fields, "output_dir": str(folder)}}
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(job), encoding="utf-8")
    return _watch(name, [sys.executable, "-m", "benchmarks.trl_in_process", str(file)], _from_output)


def smolalign(kind: str, name: str, recipe: Path, folder: Path, *overrides: str) -> Run:
    """`smolalign sft` or `smolalign dpo` from a shell, nothing cached."""
    command = [str(BIN / "smolalign"), kind, str(recipe), *overrides, "--out", str(folder), "--fresh"]
    log = folder / kind / "metrics.jsonl"
    log.unlink(missing_ok=True)
    run = _watch(name, command, lambda process: _from_file(process, log), cache=folder / "cache")
    metrics = json.loads((folder / kind / "step.json").read_text(encoding="utf-8"))["metrics"]
    run.reference_seconds = metrics.get("reference_seconds", 0.0)
    return run


def _watch(
    name: str,
    command: list[str],
    lines: Callable[[subprocess.Popen[str]], Iterator[dict[str, Any]]],
    cache: Path | None = None,
) -> Run:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    if cache:
        environment["XDG_CACHE_HOME"] = str(cache)
    run, began = Run(name), time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    reader.start()
    for line in lines(process):
        if "loss" in line and "num_tokens" in line:
            run.steps.append((time.monotonic() - began, float(line["num_tokens"]), float(line["loss"])))
    # The largest of the process and of those that it waited for.
    _, status, usage = os.wait4(process.pid, 0)
    run.peak_bytes = usage.ru_maxrss * 1024
    if status or len(run.steps) < 2:
        reader.join()
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(said[-20:])}")
    return run


def _from_output(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What the trainer prints of each step."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{") and "num_tokens" in line:
            yield ast.literal_eval(line)


def _from_file(process: subprocess.Popen[str], log: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl as they come."""
    drain = threading.Thread(target=lambda: list(process.stdout or ()), daemon=True)
    drain.start()
    read = 0
    while True:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        whole = text[read : text.rfind("\n") + 1]
        read += len(whole)
        yield from (json.loads(line) for line in whole.splitlines())
        if ended:
            return
        time.sleep(0.01)
