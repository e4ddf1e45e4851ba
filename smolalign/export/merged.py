"""`--to merged`: a plain checkpoint folder, adapters merged, with its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from smolalign.export.package import packaged, tell
from smolalign.export.run import Wishes
from smolalign.export.source import Source
from smolalign.export.target import new_folder, writing

TAKES = {"out", "dtype"}


def require(source: Source, wishes: Wishes) -> Path:
    """The folder to write.

    Raises:
        UserError: none is named, or something lies there.
    """
    return new_folder(wishes)


def export(source: Source, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Write the checkpoint to a new folder, whole or not at all.

    Raises:
        UserError: no folder is named, something lies there, it cannot be written, or what was written is not the model.
    """
    from smolalign.export.check import allowed, read_back

    out = require(source, wishes)
    place = out.name if out.is_absolute() else out.as_posix()
    with packaged(source, out.resolve().name, place, wishes.licence, wishes.dtype) as package:
        tell(package, source, say)
        if wishes.dry_run:
            say(f"\n{package.card}")
            return
        with writing(out) as folder:
            package.write(folder)
            say(read_back(folder, source.reference, *allowed(folder, source.reference)))
    say(f"wrote {out}; talk to it: smolalign chat {out}")
