"""What each stage of a pretraining trained on and reached, beside what was asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smolalign.data.tokens.stream import Stream
from smolalign.train.curriculum import Plan, Stretch
from smolalign.train.stage_rows import HeldOutRows

Log = Mapping[str, Any]


def stage_figures(plan: Plan, stretch: Stretch, streams: Mapping[str, Stream]) -> dict[str, Any]:
    """A stage's plan and what was read for it, as JSON.

    Returns:
        `tokens` asked for and `tokens_seen`, `steps`, the run's `last_step` in it, `max_length`, `rope_theta`, `decay`;
        of each of its `sources` the shares `asked` and `seen`, `tokens`, `documents` that began, and `epochs`, passes
        over it by the stage's end; `in_long_documents`, the share of its tokens that stand in documents at least as
        long as a row.
    """
    read = plan.read_by(stretch)
    sources, long = {}, 0
    for name, tokens in read.items():
        begin = stretch.cursors[name]
        documents, of_long = streams[name].documents(begin, tokens, stretch.length)
        long += of_long
        sources[name] = {
            "asked": float(stretch.shares[name]),
            "seen": tokens / stretch.tokens,
            "tokens": tokens,
            "documents": documents,
            "epochs": round((begin + tokens) / plan.epoch_tokens[name], 4),
        }
    return {
        "stage": stretch.number,
        "name": stretch.name,
        "tokens": stretch.tokens,
        "tokens_seen": sum(read.values()),
        "steps": stretch.steps,
        "last_step": stretch.end,
        "max_length": stretch.length,
        "rope_theta": stretch.rope_theta,
        "decay": stretch.decays,
        "in_long_documents": round(long / stretch.tokens, 4),
        "sources": sources,
    }


def logged_figures(plan: Plan, stretch: Stretch, logs: Sequence[Log]) -> dict[str, Any]:
    """What the trainer logged in a stage: `skipped_steps`, `tokens_per_second` and `mfu`, means over its time."""
    skipped = {int(log["step"]): int(log["skipped_steps"]) for log in logs if "skipped_steps" in log}
    before = max((step for step in skipped if step <= stretch.first_step), default=None)
    last = max((step for step in skipped if stretch.first_step < step <= stretch.end), default=None)
    found: dict[str, Any] = {}
    if last is not None:
        found["skipped_steps"] = skipped[last] - (skipped[before] if before is not None else 0)
    tokens = seconds = used = 0.0
    logged = stretch.first_step
    for log in logs:
        if stretch.first_step < log["step"] <= stretch.end and "tokens_per_second" in log:
            new = (log["step"] - logged) * plan.step_tokens
            logged = log["step"]
            tokens, seconds = tokens + new, seconds + new / log["tokens_per_second"]
            used += log.get("mfu", 0.0) * new / log["tokens_per_second"]
    if seconds:
        found["tokens_per_second"] = round(tokens / seconds)
        if used:
            found["mfu"] = round(used / seconds, 4)
    return found


def held_out_figures(measured: Mapping[str, float], sets: Mapping[str, HeldOutRows]) -> dict[str, dict[str, float]]:
    """Loss, and bits for each byte of the text, of each held-out set that was measured.

    Args:
        measured: the trainer's figures, `eval_NAME_loss`, or `eval_loss` where there is one set.
        sets: by name.
    """
    found = {}
    for name, rows in sets.items():
        loss = measured.get("eval_loss" if len(sets) == 1 else f"eval_{name}_loss")
        if loss is not None:
            found[name] = {"loss": round(loss, 4)}
            if rows.text_bytes:
                found[name]["bits_per_byte"] = round(loss * rows.predicted / math.log(2) / rows.text_bytes, 4)
    return found


def overall_loss(measured: Mapping[str, float], sets: Mapping[str, HeldOutRows], suffix: str = "") -> float | None:
    """The mean loss over the tokens of all held-out sets; None where one was not measured.

    Args:
        measured: as for `held_out_figures`.
        sets: by name.
        suffix: of the figures' names, such as `_before`.
    """
    names = [f"eval_{name}_loss{suffix}" for name in sets]
    if not sets or not all(name in measured for name in names):
        return None
    counts = [rows.predicted for rows in sets.values()]
    return sum(measured[name] * count for name, count in zip(names, counts, strict=True)) / max(1, sum(counts))


def measured_at(logs: Sequence[Log], step: int) -> dict[str, float]:
    """The held-out figures that were logged at a step."""
    return {name: value for log in logs if log["step"] == step for name, value in log.items() if "eval_" in name}


def read_logs(file: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def lines(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Two tables for the screen: what the stages were, and what they were of."""
    heads = [
        "stage",
        "tokens",
        "steps",
        "rows of",
        "theta",
        "learning rate",
        "held-out",
        "bits/byte",
        "tokens/s",
        "MFU",
    ]
    yield from _table(heads, [_stage_cells(stage) for stage in stages], left=1)
    heads = ["stage", "source", "asked", "seen", "tokens", "documents", "epochs"]
    rows = [
        [
            f"{stage['stage']} {stage['name']}",
            name,
            f"{100 * of['asked']:.2f} %",
            f"{100 * of['seen']:.2f} %",
            f"{of['tokens']:,}",
            f"{of['documents']:,}",
            f"{of['epochs']:.2f}",
        ]
        for stage in stages
        for name, of in stage["sources"].items()
    ]
    yield from _table(heads, rows, left=2)


def _stage_cells(stage: Mapping[str, Any]) -> list[str]:
    rates = stage.get("learning_rate")
    held_out = stage.get("held_out", {}).values()
    return [
        f"{stage['stage']} {stage['name']}",
        f"{stage['tokens_seen']:,}",
        f"{stage['steps']:,}" + (f" ({stage['skipped_steps']} left out)" if stage.get("skipped_steps") else ""),
        f"{stage['max_length']:,}",
        f"{stage['rope_theta']:g}",
        f"{rates[0]:.2g} to {rates[1]:.2g}" if rates else "",
        " ".join(f"{one['loss']:.3f}" for one in held_out),
        " ".join(f"{one['bits_per_byte']:.3f}" for one in held_out if "bits_per_byte" in one),
        f"{stage['tokens_per_second']:,}" if "tokens_per_second" in stage else "",
        f"{100 * stage['mfu']:.0f} %" if "mfu" in stage else "",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """Columns beside each other, the first ones flush left; those without an entry are left out."""
    kept = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    cells = [[line[index] for index in kept] for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()
