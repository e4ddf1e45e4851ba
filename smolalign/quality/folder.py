"""A scorer's folder as files, looked at without loading anything heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.store import read_json

DESCRIPTION, WEIGHTS = "scorer.json", "scorer.safetensors"
# Raised when the same text gives a scorer other numbers than before; a scorer works with its own version alone.
VERSION = 1


def is_scorer(folder: Path) -> bool:
    """Whether a folder holds a scorer that a quality step saved."""
    return (folder / DESCRIPTION).is_file()


def scorer_files(folder: Path) -> list[Path]:
    """What of a scorer's folder decides on scores."""
    return [file for name in (DESCRIPTION, WEIGHTS) if (file := folder / name).is_file()]


def describe(folder: Path) -> dict[str, Any]:
    """What a scorer's folder says of it.

    Raises:
        UserError: it cannot be read, is of another version, or is not whole.
    """
    found = read_json(folder / DESCRIPTION)
    if found is None:
        raise UserError(f"{DESCRIPTION} is broken", where=str(folder), mend="run its quality step again with --fresh")
    if found.get("version") != VERSION:
        what = f"a scorer of version {found.get('version')}, and this smolalign reads version {VERSION}"
        raise UserError(what, where=str(folder), mend="run its quality step again with --fresh")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"no {WEIGHTS} beside {DESCRIPTION}", where=str(folder), mend="copy the whole folder")
    return found
