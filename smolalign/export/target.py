"""Where an export is written: a new folder, whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolalign.errors import UserError
from smolalign.export.run import Wishes
from smolalign.store import whole_folder


def new_folder(wishes: Wishes) -> Path:
    """The folder that `--out` names.

    Raises:
        UserError: none is named, or something lies there.
    """
    if wishes.out is None:
        raise UserError(f"--to {wishes.to} needs a folder to write", mend="add --out FOLDER")
    out = wishes.out.expanduser()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already", mend="choose another --out")
    return out


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder to fill and to check, which becomes `out` at the end, or leaves no trace when something fails.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with whole_folder(out.resolve()) as folder:
            yield folder
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror or error}", where=str(out)) from None
