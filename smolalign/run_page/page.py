"""The report on a run as one HTML page that needs nothing else: no network, no other file, no library."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolalign import __version__
from smolalign.data.assembly.figures import width
from smolalign.errors import UserError
from smolalign.pages.environment import page_environment
from smolalign.run_page.collect import Run, StepFolder, collect, listed, number, table
from smolalign.run_page.curves import MOST_POINTS, curves
from smolalign.run_page.data import flow_of, rows_of
from smolalign.run_page.quality import scorer_of
from smolalign.run_page.samples import OPEN_PROMPTS, PROMPT_CHARACTERS, REPLY_CHARACTERS, samples
from smolalign.run_page.scores import call_errors, scores, showcase
from smolalign.run_page.stages import borders, stages_of

HERE = Path(__file__).parent
TEMPLATE, SCRIPT = "run.html.jinja", "readout.js"
NAME = "report.html"
# Characters of a recipe that are shown; only one with very long lists has more.
RECIPE_CHARACTERS = 40_000


def write_page(folder: Path, out: Path | None) -> tuple[Path, Run]:
    """Write the page of a run, by default as `report.html` into its folder.

    Returns:
        The page's file, and what it is about.

    Raises:
        UserError: there is no run in the folder, or the page cannot be written.
    """
    from smolalign.store import write_text

    run = collect(folder)
    file = out or folder / NAME
    if file.is_dir():
        raise UserError("a folder, not a file", where=str(file), mend=f"--out {file / NAME}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(file)) from None
    write_text(file, render_run(run))
    return file, run


def render_run(run: Run) -> str:
    """The page of a run. It is the same whenever it is made from the same files; what texts hold is shown as text."""
    script = (HERE / SCRIPT).read_text(encoding="utf-8")
    problems = [(step.name, problem) for step in run.steps for problem in step.problems]
    trainings: list[dict[str, Any]] = []
    flows, scorers = [], []
    for step in run.steps:
        stages, unread_stages = stages_of(step)
        if (drawn := curves(step.logs, borders(stages))) or stages:
            trainings.append({"name": step.name, "figures": drawn, "stages": stages})
        flow, unread_flow = flow_of(step)
        flows += [flow] if flow else []
        scorer, unread_scorer = scorer_of(step)
        scorers += [scorer] if scorer else []
        problems += [(step.name, problem) for problem in (*unread_stages, *unread_flow, *unread_scorer)]
    evaluations = []
    for step in run.steps:
        if step.kind == "eval":
            shown, unread = samples(step)
            problems += [(step.name, problem) for problem in unread]
            evaluations.append({**_evaluation(step), "samples": shown})
    context: dict[str, Any] = {
        "title": run.name,
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "script": script,
        "version": __version__,
        "head": _head(run),
        "steps": _steps(run),
        "unfinished": [(step.name, _unfinished(step)) for step in run.steps if not step.finished],
        "warnings": [(step.name, text) for step in run.steps for text in _warnings(step)],
        "problems": problems,
        "trainings": trainings,
        "thinned": any(one["drawn"] < one["points"] for step in trainings for one in step["figures"]),
        "most_points": MOST_POINTS,
        "rows": [line for step in run.steps if (line := rows_of(step))],
        "flows": flows,
        "evaluations": evaluations,
        "scorers": scorers,
        "open_prompts": OPEN_PROMPTS,
        "prompt_characters": PROMPT_CHARACTERS,
        "reply_characters": REPLY_CHARACTERS,
        "recipes": [_recipe(step) for step in run.steps],
        "recipe_characters": RECIPE_CHARACTERS,
        "system": _system(run),
    }
    return page_environment(HERE).get_template(TEMPLATE).render(context)


def _evaluation(step: StepFolder) -> dict[str, Any]:
    last = next(reversed(list(table(step.metrics.get("table")))), "")
    found = {"scores": scores(step), "calls": call_errors(step), "showcase": showcase(step)}
    return {"name": step.name, "last": last, **found}


def _head(run: Run) -> dict[str, Any]:
    """The figures at the top of the page."""
    seconds = [found for step in run.steps if (found := number(step.manifest.get("wall_seconds"))) is not None]
    tokens = sum(max((line.get("num_tokens", 0.0) for line in step.logs), default=0.0) for step in run.steps)
    seeds = sorted({str(step.manifest["seed"]) for step in run.steps if "seed" in step.manifest})
    began = [str(step.manifest["started_at"]) for step in run.steps if step.manifest.get("started_at")]
    return {
        "done": sum(step.finished for step in run.steps),
        "steps": len(run.steps),
        "wall": say_seconds(sum(seconds)) if seconds else "\u2013",
        "tokens": round(tokens),
        "rows_in": sum(round(found) for step in run.steps if (found := (rows_of(step) or {}).get("rows_in"))),
        "seeds": ", ".join(seeds) or "\u2013",
        "began": min(began).replace("T", " ").replace("Z", " UTC") if began else "",
    }


def _steps(run: Run) -> list[dict[str, Any]]:
    """A line a step: its state, when it ran and for how long, and what it reached."""
    walls = [number(step.manifest.get("wall_seconds")) for step in run.steps]
    longest = max((wall for wall in walls if wall is not None), default=0.0)
    lines = []
    for step, wall in zip(run.steps, walls, strict=True):
        metrics = step.metrics
        cached = {None: "", True: "cached", False: "ran"}[step.cached]
        lines.append(
            {
                "name": step.name,
                "kind": step.kind,
                "state": step.state,
                "resumed": step.manifest.get("resumed") is True,
                "cached": cached,
                "began": str(step.manifest.get("started_at") or "").replace("T", " ").removesuffix("Z"),
                "wall": say_seconds(wall) if wall is not None else "\u2013",
                "bar": width(wall or 0.0, longest),
                "speed": number(metrics.get("tokens_per_second")),
                "loss": number(metrics.get("train_loss")),
                "held_before": number(metrics.get("eval_loss_before")),
                "held": number(metrics.get("eval_loss")),
            }
        )
    return lines


def _unfinished(step: StepFolder) -> str:
    """What is known of a step that has not finished."""
    if step.state == "unreadable":
        return "has a manifest that cannot be read"
    doing = "is at work" if step.state == "at work" else "was cut off, and goes on when it is run again"
    if step.reached is None:
        return doing
    last, planned = step.reached
    return f"{doing}; logged up to step {last:,}" + (f" of {planned:,}" if planned else "")


def _warnings(step: StepFolder) -> list[str]:
    """A step's warnings, without its name in front, which stands beside them."""
    return [str(text).removeprefix(f"{step.name}: ") for text in listed(step.manifest.get("warnings"))]


