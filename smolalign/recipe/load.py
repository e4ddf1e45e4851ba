"""YAML to recipe: every problem at once, each with file, line, value and the mend."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from smolalign.errors import UserError, UserErrors
from smolalign.recipe.explain import explain
from smolalign.recipe.schema import KINDS, PipelineStep, Step
from smolalign.recipe.tree import Places, extended, read_yaml

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as read: its step, the file it came from, and the folder that its relative paths start from."""

    step: Step
    file: Path
    folder: Path
    places: Places = field(default_factory=dict)
    """`file:line` of every key path in the file, and in those that it extends."""

    def where(self, key: str) -> str:
        """`file:line` of a key, as far as it stands in a file."""
        return self.places.get((key,), str(self.file))

    @property
    def kind(self) -> str:
        return str(getattr(self.step, "kind"))  # noqa: B009 - every kind's model has it, the base class does not


def load_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check one recipe file, with what it extends.

    Args:
        file: the YAML file.
        overrides: `key.path=value` strings, the value in YAML, applied before the check.

    Raises:
        UserErrors: everything that is wrong with it.
    """
    tree, places = extended(read_yaml(file), file)
    _apply_overrides(tree, overrides)
    folder = file.resolve().parent
    return Recipe(_validated(tree, places, file, folder), file, folder, places)


def load_pipeline_steps(pipeline: Recipe, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """The steps of a pipeline recipe, in order, each checked.

    Args:
        pipeline: a recipe of kind `pipeline`.
        overrides: `step.key.path=value` strings.

    Raises:
        UserErrors: everything that is wrong in any of its steps.
    """
    assert isinstance(pipeline.step, PipelineStep)
    by_step = _overrides_by_step(list(pipeline.step.steps), overrides)
    _, places = extended(read_yaml(pipeline.file), pipeline.file)
    steps: dict[str, Recipe] = {}
    problems: list[UserError] = []
    for name, content in pipeline.step.steps.items():
        try:
            if isinstance(content, str):
                file = pipeline.folder / content
                if not file.is_file():
                    where = places.get(("steps", name), str(pipeline.file))
                    raise UserError(f"steps.{name}: no file {content!r}", where=where, mend="name a recipe file")
                steps[name] = load_recipe(file, by_step[name])
            else:
                inner = {key[2:]: place for key, place in places.items() if key[:2] == ("steps", name)}
                tree, inner = extended((copy.deepcopy(content), inner), pipeline.file)
                _apply_overrides(tree, by_step[name])
                step = _validated(tree, inner, pipeline.file, pipeline.folder)
                steps[name] = Recipe(step, pipeline.file, pipeline.folder, inner)
        except UserErrors as errors:
            problems += errors.errors
        except UserError as error:
            problems.append(error)
    if problems:
        raise UserErrors(problems)
    return steps


def recipe_from_options(kind: str, model: str, data: Sequence[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that `--model` and `--data` stand for, everything else at its default; paths start from here."""
    return recipe_from_tree({"kind": kind, "model": model, "data": [{"source": s} for s in data]}, overrides)


def recipe_from_tree(tree: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that options of the command line stand for; paths start from here."""
    _apply_overrides(tree, overrides)
    file = Path("(command line)")
    return Recipe(_validated(tree, {}, file, Path.cwd()), file, Path.cwd())


def dump_recipe(step: BaseModel) -> str:
    """The recipe as YAML that reads back as the same recipe."""
    return dump_yaml(step.model_dump(mode="json"))


def dump_yaml(tree: Any) -> str:
    """A JSON value as YAML that reads back as the same value."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes text with Unicode's own line breaks in double quotes, which escape them; YAML folds them elsewhere."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(character in data for character in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _overrides_by_step(names: list[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    by_step: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        name, dot, rest = override.partition(".")
        if not dot or name not in by_step:
            close = difflib.get_close_matches(name, names, n=1)
            mend = f"did you mean {close[0]}?" if close else f"begin with one of {', '.join(names)} and a dot"
            raise UserError(f"override {override!r} names no step of this pipeline", mend=mend)
        by_step[name].append(rest)
    return by_step


def _apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise UserError(f"override {override!r} is not key.path=value", mend="write for example seed=7")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"override {override!r}: the value is not YAML", mend="quote it") from None
        _set(tree, path.split("."), value, override)


def _set(tree: Any, keys: list[str], value: Any, override: str) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(tree, list):
            if not key.isdigit() or int(key) >= len(tree):
                raise UserError(f"override {override!r}: {key!r} is no index of that list of {len(tree)}")
            index = int(key)
            if last:
                tree[index] = value
            else:
                tree = tree[index]
        elif isinstance(tree, dict):
            if last:
                tree[key] = value
            else:
                if tree.get(key) is None:
                    tree[key] = {}
                tree = tree[key]
        else:
            raise UserError(f"override {override!r}: {'.'.join(keys[:depth])} has no keys")


def _validated(tree: dict[str, Any], places: Places, file: Path, folder: Path) -> Step:
    kind = tree.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(KINDS)}"
        what = "no kind" if kind is None else f"unknown kind {kind!r}"
        raise UserError(what, where=places.get(("kind",), f"{file}:1"), mend=mend)
    try:
        return KINDS[kind].model_validate(_as_meant(tree), context={"folder": folder})
    except ValidationError as error:
        problems = [explain(KINDS[kind], tree, detail, places, file) for detail in error.errors()]
        raise UserErrors(problems) from None


def _as_meant(tree: Any) -> Any:
    """The tree with what YAML 1.1 misreads under `trainer`, where no schema knows better: `1e-3` as text, and the `no`
    of TRL's strategies as false."""
    if isinstance(tree, dict) and "trainer" in tree:
        return {**tree, "trainer": _trainer_as_meant(tree["trainer"])}
    return tree


def _trainer_as_meant(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _trainer_as_meant(item, str(key)) for key, item in value.items()}
    if value is False and key.endswith("_strategy"):
        return "no"
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
