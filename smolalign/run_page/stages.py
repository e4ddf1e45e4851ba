"""The stages of a pretraining: what each was of and reached, and what it read of each source beside what was asked."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smolalign.run_page.collect import StepFolder, listed


class _Figures(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _HeldOut(_Figures):
    loss: float
    bits_per_byte: float | None = None


class _Source(_Figures):
    asked: float
    seen: float
    tokens: int
    documents: int
    epochs: float


class _Stage(_Figures):
    """What is shown of a stage's figures, `train.stage_report.stage_figures` and what the trainer logged."""

    stage: int
    name: str
    tokens: int
    tokens_seen: int
    steps: int
    last_step: int | None = None
    max_length: int
    rope_theta: float
    sources: dict[str, _Source]
    learning_rate: list[float] = Field([], max_length=2)
    skipped_steps: int | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    held_out: dict[str, _HeldOut] = {}


def stages_of(step: StepFolder) -> tuple[list[dict[str, Any]], list[str]]:
    """The stages that a step trained, none where it noted none; and what could not be understood."""
    found = []
    for index, stage in enumerate(listed(step.metrics.get("stages"))):
        try:
            found.append(_Stage.model_validate(stage).model_dump())
        except ValidationError as error:
            where = ".".join(map(str, ("metrics", "stages", index, *error.errors()[0]["loc"])))
            return [], [f"step.json is not as this version writes it, at {where}"]
    for stage in found:
        stage["rates"] = " to ".join(f"{rate:.2g}".replace("e-0", "e\u2212") for rate in stage["learning_rate"])
    return found, []


def borders(stages: list[dict[str, Any]]) -> list[int]:
    """The optimizer steps at which a stage ends and another begins."""
    return [stage["last_step"] for stage in stages[:-1] if stage["last_step"] is not None]
