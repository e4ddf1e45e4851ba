"""Token files: a folder with the tokens of a source's documents, in shards that are mapped into memory.

    manifest.json   written last: what the folder holds, with size and digest of every file
    00000.bin       ids of the first shard's documents one after the other, little-endian uint16 or uint32
    00000.idx       int64, where each of these documents ends, in tokens

A document's last token is the one that ends documents.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolalign.errors import UserError
from smolalign.store import read_json, write_json

MANIFEST = "manifest.json"
_LAYOUT = 1
_INDEX = np.dtype("<i8")
_SUFFIXES = (".bin", ".idx")
# Shards whose files are mapped at the same time.
_MAPPED = 32


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of token files.

    Attributes:
        stem: its files without their suffixes.
        tokens, documents: how many it holds; each document's end is one of the tokens.
        text_bytes: of the documents' text in UTF-8.
        digests: SHA-256 of the `.bin` and the `.idx` file.
        written: when they were last changed, in nanoseconds: what has these times since is as it was written.
    """

    stem: str
    tokens: int
    documents: int
    text_bytes: int
    digests: tuple[str, str]
    written: tuple[int, int]

    def files(self) -> tuple[Path, Path]:
        """The `.bin` and the `.idx` file."""
        return Path(self.stem + _SUFFIXES[0]), Path(self.stem + _SUFFIXES[1])

    def changed(self) -> bool:
        """Whether the files are not those that were written; they are read only where their times are others."""
        return any(
            file.stat().st_mtime_ns != at and _digest(file) != digest
            for file, at, digest in zip(self.files(), self.written, self.digests, strict=True)
        )


class TokenFiles:
    """The documents of shards, told by shard, and by their number within it.

    Args:
        shards: any number of them.
        dtype: of the ids on disk.

    Attributes:
        tokens, documents, text_bytes: sums over the shards.
    """

    def __init__(self, shards: Sequence[Shard], dtype: np.dtype) -> None:
        self.shards, self.dtype = list(shards), dtype
        self.tokens = sum(shard.tokens for shard in shards)
        self.documents = sum(shard.documents for shard in shards)
        self.text_bytes = sum(shard.text_bytes for shard in shards)

    def ids(self, shard: int) -> np.ndarray:
        """The tokens of a shard, mapped: uint16 or uint32 [tokens]."""
        return _mapped(str(self.shards[shard].files()[0]), self.dtype.str, self.shards[shard].digests[0])

    def ends(self, shard: int) -> np.ndarray:
        """Where the documents of a shard end, mapped: int64 [documents]."""
        return _mapped(str(self.shards[shard].files()[1]), _INDEX.str, self.shards[shard].digests[1])


def joined(parts: Sequence[TokenFiles]) -> TokenFiles:
    """The documents of several token files that one tokenizer made."""
    return TokenFiles([shard for part in parts for shard in part.shards], parts[0].dtype)


def open_files(folder: Path) -> TokenFiles:
    """The token files in a folder.

    Raises:
        UserError: they are not there, not whole, or have another size than when they were written.
    """
    found = read_json(folder / MANIFEST)
    if found is None or found.get("layout") != _LAYOUT:
        raise UserError("no whole token files", where=str(folder), mend="remove that folder; they are made anew")
    files = TokenFiles([_shard(item, folder) for item in found["shards"]], np.dtype(found["dtype"]))
    for shard in files.shards:
        sizes = (shard.tokens * files.dtype.itemsize, shard.documents * _INDEX.itemsize)
        for file, size in zip(shard.files(), sizes, strict=True):
            there = file.stat().st_size if file.is_file() else None
            if there != size:
                what = "is gone" if there is None else f"has {there:,} bytes, not {size:,}"
                raise UserError(f"the token file {what}", where=str(file), mend="remove its folder; it is made anew")
    return files