def _recipe(step: StepFolder) -> dict[str, Any]:
    inputs = {key: str(value) for key, value in table(step.manifest.get("inputs")).items()}
    explained = [str(line) for line in listed(step.manifest.get("explained"))]
    return {"name": step.name, "text": step.recipe_text, "inputs": inputs, "explained": explained}


def _system(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of name and value; a value that steps do not share names the steps that have it."""
    done = [step for step in run.steps if step.manifest]
    groups = []
    for title, key in (("Hardware", "hardware"), ("Versions", "versions")):
        names = dict.fromkeys(name for step in done for name in table(step.manifest.get(key)))
        values = {
            name: {step.name: _value(table(step.manifest.get(key)).get(name), name) for step in done} for name in names
        }
        groups.append((title, [(_named(name), _shared(found)) for name, found in values.items()]))
    own = {name: {step.name: _value(step.manifest.get(name)) for step in done} for name in ("seed", "processes")}
    groups.append(("Run", [(name, _shared(found)) for name, found in own.items()]))
    return [(title, [(name, value) for name, value in lines if value]) for title, lines in groups]


def _named(name: str) -> str:
    """A field's name in words; its unit behind it."""
    return "memory, GB" if name == "memory_bytes" else name.replace("_", " ")


def _value(value: object, name: str = "") -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_named(key)} {_value(inner, key)}" for key, inner in value.items())
    if name == "memory_bytes" and isinstance(value, int):
        return f"{value / 1e9:.1f}"
    return "" if value is None else str(value)


def _shared(by_step: Mapping[str, str]) -> str:
    """A value that all steps have, or each with the steps that have it; empty where none has one."""
    steps: dict[str, list[str]] = {}
    for name, value in by_step.items():
        steps.setdefault(value, []).append(name)
    if len(steps) == 1:
        return next(iter(steps))
    return "; ".join(f"{value or 'not noted'} ({', '.join(names)})" for value, names in steps.items())


def say_seconds(seconds: float) -> str:
    """A duration with its two largest units: `34 s`, `3 min 39 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
