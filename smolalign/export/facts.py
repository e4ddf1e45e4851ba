"""What a model folder's files say of the model, without its weights being loaded. Standard library only."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.store import read_json

# Dtypes of safetensors, by their names in torch.
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Sizes of a model.

    Attributes:
        parameters: numbers in its weights; those that two layers share are counted once.
        dtypes: of the weights, by torch's names.
        config: its `config.json`.
        chat: whether it has a chat template.
    """

    parameters: int
    dtypes: list[str]
    config: dict[str, Any]
    chat: bool


def read_facts(folder: Path) -> Facts:
    """Read the sizes of the model in a folder.

    Raises:
        UserError: a file of weights is not whole.
    """
    parameters, dtypes = 0, set()
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in _header(file).items():
            if name != "__metadata__":
                parameters += math.prod(tensor["shape"])
                dtypes.add(_DTYPES.get(tensor["dtype"], tensor["dtype"].lower()))
    config = read_json(folder / "config.json") or {}
    tokenizer = read_json(folder / "tokenizer_config.json") or {}
    chat = (folder / "chat_template.jinja").is_file() or "chat_template" in tokenizer
    return Facts(parameters, sorted(dtypes), config, chat)


def _header(file: Path) -> dict[str, Any]:
    """The header of a file in safetensors' format: its length in 8 bytes, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if 8 + length > file.stat().st_size:
                raise ValueError("the header is longer than the file")
            header: dict[str, Any] = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            if 8 + length + max(ends, default=0) > file.stat().st_size:
                raise ValueError("weights are missing at its end")
            return header
    except (OSError, ValueError, struct.error, KeyError, TypeError) as error:
        raise UserError(f"the weights in {file.name} are not whole: {error}", where=str(file.parent)) from None
