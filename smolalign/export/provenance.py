"""How a model came to be: the steps behind it as their manifests tell them, and the scores that were measured on it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolalign.adapters import base_of, is_adapter
from smolalign.data.sources import data_files
from smolalign.errors import UserError
from smolalign.store import digest_files, digest_model, output_files, read_manifest


@dataclass(frozen=True, slots=True)
class Made:
    """A step that a model is made by: its manifest, its folder, and the tokens that it trained on, if known."""

    manifest: Mapping[str, Any]
    folder: Path
    tokens_seen: int | None

    @property
    def name(self) -> str:
        return str(self.manifest.get("name", self.folder.name))

    @property
    def kind(self) -> str:
        return str(self.manifest.get("kind", "unknown"))


@dataclass(frozen=True, slots=True)
class Score:
    """A figure that an eval step measured on the model: shares are from 0 to 1.

    Attributes:
        title: the measurement's name in the eval recipe.
        metric: of its figures, which one.
        stderr: the standard error, where one is known.
        items: what was measured on.
        task: the measurement's block in the recipe.
        step: the eval step's name.
    """

    title: str
    metric: str
    value: float
    stderr: float | None
    items: int | None
    task: Mapping[str, Any]
    step: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Steps from the first to the one that made the model; none of a model that no step made.

    Attributes:
        lost: what is not known of the chain, a line each.
        root: what the first training began with: a Hub id with its revision, or a file's or folder's name; None where
            it began with nothing.
        scores: of eval steps beside it.
    """

    steps: list[Made] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    root: str | None = None
    scores: list[Score] = field(default_factory=list)


def provenance(folder: Path, manifest: Mapping[str, Any]) -> Provenance:
    """Follow the inputs of a step up to where they came from.

    A step above counts only while it is what the steps below read: one that has run again since is told as lost.

    Args:
        folder: the step's folder.
        manifest: its manifest, which need not be written yet.
    """
    steps: dict[Path, Made] = {}
    lost: list[str] = []
    roots: list[str] = []

    def follow(folder: Path, manifest: Mapping[str, Any]) -> None:
        model = str(manifest.get("recipe", {}).get("model") or "")
        # The chain of models first, then the rows that were made for a step.
        inputs = sorted(_inputs(manifest), key=lambda one: not _names(one[0], model))
        for reference, digest in inputs:
            if reference.startswith("@"):
                name, _, split = reference[1:].partition(":")
                above = folder.parent / name
                found = read_manifest(above)
                if above in steps:
                    continue
                if found is None:
                    lost.append(f"the step {name} is not there any more")
                elif not _is_what_was_read(above, found, split, digest):
                    lost.append(f"the step {name} has run again since; what it was before is not known")
                else:
                    follow(above, found)
        if model and not any(reference.startswith("@") and _names(reference, model) for reference, _ in inputs):
            other = _step_of_another_run(Path(model), dict(inputs).values())
            if other:
                follow(*other)
            else:
                roots.append(root_of(model))
        steps[folder] = Made(manifest, folder, tokens_seen(folder / "metrics.jsonl"))

    follow(folder, manifest)
    found = list(dict.fromkeys(lost))
    return Provenance(list(steps.values()), found, roots[-1] if roots else None, scores(folder, manifest))


def root_of(model: str) -> str:
    """What a model is called outside this machine: a Hub id with its revision, or the last part of a path."""
    path = Path(model)
    try:
        while is_adapter(path):
            path = Path(base_of(path))
    except UserError:
        return path.name
    return path.name if path.exists() or path.is_absolute() else str(path)


def is_unchanged(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a step's output is what its manifest says."""
    return manifest.get("output") == digest_files(folder, output_files(folder))


def scores(folder: Path, manifest: Mapping[str, Any]) -> list[Score]:
    """What the eval steps of a step's run measured on its model as it is."""
    output = manifest.get("output")
    if output is None:
        return []
    found: list[Score] = []
    for beside in sorted(folder.parent.iterdir()):
        measured = read_manifest(beside) if beside.is_dir() else None
        if measured and measured.get("kind") == "eval":
            inputs, models = dict(_inputs(measured)), measured.get("recipe", {}).get("models", {})
            reference = f"@{folder.name}"
            for name, model in models.items():
                if inputs.get(reference) == output and _names(reference, model):
                    found += _scores_of(name, measured)
                    break
    return found


def _scores_of(model: str, manifest: Mapping[str, Any]) -> Iterator[Score]:
    metrics, tasks = manifest.get("metrics", {}), manifest.get("recipe", {}).get("tasks", {})
    details = metrics.get("details", {}).get(model, {})
    for column, value in metrics.get("table", {}).get(model, {}).items():
        title = max((title for title in tasks if column.startswith(f"{title}.")), key=len, default=None)
        if title is None or not isinstance(value, int | float):
            continue
        metric = column.removeprefix(f"{title}.")
        stderr = details.get(title, {}).get("stderr", {}).get(metric)
        items = metrics.get("items", {}).get(title)
        yield Score(title, metric, value, stderr, items, tasks[title], str(manifest.get("name", "eval")))


def tokens_seen(metrics: Path) -> int | None:
    """The tokens that a training saw, from its log; a run that was taken up counted anew from zero.

    Args:
        metrics: the file of logged lines.
    """
    try:
        logged = [json.loads(line).get("num_tokens") for line in metrics.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, AttributeError):
        return None
    counts = [float(count) for count in logged if count is not None]
    if not counts:
        return None
    ends = [before for before, after in itertools.pairwise(counts) if after < before]
    return round(sum(ends) + counts[-1])


def _inputs(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(manifest.get("inputs", {}).items())


def _names(reference: str, path: str) -> bool:
    """Whether a resolved path is the model of the step that a reference names."""
    return Path(path).parts[-2:] == (reference[1:], "model")


def _is_what_was_read(folder: Path, manifest: Mapping[str, Any], split: str, digest: str) -> bool:
    if not split and manifest.get("output") == digest:
        return True
    rows = folder / "data"
    try:
        return digest_files(rows, data_files(rows, split or "train")) == digest
    except UserError:
        return False


def _step_of_another_run(model: Path, digests: Any) -> tuple[Path, Mapping[str, Any]] | None:
    """The step whose `model/` a path is, while it is what was read."""
    manifest = read_manifest(model.parent) if model.name == "model" and model.is_dir() else None
    if manifest is None or digest_model(model) not in digests or not is_unchanged(model.parent, manifest):
        return None
    return model.parent, manifest