def dtype_for(vocabulary: int) -> np.dtype:
    """The smallest type that holds every id of a vocabulary."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def shard_is_written(folder: Path, number: int) -> bool:
    """Whether a shard has been written in whole."""
    return (folder / f"{number:05}.json").is_file()


def write_shard(
    folder: Path, number: int, parts: Iterable[tuple[np.ndarray, np.ndarray, int]], dtype: np.dtype
) -> None:
    """Write a shard; its counts last, which makes it whole.

    Args:
        folder: of the token files; made if it is not there.
        number: of the shard.
        parts: documents that were tokenized together: their ids one after the other, the tokens of each, and the bytes
            of their text.
        dtype: of the ids on disk.

    Raises:
        UserError: the folder cannot be written.
    """
    stem = folder / f"{number:05}"
    temporary = [stem.with_name(f".{stem.name}.{os.getpid()}.tmp{suffix}") for suffix in _SUFFIXES]
    whole = [stem.with_suffix(suffix) for suffix in _SUFFIXES]
    digests = [hashlib.sha256(), hashlib.sha256()]
    tokens = documents = text_bytes = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary[0].open("wb") as ids_file, temporary[1].open("wb") as ends_file:
            for ids, lengths, size in parts:
                content = (ids.astype(dtype, copy=False), (tokens + np.cumsum(lengths)).astype(_INDEX))
                for file, digest, array in zip((ids_file, ends_file), digests, content, strict=True):
                    data = np.ascontiguousarray(array).data.cast("B")
                    digest.update(data)
                    file.write(data)
                tokens, documents, text_bytes = tokens + len(ids), documents + len(lengths), text_bytes + size
            # A machine that loses its power may keep a name and lose what it stands for.
            for file in (ids_file, ends_file):
                file.flush()
                os.fsync(file.fileno())
        for before, after in zip(temporary, whole, strict=True):
            os.replace(before, after)
    except OSError as error:
        raise UserError(f"cannot write token files: {error.strerror}", where=str(folder)) from None
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    written = [file.stat().st_mtime_ns for file in whole]
    counts = {"tokens": tokens, "documents": documents, "text_bytes": text_bytes}
    write_json(
        stem.with_suffix(".json"), {**counts, "digests": [one.hexdigest() for one in digests], "written": written}
    )


def finish(folder: Path, shards: int, dtype: np.dtype, about: dict[str, Any]) -> TokenFiles:
    """Write the manifest over shards that have all been written.

    Args:
        folder: of the token files.
        shards: how many there are.
        dtype: of the ids on disk.
        about: what else the manifest tells.
    """
    notes = [folder / f"{number:05}.json" for number in range(shards)]
    found = [read_json(note) or {} for note in notes]
    sums = {name: sum(one[name] for one in found) for name in ("tokens", "documents", "text_bytes")}
    entries = [{"name": note.stem, **one} for note, one in zip(notes, found, strict=True)]
    write_json(folder / MANIFEST, {"layout": _LAYOUT, **about, **sums, "dtype": dtype.str, "shards": entries})
    for note in notes:
        note.unlink(missing_ok=True)
    return open_files(folder)


def write_documents(folder: Path, shards: Sequence[Sequence[Sequence[int]]], vocabulary: int) -> TokenFiles:
    """Token files of documents that are at hand: a list of documents' ids for each shard."""
    dtype = dtype_for(vocabulary)
    for number, documents in enumerate(shards):
        lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
        ids = np.concatenate([np.asarray(ids, dtype=dtype) for ids in documents])
        write_shard(folder, number, [(ids, lengths, 0)], dtype)
    return finish(folder, len(shards), dtype, {})


def _shard(item: dict[str, Any], folder: Path) -> Shard:
    (ids, ends), (ids_at, ends_at) = item["digests"], item["written"]
    stem = str(folder / item["name"])
    return Shard(stem, item["tokens"], item["documents"], item["text_bytes"], (ids, ends), (ids_at, ends_at))


@functools.lru_cache(maxsize=2 * _MAPPED)
def _mapped(file: str, dtype: str, digest: str) -> np.ndarray:
    """A file as an array; `digest` tells it from another one that had its name before."""
    # A plain array over the mapping: slices of np.memmap take ten times as long.
    return np.asarray(np.memmap(file, dtype=dtype, mode="r")) if os.path.getsize(file) else np.empty(0, dtype)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
