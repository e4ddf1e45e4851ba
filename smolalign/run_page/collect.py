"""What a run left in its folder, read as plain data: every step, finished or not, and what could not be read."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from smolalign.errors import UserError
from smolalign.store import ASKED, MANIFEST, STARTED, read_json

METRICS, SAMPLES, RECIPE, DATA_REPORT = "metrics.jsonl", "samples.jsonl", "recipe.yaml", "data_report.json"
# Steps stand in this order where nothing else tells which came first.
KINDS = ("quality", "pretrain", "smoltalk", "sft", "dpo", "fc", "eval")

# No figure of a training is larger; what is would only flatten its curve.
LARGEST, LARGEST_STEP = 1e30, 1e12

State = Literal["finished", "at work", "cut off", "unreadable"]


@dataclass(frozen=True, slots=True)
class StepFolder:
    """A step of a run.

    Attributes:
        manifest: `step.json`; empty where the step has not finished, or where that file is broken.
        recipe_text: the resolved recipe, as YAML.
        logs: lines of `metrics.jsonl`, each with the number `step`; numbers that are not finite are left out.
        data_report: `data_report.json`, where the step assembled rows.
        reached: of an unfinished training step: the last step that was logged, and of how many, 0 where unknown.
        cached: whether the last command that asked for the step found it done; None where that is not known.
        problems: what could not be read, a sentence each.
    """

    name: str
    folder: Path
    state: State
    kind: str
    manifest: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_text: str
    logs: list[dict[str, float]]
    data_report: Mapping[str, Any] | None
    reached: tuple[int, int] | None = None
    cached: bool | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> Mapping[str, Any]:
        return table(self.manifest.get("metrics"))

    @property
    def finished(self) -> bool:
        return self.state == "finished"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, and its steps in the order in which one reads another."""

    folder: Path
    steps: list[StepFolder]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def in_words(self) -> str:
        """How many steps there are, which have not finished, and how many files could not be read whole."""
        left = [f"{step.name} {step.state}" for step in self.steps if not step.finished]
        unread = sum(len(step.problems) for step in self.steps)
        parts = [f"{len(self.steps)} {'step' if len(self.steps) == 1 else 'steps'}", *left]
        return ", ".join([*parts, *([f"{unread} files of theirs not read whole"] if unread else [])])


def collect(folder: Path) -> Run:
    """Read a run's folder, or a step's own.

    Raises:
        UserError: there is no such folder, or no step in it.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise UserError(what, where=str(folder), mend="name the folder of a run, such as runs/nano")
    if _is_step(folder):
        return Run(folder, [_step(folder, None)])
    try:
        found = [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and _is_step(inner)]
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", where=str(folder)) from None
    if not found:
        mend = "name the folder of a run: what --out said, or runs/NAME"
        raise UserError("no step has left anything in this folder", where=str(folder), mend=mend)
    asked, _ = read_lines(folder / ASKED)
    cached = {str(line.get("step")): line.get("cached") is True for line in asked}
    return Run(folder, _in_order([_step(inner, cached.get(inner.name)) for inner in found]))


def read_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file of lines, and how many lines are none; nothing of a file that is not there."""
    found: list[dict[str, Any]] = []
    broken = 0
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                value = _object(line)
                broken += value is None and bool(line.strip())
                found += [value] if value is not None else []
    except OSError:
        pass
    return found, broken


def table(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Any]:
    """A JSON list, or an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def number(value: object) -> float | None:
    """A number that can be drawn: finite, and not beyond `LARGEST`; else None."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < LARGEST:
        return None
    return float(value)


def broken_lines(file: str, broken: int) -> list[str]:
    """A sentence on lines that were left out, where there are any."""
    if not broken:
        return []
    return [f"{broken:,} {'line' if broken == 1 else 'lines'} of {file} left out: broken, or not what belongs there"]


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_step(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (MANIFEST, STARTED, METRICS))


