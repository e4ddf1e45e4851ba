"""Assembly of conversations, end to end, beside the straight pipeline with `datasets` and datasketch.

    python -m benchmarks.assemble --rows 200000 --repeats 3      # both, in turn
    python -m benchmarks.assemble --scale 10000 100000 1000000   # ours alone: time and memory as rows grow

Needs `pip install datasketch` for the comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.conversations import SOURCES, write_conversations

BIN = Path(sys.executable).parent
RECIPE = """kind: smoltalk
data: [{sources}]
filters: {{structure: true, turns: {{max: 20}}, repeated_turns: true, refusals: true, max_repetition: 0.3}}
deduplicate: {{near: 0.8}}
decontaminate: {{against: [{{source: benchmark.jsonl}}]}}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds from start to end, the most memory of all its processes, and the origins of the rows that it kept."""

    seconds: float
    peak_bytes: int
    kept: set[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--scale", type=int, nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.scale:
            print_scale(Path(folder), given.scale)
        else:
            print_comparison(Path(folder), given.rows, given.repeats)


def print_comparison(folder: Path, rows: int, repeats: int) -> None:
    data = _data(folder, rows)
    runs: dict[str, list[Run]] = {"smolalign": [], "datasets + datasketch": []}
    for _ in range(repeats):
        runs["smolalign"].append(ours(data, folder / "ours"))
        runs["datasets + datasketch"].append(plain(data, folder / "plain"))
    print("| | rows/s | seconds | peak memory | equal | near | contaminated | false removals |")
    print("|---|---|---|---|---|---|---|---|")
    for name, own in runs.items():
        print(_line(name, rows, own, json.loads((data / "truth.json").read_text())))
    seconds, memory = (
        [statistics.median(getattr(run, field) for run in own) for own in runs.values()]
        for field in ("seconds", "peak_bytes")
    )
    print(f"\n{seconds[1] / seconds[0]:.1f} times the rows/s, {memory[0] / memory[1]:.2f} of the memory")


def print_scale(folder: Path, sizes: list[int]) -> None:
    print("| rows | seconds | rows/s | peak memory |\n|---|---|---|---|")
    for rows in sizes:
        run = ours(_data(folder, rows), folder / "ours")
        per_second = f"{rows / run.seconds:,.0f}"
        print(f"| {rows:,} | {run.seconds:.0f} | {per_second} | {run.peak_bytes / 1e9:.2f} GB |", flush=True)


def _data(folder: Path, rows: int) -> Path:
    data = folder / f"data-{rows}"
    write_conversations(data, rows)
    sources = ", ".join(f"{{source: part-{number}.jsonl}}" for number in range(SOURCES))
    (data / "smoltalk.yaml").write_text(RECIPE.format(sources=sources))
    return data


def ours(data: Path, out: Path) -> Run:
    """`smolalign smoltalk`."""
    shutil.rmtree(out, ignore_errors=True)
    command = [str(BIN / "smolalign"), "smoltalk", str(data / "smoltalk.yaml"), "--out", str(out)]
    seconds, peak = _watched(command)
    return Run(seconds, peak, _origins(out / "smoltalk" / "data"))


def plain(data: Path, out: Path) -> Run:
    """`benchmarks.plain_pipeline`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    seconds, peak = _watched([sys.executable, "-m", "benchmarks.plain_pipeline", str(data), str(out)])
    return Run(seconds, peak, _origins(out))


def _origins(folder: Path) -> set[str]:
    files = folder.glob("train*.parquet")
    return {origin for file in files for origin in pq.read_table(file, columns=["_origin"])["_origin"].to_pylist()}


def _watched(command: list[str]) -> tuple[float, int]:
    """Seconds that a command takes, and the most memory that it and its children hold at once, each page once."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], sum(map(_private_bytes, _tree(process.pid))))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.monotonic() - began
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors[-2000:]}")
    return seconds, peak[0]


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _private_bytes(pid: int) -> int:
    """Memory of a process by proportional shares, so that pages of several processes count once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _line(name: str, rows: int, runs: list[Run], truth: dict[str, list[str]]) -> str:
    seconds = statistics.median(run.seconds for run in runs)
    peak = statistics.median(run.peak_bytes for run in runs)
    kept = runs[0].kept
    planted = [origin for key in ("equal", "near", "contaminated", "filtered") for origin in truth[key]]
    stay = rows - len(planted)
    false = (stay - len(kept - set(planted))) / stay
    found = [f"{1 - len(kept & set(truth[key])) / len(truth[key]):.2%}" for key in ("equal", "near", "contaminated")]
    return " | ".join(
        [f"| {name}", f"{rows / seconds:,.0f}", f"{seconds:.0f}", f"{peak / 1e9:.2f} GB", *found, f"{false:.3%} |"]
    )


if __name__ == "__main__":
    main()
