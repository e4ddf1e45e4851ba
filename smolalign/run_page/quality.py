"""How good the scorer of a quality step is on annotations that it was not trained on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from smolalign.run_page.collect import StepFolder, number


class _Figures(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Shares(_Figures):
    precision: float | None
    recall: float | None
    f1: float | None


class _Threshold(_Shares):
    threshold: int
    wanted: int
    kept: int


class _Part(_Shares):
    """What is shown of `quality.figures.held_out_figures`, of all texts or of one kind."""

    held_out: int
    mean_absolute_error: float
    spearman: float | None


class _Report(_Part):
    texts: int
    thresholds: list[_Threshold]
    confusion: list[list[int]]
    kinds: dict[str, _Part] = {}


def scorer_of(step: StepFolder) -> tuple[dict[str, Any] | None, list[str]]:
    """The figures of a step's scorer, None where it has none; and what could not be understood."""
    if step.kind != "quality" or "thresholds" not in step.metrics:
        return None, []
    try:
        report = _Report.model_validate(dict(step.metrics)).model_dump()
    except ValidationError as error:
        where = ".".join(map(str, ("metrics", *error.errors()[0]["loc"])))
        return None, [f"step.json is not as this version writes it, at {where}"]
    parts = [("all", report), *report["kinds"].items()]
    threshold = number(step.recipe.get("threshold"))
    return {"step": step.name, "threshold": threshold, "parts": parts, **report}, []