def _step(folder: Path, cached: bool | None) -> StepFolder:
    manifest = read_json(folder / MANIFEST)
    problems: list[str] = []
    state: State = "finished" if manifest else "at work" if _is_locked(folder) else "cut off"
    if not manifest and (folder / MANIFEST).exists():
        state = "unreadable"
        problems.append(f"{MANIFEST} cannot be read: what the step reached is not known")
    logs, broken = _logs(folder / METRICS)
    problems += broken_lines(METRICS, broken)
    text, recipe, problem = _recipe(folder, manifest or {})
    problems += problem
    report = read_json(folder / DATA_REPORT)
    if report is None and (folder / DATA_REPORT).exists():
        problems.append(f"{DATA_REPORT} cannot be read")
    kind = (manifest or {}).get("kind") or recipe.get("kind")
    unfinished = state in ("at work", "cut off")
    return StepFolder(
        name=folder.resolve().name,
        folder=folder,
        state=state,
        kind=kind if isinstance(kind, str) else "unknown",
        manifest=manifest or {},
        recipe=recipe,
        recipe_text=text,
        logs=logs,
        data_report=report,
        reached=_reached(folder, logs) if unfinished and logs else None,
        cached=cached,
        problems=problems,
    )


def _recipe(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[str]]:
    """A step's recipe as text and as data: its own file, or else what the manifest says."""
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
        if isinstance(recipe, dict):
            return text, recipe, []
        problem = f"{RECIPE} holds no recipe"
    except FileNotFoundError:
        problem = f"{RECIPE} is missing"
    except (OSError, ValueError, yaml.YAMLError):
        problem = f"{RECIPE} cannot be read"
    kept = table(manifest.get("recipe"))
    return yaml.safe_dump(dict(kept), sort_keys=False, allow_unicode=True) if kept else "", kept, [problem]


def _logs(file: Path) -> tuple[list[dict[str, float]], int]:
    """The lines of a trainer's log, and how many could not be used."""
    lines, broken = read_lines(file)
    logs = []
    for line in lines:
        step = number(line.get("step"))
        if step is None or not 0 <= step <= LARGEST_STEP:
            broken += 1
            continue
        logs.append({key: found for key, value in line.items() if (found := number(value)) is not None})
    return logs, broken


def _reached(folder: Path, logs: list[dict[str, float]]) -> tuple[int, int]:
    """The last step logged, and of how many, which the newest checkpoint says."""
    states = [read_json(file) for file in (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    planned = max((int(number(state.get("max_steps")) or 0) for state in states if state), default=0)
    return max(int(line["step"]) for line in logs), planned


def _is_locked(folder: Path) -> bool:
    """Whether a process is at work in the folder."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _in_order(steps: list[StepFolder]) -> list[StepFolder]:
    """Each step after those that it reads; else by when it began, by kind, and by name."""
    names = {step.name for step in steps}

    def first(step: StepFolder) -> tuple[Any, ...]:
        kind = KINDS.index(step.kind) if step.kind in KINDS else len(KINDS)
        return str(step.manifest.get("started_at") or "~"), kind, step.name

    reads = {step.name: _reads(step, names) for step in steps}
    waiting = sorted(steps, key=first)
    ordered: list[StepFolder] = []
    while waiting:
        done = {step.name for step in ordered}
        # Of steps that read each other, which no run leaves, the first goes first.
        ready = next((step for step in waiting if reads[step.name] <= done), waiting[0])
        waiting.remove(ready)
        ordered.append(ready)
    return ordered


def _reads(step: StepFolder, names: set[str]) -> set[str]:
    """The names of the steps of the run that a step reads, by its manifest or by the paths in its recipe."""
    beside = str(step.folder.resolve().parent) + "/"
    found = {key[1:].partition(":")[0] for key in table(step.manifest.get("inputs")) if key.startswith("@")}
    found |= {text.removeprefix(beside).split("/")[0] for text in _texts(step.recipe) if text.startswith(beside)}
    return (found & names) - {step.name}


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []
