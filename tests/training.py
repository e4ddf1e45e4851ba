"""What the tests of training steps share: a recipe beside its data, its run, and what it left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import Ran, write_jsonl
from safetensors.torch import load_file

Cli = Callable[..., Ran]

PLAIN: dict[str, Any] = {"logging_steps": 1, "lr_scheduler_type": "constant", "max_grad_norm": 0, "weight_decay": 0}


def write_recipe(folder: Path, kind: str, rows: Iterable[Any], *, trainer: dict[str, Any], **fields: Any) -> Path:
    """A recipe beside its data, with a batch of all rows unless the trainer's fields say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    write_jsonl(folder / "rows.jsonl", rows)
    batch = {"per_device_train_batch_size": len(rows), "max_steps": 1, "learning_rate": 1e-3}
    recipe = {"kind": kind, "data": [{"source": "rows.jsonl"}], "max_length": 512, "seed": 3, **fields}
    recipe["trainer"] = {**PLAIN, **batch, **trainer}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def run(cli: Cli, kind: str, recipe: Path, *overrides: str, out: str = "out") -> Path:
    """Run the step; the folder of what it made."""
    target = recipe.parent / out
    ran = cli(kind, recipe, *overrides, "--out", target)
    assert ran.code == 0, ran.err
    return target / kind


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    """To the bit."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def difference(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    return max((first[name] - second[name]).abs().max().item() for name in first)
