"""Whether a folder is a whole checkpoint in Transformers format, and if not, what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

from smolalign.errors import UserError

_INDEX = "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
# Pickles, which run code when they are read.
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def require_config(folder: Path, reference: str, mend: str) -> None:
    """Raise UserError unless the folder holds a readable `config.json`.

    Args:
        folder: the checkpoint's.
        reference: what it is called.
        mend: what to do about a file that is broken.
    """
    file = folder / "config.json"
    if not file.is_file():
        inside = folder / "model"
        near = f"did you mean {inside}?" if inside.is_dir() else "name a step's model/ folder"
        raise UserError(f"cannot load the model {reference}: it has no config.json", mend=near)
    _object(file, reference, mend)


def require_tokenizer(folder: Path, reference: str, mend: str) -> None:
    """Raise UserError unless the folder holds a tokenizer's tokens; arguments as above.

    Without them Transformers may make a tokenizer that knows no token.
    """
    if not any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern)):
        what = f"cannot load the model {reference}: it has no tokenizer.json"
        raise UserError(what, mend="name a checkpoint with its tokenizer")
    if (file := folder / "tokenizer.json").is_file():
        _object(file, reference, mend)


def require_weights(folder: Path, reference: str, mend: str) -> None:
    """Raise UserError unless the folder holds all weights in safetensors, each file whole; arguments as above."""
    from safetensors import SafetensorError, safe_open

    single = folder / "model.safetensors"
    names = [single.name]
    if not single.is_file():
        if not (folder / _INDEX).is_file():
            raise UserError(f"cannot load the model {reference}: {_without_weights(folder)}", mend=_CONVERT)
        listed = _object(folder / _INDEX, reference, mend).get("weight_map")
        names = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
        if missing := [name for name in names if not (folder / name).is_file()]:
            what = f"{len(missing)} of its {len(names)} weight files are missing, such as {missing[0]}"
            raise UserError(f"cannot load the model {reference}: {what}", mend=mend)
    for name in names:
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            what = f"{name} is cut off or broken ({' '.join(str(error).split())[:120]})"
            raise UserError(f"cannot load the model {reference}: {what}", mend=mend) from None


_CONVERT = "name a model with model.safetensors; Transformers' save_pretrained writes it"


def _without_weights(folder: Path) -> str:
    found = next((file.name for pattern in _PICKLED for file in sorted(folder.glob(pattern))), None)
    if found:
        return f"its weights are pickled ({found}), and only safetensors are loaded: a pickle runs code"
    return "it has no weights in safetensors, and no others are loaded"


def _object(file: Path, reference: str, mend: str) -> dict[str, object]:
    """The object in a JSON file of a checkpoint."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"cannot load the model {reference}: {file.name} is not JSON: {error}", mend=mend) from None
    if not isinstance(found, dict):
        raise UserError(f"cannot load the model {reference}: {file.name} is no JSON object", mend=mend)
    return found
