"""Assembly of conversations, end to end, beside the straight pipeline with `datasets` and datasketch.

    python -m benchmarks.assemble --rows 200000 --repeats 3      # both, in turn
    python -m benchmarks.assemble --scale                        # ours alone: 10 k, 100 k and 1 M rows

Needs `pip install datasketch` for the comparison. With `--data` the conversations are kept there for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.conversations import SOURCES, write_conversations
from benchmarks.watched import Watched, watched

BIN = Path(sys.executable).parent
SCALE = [10_000, 100_000, 1_000_000]
RECIPE = """kind: smoltalk
data: [{sources}]
filters: {{structure: true, turns: {{max: 20}}, repeated_turns: true, refusals: true, max_repetition: 0.3}}
deduplicate: {{near: 0.8}}
decontaminate: {{against: [{{source: benchmark.jsonl}}], ngram: 13}}
"""
# Kinds of planted rows, as the table groups them; lookalikes are among the rows that must stay.
REMOVED = {
    "equal": ["equal"],
    "near": ["near"],
    "contaminated": ["contaminated"],
    "for the filters": ["refusal", "repetition", "empty turn", "many turns", "repeated turns"],
}


@dataclass(frozen=True, slots=True)
class Score:
    """Shares: of each group of planted rows those that were removed, and of all rows that must stay, and of the
    lookalikes among them, those that were removed too."""

    found: dict[str, float]
    false: float
    false_lookalikes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["ours", "plain"])
    parser.add_argument("--scale", type=int, nargs="*", help=f"numbers of rows, by default {SCALE}")
    parser.add_argument("--data", type=Path, help="folder of the conversations, made if they are not there")
    given = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, {_processor()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if given.scale is not None:
            print_scale(given.data or scratch, scratch, given.scale or SCALE)
        else:
            print_comparison(given.data or scratch, scratch, given.rows, given.repeats, given.only)


def print_comparison(kept: Path, scratch: Path, rows: int, repeats: int, only: str | None) -> None:
    """All contenders in turn, as often as asked for; medians, and medians of the ratios within one round, so that a
    busy minute slows both sides of them."""
    data = conversations(kept, rows)
    contenders: dict[str, Callable[[Path, Path], tuple[Watched, set[str]]]] = {"ours": ours, "plain": plain}
    names = {"ours": "smolalign", "plain": "datasets + datasketch"}
    runs: dict[str, list[Watched]] = defaultdict(list)
    scores: dict[str, Score] = {}
    for _ in range(repeats):
        for name in [only] if only else contenders:
            run, left = contenders[name](data, scratch / name)
            runs[name].append(run)
            scores[name] = score(data, rows, left)
    print("| | rows/s | seconds | CPU seconds | peak memory | without mapped files | " + " | ".join(REMOVED), end="")
    print(" | false removals | of lookalikes |\n|" + "---|" * (8 + len(REMOVED)))
    for name, own in runs.items():
        print(f"| {names[name]} | {_cells(rows, own, scores[name])} |")
    if not only:
        speed, work, memory, own_memory = (
            statistics.median(getattr(a, field) / getattr(b, field) for a, b in zip(runs[x], runs[y], strict=True))
            for field, x, y in (
                ("seconds", "plain", "ours"),
                ("cpu_seconds", "plain", "ours"),
                ("peak_bytes", "ours", "plain"),
                ("peak_own_bytes", "ours", "plain"),
            )
        )
        print(f"\n{speed:.1f} times the rows/s ({work:.1f} times for the same CPU seconds), ", end="")
        print(f"{memory:.2f} of the memory ({own_memory:.2f} without mapped files)")
    if "plain" in runs:
        print_stages([json.loads(run.output) for run in runs["plain"]])


def print_stages(runs: list[dict[str, float]]) -> None:
    """Median seconds of the plain pipeline's stages; the rest of its time is the start of Python and imports."""
    stages = [f"{stage} {statistics.median(run[stage] for run in runs):.1f}" for stage in runs[0]]
    print(f"\nSeconds of the plain pipeline: {', '.join(stages)}")


