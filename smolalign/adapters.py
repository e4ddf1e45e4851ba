"""Folders of adapters in peft's format that stand for a model: which they are, and where their base is."""

from __future__ import annotations

from pathlib import Path

from smolalign.errors import UserError
from smolalign.store import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that adapters were trained over: the path of a folder or `.gguf` file, or a Hub id.

    A relative path is looked for in the adapters' folder, then in the current one.

    Raises:
        UserError: the folder is not whole, or names a base that is not there.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"the adapters in {folder} have no {WEIGHTS}", mend="name a whole adapter folder")
    config = read_json(folder / CONFIG)
    if config is None:
        raise UserError(f"{folder / CONFIG} is not JSON", mend="name a whole adapter folder")
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    mend = mend_base(folder)
    if not isinstance(name, str) or not name:
        raise UserError(f"the adapters in {folder} do not name their base model", mend=mend)
    for place in (folder / name, Path(name)):
        if _is_model(place) and place.resolve() != folder.resolve():
            return str(place.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"the base model of the adapters in {folder} is not there: {name}", mend=mend)
    return f"{name}@{revision}" if revision else name


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or is_adapter(path) or (path.suffix == ".gguf" and path.is_file())


def mend_base(folder: Path) -> str:
    """What to do where the base of adapters cannot be had."""
    return f"set base_model_name_or_path in {folder / CONFIG} to the model that they were trained over"


def merging(folder: Path) -> str:
    """What loading an adapter folder as a model does, in words."""
    return f"adapters of {folder} merged into {base_of(folder)}"


def adapters_beside(model: Path) -> bool:
    """Whether a checkpoint is a step's `model/` that keeps, merged, what the step's `adapter/` holds."""
    return model.name == "model" and is_adapter(model.parent / "adapter")
