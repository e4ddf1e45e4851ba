"""`--to gguf`: the model in llama.cpp's format, one file for each type of weights, read back before it is there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from smolalign.errors import UserError
from smolalign.export.gguf_check import check, original
from smolalign.export.gguf_llama import sizes, tensors
from smolalign.export.gguf_tokens import vocabulary
from smolalign.export.gguf_write import TYPES, Model, weight_bytes, write
from smolalign.export.package import Package, packaged, require_unquantized
from smolalign.export.run import Wishes
from smolalign.export.source import Source

TAKES = {"out", "types"}
DEFAULT_TYPE = "q8_0"


def export(source: Source, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Write a file `NAME.gguf`, or into a folder a file for each type; each is whole and checked, or not there.

    Raises:
        UserError: the wishes do not fit, the model is quantized or cannot be written so, or something lies there.
        Failed: a file read back is not the model.
    """
    files = require(source, wishes)
    first = next(iter(files.values()))
    name = first.stem if wishes.out and wishes.out.suffix == ".gguf" else first.parent.name
    with packaged(source, name, first.name, wishes.licence) as package:
        folder, model, tokenizer = load(package, name)
        for note in source.notes:
            say(note)
        tell(files, model, say)
        if wishes.dry_run:
            return
        before = original(folder, model, tokenizer)
        for chosen, out in files.items():
            with _unfinished(out) as file:
                make(file, chosen, model)
                check(file, chosen, model, before, say)
    say(f"wrote {', '.join(map(str, files.values()))}; talk to it: smolalign chat {first}")


def require(source: Source, wishes: Wishes) -> dict[str, Path]:
    """The files to write, by type.

    Raises:
        UserError: the wishes do not fit, something lies there, or the model is quantized already.
    """
    files = _files(wishes)
    for out in files.values():
        if out.exists():
            raise UserError(f"{out} is there already", mend="choose another --out")
    require_unquantized(source)
    return files


def require_types(types: tuple[str, ...]) -> tuple[str, ...]:
    """The types asked for, each once; the default where none is.

    Raises:
        UserError: one is none.
    """
    for chosen in types:
        if chosen not in TYPES:
            raise UserError(f"no type {chosen!r} of weights in GGUF", mend=f"use some of {', '.join(TYPES)}")
    return tuple(dict.fromkeys(types)) or (DEFAULT_TYPE,)


def load(package: Package, name: str) -> tuple[Path, Model, Any]:
    """The folder of a packaged checkpoint, what a file is made of, and its tokenizer.

    Raises:
        UserError: GGUF cannot hold it.
    """
    from transformers import AutoConfig

    from smolalign.model import load_tokenizer

    paths = [content for content in package.files.values() if isinstance(content, Path)]
    folder = next(path.parent for path in paths if path.suffix == ".safetensors")
    of, tokenizer = sizes(AutoConfig.from_pretrained(str(folder))), load_tokenizer(str(folder))
    _, _, head = package.card.partition("---\n")
    about = yaml.safe_load(head.partition("\n---")[0]) if package.card.startswith("---\n") else None
    told = about if isinstance(about, dict) else {}
    return folder, Model(name, of, vocabulary(tokenizer, of.rows), tensors(folder, of), told), tokenizer


def make(file: Path, chosen: str, model: Model) -> None:
    """Write a file, with what the system says where it cannot."""
    try:
        write(model, chosen, file)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror or error}", where=str(file.name)) from None


def tell(files: dict[str, Path], model: Model, say: Callable[[str], None]) -> None:
    """Say which files there will be, with the bytes of their weights."""
    for chosen, out in files.items():
        size = weight_bytes(model.tensors, chosen, tied=model.sizes.tied)
        say(f"  {out.name}  {size / 1e6:.1f} MB of weights in {chosen}")


def _files(wishes: Wishes) -> dict[str, Path]:
    """The files to write, by type."""
    types = require_types(wishes.types)
    if wishes.out is None:
        raise UserError("--to gguf needs a file or a folder to write", mend="add --out NAME.gguf, or --out FOLDER")
    out = wishes.out.expanduser().resolve()
    if out.suffix == ".gguf":
        if len(types) > 1:
            raise UserError(f"{len(types)} types do not go into one file", mend="name a folder: --out FOLDER")
        return {types[0]: out}
    if out.is_file():
        raise UserError(f"{out} is there already", mend="choose another --out")
    return {chosen: out / f"{out.name}-{chosen}.gguf" for chosen in types}


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A file to write in a hidden folder beside `out`, which becomes `out` at the end and leaves no trace before."""
    made = not out.parent.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.stem}.", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(out.parent)) from None
    try:
        yield place / out.name
        os.replace(place / out.name, out)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        if made:
            out.parent.rmdir()
        raise
    shutil.rmtree(place, ignore_errors=True)