def print_scale(kept: Path, scratch: Path, sizes: list[int]) -> None:
    print("| rows | seconds | rows/s | CPU seconds | peak memory | without mapped files |\n|---|---|---|---|---|---|")
    for rows in sizes:
        run, _ = ours(conversations(kept, rows), scratch / "ours")
        print(f"| {rows:,} | {_speed_and_memory(rows, [run], rate_first=False)} |", flush=True)


def conversations(folder: Path, rows: int) -> Path:
    """The folder of that many conversations with the recipe beside them; only a whole one is used again."""
    data = folder / f"conversations-{rows}"
    if not data.exists():
        unfinished = folder / f".conversations-{rows}.{os.getpid()}.tmp"
        write_conversations(unfinished, rows)
        unfinished.rename(data)
    sources = ", ".join(f"{{source: part-{number}.jsonl}}" for number in range(SOURCES))
    (data / "smoltalk.yaml").write_text(RECIPE.format(sources=sources))
    return data


def ours(data: Path, out: Path) -> tuple[Watched, set[str]]:
    """`smolalign smoltalk`, and the origins of the rows it kept."""
    command = [str(BIN / "smolalign"), "smoltalk", str(data / "smoltalk.yaml"), "--out", str(out), "--fresh"]
    return _fresh(command, out, "smoltalk/data/train*.parquet")


def plain(data: Path, out: Path) -> tuple[Watched, set[str]]:
    """`benchmarks.plain_pipeline`, and the origins of the rows it kept."""
    return _fresh([sys.executable, "-m", "benchmarks.plain_pipeline", str(data), str(out)], out, "train.parquet")


def _fresh(command: list[str], out: Path, files: str) -> tuple[Watched, set[str]]:
    """Run it with an empty folder for its output, which is read and removed."""
    out.mkdir()
    run = watched(command, out / "cache")
    left = {
        origin
        for file in out.glob(files)
        for origin in pq.read_table(file, columns=["_origin"]).column("_origin").to_pylist()
    }
    shutil.rmtree(out)
    return run, left


def score(data: Path, rows: int, left: set[str]) -> Score:
    """What was removed, beside the truth."""
    planted: dict[str, set[str]] = defaultdict(set)
    for line in (data / "truth.jsonl").read_text().splitlines():
        entry = json.loads(line)
        planted[entry["kind"]].add(entry["row"])
    groups = {name: set().union(*(planted[kind] for kind in kinds)) for name, kinds in REMOVED.items()}
    go = set().union(*groups.values())
    stay = rows - len(go)
    return Score(
        {name: _removed(group, left) for name, group in groups.items()},
        (stay - len(left - go)) / stay,
        _removed(planted["lookalike"], left),
    )


def _removed(group: set[str], left: set[str]) -> float:
    return 1 - len(group & left) / len(group)


def _cells(rows: int, runs: list[Watched], found: Score) -> str:
    shares = [f"{share:.2%}" for share in found.found.values()]
    return " | ".join([_speed_and_memory(rows, runs), *shares, f"{found.false:.3%}", f"{found.false_lookalikes:.2%}"])


def _speed_and_memory(rows: int, runs: list[Watched], *, rate_first: bool = True) -> str:
    seconds = statistics.median(run.seconds for run in runs)
    work = statistics.median(run.cpu_seconds for run in runs)
    times = [f"{rows / seconds:,.0f}", f"{seconds:.1f}"]
    memory = [statistics.median(getattr(run, field) for run in runs) for field in ("peak_bytes", "peak_own_bytes")]
    times = [*(times if rate_first else times[::-1]), f"{work:.1f}"]
    return " | ".join([*times, *(f"{one / 1e9:.2f} GB" for one in memory)])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
