"""What a cluster is asked to run: one command of smolalign, its devices, and how it is cut up among machines."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smolalign.errors import UserError
from smolalign.recipe.load import Recipe
from smolalign.recipe.schema import EvalStep, TrainStep
from smolalign.recipe.tree import PATH_KEYS

# Keys of a recipe whose value may be a path.
_PATHS = PATH_KEYS - {"extends"}


@dataclass(frozen=True, slots=True)
class Job:
    """A job of `gpus` on each of `nodes` machines; where it trains, a process for each GPU."""

    name: str
    """Of letters, digits, `.`, `_` and `-` alone."""
    command: tuple[str, ...]
    """Of smolalign: `run RECIPE …`, without what divides it among processes."""
    trains: bool
    gpus: int = 1
    nodes: int = 1
    config: str = "ddp"

    @property
    def processes(self) -> int:
        """That train together, on all machines."""
        return self.gpus * self.nodes

    def words(self) -> tuple[str, ...]:
        """The command, divided among processes where it trains in more than one; a machine's own number is left out."""
        if not self.trains or self.processes == 1:
            return self.command
        return (*self.command, "--launch", "accelerate", "--processes", str(self.processes), "--config", self.config)


def job_name(text: str) -> str:
    """A name that clusters take, made of any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "smolalign"


def require_devices(job: Job) -> None:
    """Raises UserError where the devices that are asked for would have nothing to do."""
    if not job.trains and job.processes > 1:
        devices = f"{job.gpus} GPUs" if job.nodes == 1 else f"{job.nodes} machines of {job.gpus}"
        raise UserError(f"nothing in it trains, and one process is all that it uses of {devices}", mend="--gpus 1")


def trains(steps: Iterable[Recipe]) -> bool:
    """Whether any of the steps trains."""
    return any(isinstance(recipe.step, TrainStep) for recipe in steps)


def extras(steps: Iterable[Recipe]) -> list[str]:
    """The package's extras that steps need, sorted."""
    found = set()
    for recipe in steps:
        if isinstance(recipe.step, EvalStep):
            found.add("eval")
        filters = [getattr(recipe.step, "filters", None), *(s.filters for s in getattr(recipe.step, "data", []))]
        if any(one and one.language for one in filters):
            found.add("language")
    return sorted(found)


def local_files(recipes: Iterable[Recipe]) -> list[Path]:
    """Every file and folder beside the recipes that they are made of or read, sorted.

    Raises:
        UserError: a path starts at the root or at home, and would lead nowhere on another machine.
    """
    found: set[Path] = set()
    for recipe in recipes:
        found |= set(_recipe_files(recipe.file))
        for value in _paths(recipe.step.model_dump()):
            path = recipe.folder / Path(value).expanduser()
            if value.startswith("@") or not path.exists():
                continue
            if value.startswith(("/", "~")):
                what = f"{value} is a path on this machine alone"
                raise UserError(what, where=str(recipe.file), mend="name it by its place beside the recipe")
            found.add(Path(_absolute(path)))
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


def _recipe_files(file: Path) -> Iterable[Path]:
    """A recipe's file, and those that it extends."""
    while file.is_file():
        yield Path(_absolute(file))
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        below = tree.get("extends") if isinstance(tree, dict) else None
        if not isinstance(below, str):
            return
        file = file.parent / below


def _paths(tree: Mapping[str, Any], parent: str = "") -> Iterable[str]:
    """Values of a recipe that may be paths."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, key)
        elif isinstance(value, list):
            yield from (path for item in value if isinstance(item, Mapping) for path in _paths(item))
        elif isinstance(value, str) and value and (key in _PATHS or parent == "models"):
            yield value


def _absolute(path: Path) -> str:
    """Without `..`, and without following links."""
    return os.path.abspath(path)
