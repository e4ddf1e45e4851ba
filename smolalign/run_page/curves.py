"""Curves over the steps of a training, as figures to draw: which ones there are, thinned out, scaled and labelled."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.run_page.scale import Scale, say, scale_of

# Points that a curve is drawn with at most: the lowest and the highest of each of half as many buckets.
MOST_POINTS = 300
# What is measured on held-out rows has a mark at each point, if it has no more of them: what lies between is not known.
HELD_OUT, MOST_MARKS = "held out", 30
# The drawing, in units of which text is 12 high; the margins at its sides hold the labels and the names of the curves.
WIDTH, HEIGHT, RIGHT, TOP, BOTTOM = 360.0, 190.0, 8.0, 10.0, 34.0
# A letter or digit is no wider, and lines of text are so far apart.
LETTER, LINE = 7.2, 14.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """A figure that a training may have: its title, its unit, and the name of each curve with the logged field."""

    title: str
    unit: str
    curves: tuple[tuple[str, str], ...]


def _both(title: str, unit: str, field: str) -> Asked:
    """A figure of what is logged in training and on held-out rows."""
    return Asked(title, unit, (("train", field), (HELD_OUT, f"eval_{field}")))


FIGURES = (
    _both("Loss", "", "loss"),
    _both("Reward margin", "chosen over rejected", "rewards/margins"),
    _both("Reward accuracy", "share of pairs", "rewards/accuracies"),
    Asked("Rewards", "in training", (("chosen", "rewards/chosen"), ("rejected", "rewards/rejected"))),
    _both("Gain in log-probability", "nats", "kl"),
    _both("Token accuracy", "share of tokens", "mean_token_accuracy"),
    Asked("Learning rate", "", (("", "learning_rate"),)),
    Asked("Gradient norm", "", (("", "grad_norm"),)),
    Asked("Speed", "tokens a second", (("", "tokens_per_second"),)),
    Asked("Memory held", "GB", (("", "memory_gb"),)),
)


def curves(logs: Sequence[dict[str, float]], borders: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The figures of a training's log, ready to draw; those without a point are left out.

    Args:
        logs: see `StepFolder.logs`.
        borders: steps at which a stage ends and another begins.
    """
    drawn = []
    for asked in FIGURES:
        found = [(name, points) for name, key in asked.curves if (points := points_of(logs, key))]
        if found:
            drawn.append(draw(asked.title, asked.unit, found, borders))
    return drawn


def points_of(logs: Sequence[dict[str, float]], field: str) -> list[Point]:
    """Step and value of each line that has the field, by step; of a step logged twice, the later line."""
    return sorted({line["step"]: line[field] for line in logs if field in line}.items())


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """No more points than `most`: the first, the last, and of each bucket of steps the lowest and the highest.

    So a spike stays, however many points there are.
    """
    if len(points) <= most:
        return list(points)
    inner, buckets = points[1:-1], (most - 2) // 2
    kept = [points[0]]
    for number in range(buckets):
        bucket = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        ends = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]


