"""`smolalign export`: a model in one of the formats that others read."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smolalign.errors import UserError

# Modules, named and not imported. Each has `TAKES`, the wishes that are its own, and `export(source, wishes, say)`;
# those that `--compare` measures also have `require(source, wishes)`, which refuses what it can before any is loaded.
FORMATS = {
    "merged": "smolalign.export.merged",
    "int8": "smolalign.export.quantized",
    "nf4": "smolalign.export.quantized",
    "hub": "smolalign.export.hub",
    "gguf": "smolalign.export.gguf",
    "ollama": "smolalign.export.ollama",
}
COMPARED = tuple(name for name in FORMATS if name not in ("hub", "ollama"))
# Formats that people ask for and no library writes, with why.
NOT_TO_BE_HAD = {
    "onnx": "ONNX is not written: the last optimum-onnx, 0.1.0, works with Transformers 4 alone; see docs/export.md",
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person asked for; each format takes some of it.

    Attributes:
        to: the format, one of `FORMATS`.
        dtype: of the weights, by torch's name; `auto` for what they have.
        types: of the weights, as the format calls them, such as `q8_0`; empty for its own choice.
    """

    to: str
    out: Path | None = None
    repo: str | None = None
    private: bool = False
    revision: str | None = None
    force: bool = False
    licence: str | None = None
    dry_run: bool = False
    types: tuple[str, ...] = ()
    dtype: str = "auto"


def export(model: str, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Export a model.

    Args:
        model: see `source.find`.
        wishes: what was asked for.
        say: shows a line.

    Raises:
        UserError: the format is none, the wishes do not fit it, or the export cannot be made.
    """
    to = wishes.to
    if to in NOT_TO_BE_HAD:
        raise UserError(NOT_TO_BE_HAD[to], mend=f"use one of {', '.join(FORMATS)}")
    if to not in FORMATS:
        close = difflib.get_close_matches(to, FORMATS, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(FORMATS)}"
        raise UserError(f"no format {to!r} to export to", mend=mend)
    if wishes.licence and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", wishes.licence):
        mend = "see https://huggingface.co/docs/hub/repositories-licenses"
        raise UserError(f"{wishes.licence!r} is no licence's identifier, such as apache-2.0", mend=mend)
    if wishes.dtype not in ("auto", *DTYPES):
        raise UserError(f"no dtype {wishes.dtype!r}", mend=f"use one of auto, {', '.join(DTYPES)}")
    format = importlib.import_module(FORMATS[to])
    for name in ("out", "repo", "private", "revision", "force", "types", "dtype"):
        if getattr(wishes, name) not in (None, False, (), "auto") and name not in format.TAKES:
            raise UserError(f"--{name} is not for --to {to}")
    from smolalign.export.source import find

    format.export(find(model), wishes, say)
