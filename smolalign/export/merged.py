"""`--to merged`: a plain checkpoint folder, adapters merged, with its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from smolalign.errors import UserError
from smolalign.export.package import Package, packaged, tell
from smolalign.export.run import Wishes
from smolalign.export.source import Source
from smolalign.store import whole_folder

TAKES = {"out"}


def export(source: Source, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Write the checkpoint to a new folder, whole or not at all.

    Raises:
        UserError: no folder is named, something lies there, or it cannot be written.
    """
    if wishes.out is None:
        raise UserError("--to merged needs a folder to write", mend="add --out FOLDER")
    out = wishes.out.expanduser()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already", mend="choose another --out")
    name = out.resolve().name
    with packaged(source, name, name if out.is_absolute() else out.as_posix(), wishes.licence) as package:
        tell(package, source, say)
        if wishes.dry_run:
            say(f"\n{package.card}")
            return
        try:
            _write(package, out.resolve())
        except OSError as error:
            raise UserError(f"cannot write there: {error.strerror or error}", where=str(out)) from None
    say(f"wrote {out}; talk to it: smolalign chat {out}")


def _write(package: Package, out: Path) -> None:
    with whole_folder(out) as folder:
        for name, content in package.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                shutil.copyfile(content, folder / name)
