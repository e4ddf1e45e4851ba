"""What `export` is asked for, found: a model's files, and how the model came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolalign.adapters import base_of, is_adapter
from smolalign.errors import UserError
from smolalign.export.provenance import Provenance, is_unchanged, provenance, root_of
from smolalign.store import read_manifest


@dataclass(frozen=True, slots=True)
class Source:
    """A model to export.

    Attributes:
        reference: what loads it: a folder, a `.gguf` file or a Hub id.
        origin: the steps that made it, as far as they are known.
        notes: what a person should know, a line each.
        own_card: whether a card that lies beside the model is whoever's made it, and goes with it.
    """

    reference: str
    origin: Provenance
    notes: list[str] = field(default_factory=list)
    own_card: bool = False


def find(model: str) -> Source:
    """The model that an argument means.

    Args:
        model: a run's folder (its last model), a step's folder, a model or adapter folder, a `.gguf` file or a Hub id.

    Raises:
        UserError: there is none, or there are several.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        # What lies around a step is found by the step's own name.
        return _in_folder(path.resolve() if path.name in ("", "..", "model", "adapter") else path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"{model} is no model", mend="name a folder, a .gguf file or a Hub id")
        return Source(str(path), Provenance(root=path.name))
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UserError(f"no model {model}", mend="name a run's, step's or model's folder, a .gguf file or a Hub id")
    return Source(model, Provenance(root=model), own_card=True)


def _in_folder(folder: Path) -> Source:
    if manifest := read_manifest(folder):
        return _of_step(folder, manifest)
    if folder.name in ("model", "adapter") and (manifest := read_manifest(folder.parent)):
        return _of_step(folder.parent, manifest)
    if is_adapter(folder):
        base = base_of(folder)
        return Source(str(folder), Provenance(root=root_of(base)), [f"adapters of {folder} merged into {base}"])
    if (folder / "config.json").is_file():
        return Source(str(folder), Provenance(), own_card=True)
    return _last_of_run(folder)


def _of_step(folder: Path, manifest: Mapping[str, Any]) -> Source:
    if not (folder / "model").is_dir():
        raise UserError(f"{folder} is a step of kind {manifest.get('kind')}, which makes no model")
    if not is_unchanged(folder, manifest):
        note = f"the files of {folder} are not those that the step wrote: the card does not say how they were made"
        return Source(str(folder / "model"), Provenance(), [note])
    origin = provenance(folder, manifest)
    return Source(str(folder / "model"), origin, [f"not known: {line}" for line in origin.lost])


def _last_of_run(folder: Path) -> Source:
    """The model of a run that no other model of it was made from."""
    steps = {
        step.name: manifest
        for step in sorted(folder.iterdir())
        if (step / "model").is_dir() and (manifest := read_manifest(step))
    }
    if not steps:
        mend = "name a run's, a step's or a model's folder"
        raise UserError(f"{folder} holds no model: it has no config.json, and no finished step with one", mend=mend)
    begun_with = {reference for manifest in steps.values() for reference in manifest.get("inputs", {})}
    last = [name for name in steps if f"@{name}" not in begun_with]
    if len(last) != 1:
        raise UserError(
            f"{folder} ends in several models", mend=f"name one: {', '.join(str(folder / n) for n in last)}"
        )
    return _of_step(folder / last[0], steps[last[0]])