def draw(
    title: str, unit: str, found: Sequence[tuple[str, Sequence[Point]]], borders: Sequence[int] = ()
) -> dict[str, Any]:
    """A figure of one or several named curves, in the units of its drawing; the data for reading off is JSON text."""
    shown = [(name, thinned(points)) for name, points in found]
    values = [y for _, points in shown for _, y in points]
    across = scale_of([0.0, *(x for _, points in shown for x, _ in points)], whole=True)
    up = scale_of(values)
    names = [name for name, _ in shown if name and len(found) > 1]
    ups = [say(tick, up.step) for tick in up.ticks]
    left = 13 + LETTER * max(map(len, ups))
    right = WIDTH - RIGHT - (LETTER * max(map(len, names)) if names else 0)

    def at(point: Point) -> Point:
        x = left + (right - left) * across.part(point[0])
        return x, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * up.part(point[1])

    lines = []
    for name, points in shown:
        places = [at(point) for point in points]
        few = len(points) == 1 or (name == HELD_OUT and len(points) <= MOST_MARKS)
        lines.append(
            {
                "name": name,
                "path": "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in places) if len(places) > 1 else "",
                "marks": [{"x": f"{x:.1f}", "y": f"{y:.1f}"} for x, y in places] if few else [],
                "end": places[-1][1],
            }
        )
    return {
        "title": title,
        "unit": unit,
        "lines": lines,
        "names": _names(lines, right) if names else [],
        "ups": [{"y": f"{at((0, y))[1]:.1f}", "text": text} for y, text in zip(up.ticks, ups, strict=True)],
        "acrosses": _below(across, left, right),
        "borders": [f"{at((step, up.low))[0]:.1f}" for step in borders if across.low <= step <= across.high],
        "left": f"{left:.1f}",
        "labels": f"{left - 6:.1f}",
        "right": f"{right:.1f}",
        "last": _last(found),
        "summary": f"{title}{f', {unit}' if unit else ''}. " + " ".join(_in_words(*one) for one in found),
        "data": json.dumps(
            {
                "span": [round(left / WIDTH, 4), round(right / WIDTH, 4)],
                "steps": [across.low, across.high],
                "curves": [{"name": name, "at": [[x, _short(y)] for x, y in points]} for name, points in shown],
            },
            separators=(",", ":"),
        ),
        "points": sum(len(points) for _, points in found),
        "drawn": sum(len(points) for _, points in shown),
    }


def _below(across: Scale, left: float, right: float) -> list[dict[str, str]]:
    """The steps written below: as many as have room."""
    texts = [f"{tick:,.0f}" for tick in across.ticks]
    room = (right - left) / max(1, len(texts))
    every = max(1, math.ceil((LETTER * max(map(len, texts)) + 8) / room))
    width = right - left
    places = [(left + width * across.part(tick), text) for tick, text in zip(across.ticks, texts, strict=True)][::every]
    # One whose half would not fit at the drawing's end stands before its place.
    return [
        {"x": f"{x:.1f}", "text": text, "anchor": "middle" if x + LETTER * len(text) / 2 < WIDTH else "end"}
        for x, text in places
    ]


def _names(lines: Sequence[dict[str, Any]], right: float) -> list[dict[str, str]]:
    """Each curve's name where the curve ends, moved where two would touch."""
    order = sorted(range(len(lines)), key=lambda i: lines[i]["end"])
    heights: list[float] = []
    for i in order:
        low = heights[-1] + LINE if heights else TOP + 2
        heights.append(max(lines[i]["end"], low))
    beyond = max(0.0, heights[-1] - (HEIGHT - BOTTOM))
    return [
        {"name": lines[i]["name"], "number": str(i), "x": f"{right + 5:.1f}", "y": f"{y - beyond + 4:.1f}"}
        for i, y in zip(order, heights, strict=True)
    ]


def _last(found: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Where each curve ends, for the caption."""
    step = max(points[-1][0] for _, points in found)
    ends = [f"{name} {_say(points[-1][1])}".strip() for name, points in found]
    return f"{', '.join(ends)} at step {step:,.0f}"


def _in_words(name: str, points: Sequence[Point]) -> str:
    """What a curve does, for who cannot see it."""
    low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    (first, begin), (last, end) = points[0], points[-1]
    return (
        f"{name or 'It'}: from {_say(begin)} at step {first:,.0f} to {_say(end)} at step {last:,.0f}; "
        f"lowest {_say(low[1])} at step {low[0]:,.0f}, highest {_say(high[1])} at step {high[0]:,.0f}."
    )


def _say(value: float) -> str:
    """A value with four digits that count: `1.158`, `9,145`, `5.495e−5`."""
    text = f"{_short(value):,}" if value == 0 or abs(value) >= 1e-3 else f"{value:.4g}".replace("e-0", "e-")
    return text.replace("-", "\u2212")


def _short(value: float) -> float | int:
    """Four digits that count."""
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
