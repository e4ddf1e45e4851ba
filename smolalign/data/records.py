"""Raw records (dicts) of a source, each with its origin, before anything is known of their format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolalign.data.sources import data_files, local_path
from smolalign.data.strict_json import JsonProblem, parse, shorten
from smolalign.errors import UserError

Record = dict[str, Any]
_BOM = b"\xef\xbb\xbf"
_WRAPPERS = ("data", "rows", "records", "examples", "train")
_MESSAGE_COLUMNS = frozenset({"messages", "conversations", "conversation", "chat", "completions", "chosen", "rejected"})


def read_records(
    source: str, *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> Iterator[tuple[str, Record]]:
    """Yields `(origin, record)` of a file, a folder of files or a Hub dataset.

    `origin` is `path:LINE` for JSONL and text, `path#row N` for JSON, Parquet and the Hub, counted from 1. Files:
    `.jsonl` (one object a line), `.json` (a list of objects, or an object with one such list, or JSON lines),
    `.parquet`, `.txt` (paragraphs parted by blank lines give `{"text"}`). A source of the form `owner/name` that is
    no local path is read from the Hub; `split` is "train" unless given.
    Raises UserError for whatever is wrong with the source, naming file and line.
    """
    path = local_path(source)
    if path is None:
        from smolalign.data.hub import read_hub

        yield from read_hub(source, config=config, split=split, revision=revision)
        return
    _refuse_hub_options(path, config, revision)
    files = data_files(path, split)
    count = 0
    for file in files:
        for item in _READERS[file.suffix.lower()](file):
            count += 1
            yield item
    if not count:
        raise UserError("holds no records" if path.is_dir() or path.stat().st_size else "is empty", where=str(path))


def fingerprint_source(
    source: str, config: str | None = None, split: str | None = None, revision: str | None = None
) -> str:
    """sha256 (hex) of what `read_records` would read: names and bytes of the files, or a Hub dataset's coordinates."""
    path = local_path(source)
    digest = hashlib.sha256()
    if path is None:
        digest.update(json.dumps(["hub", source, config, split, revision]).encode())
        return digest.hexdigest()
    _refuse_hub_options(path, config, revision)
    root = path if path.is_dir() else path.parent
    for file in data_files(path, split):
        # Name and size before the bytes, so that moving bytes between files changes the digest.
        digest.update(json.dumps([file.relative_to(root).as_posix(), file.stat().st_size]).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _refuse_hub_options(path: Path, config: str | None, revision: str | None) -> None:
    for name, value in (("config", config), ("revision", revision)):
        if value is not None:
            raise UserError(
                f'{name} "{value}" applies to Hub datasets, and this is a local path',
                where=str(path),
                mend=f"remove `{name}`",
            )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields `(line number, text)`. Splits at `\\n` bytes only: U+2028 and its like are text in JSON."""
    offset = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError("is UTF-16 text, not UTF-8", where=str(path), mend="save it as UTF-8")
            skip = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            try:
                text = raw[skip:].decode()
            except UnicodeDecodeError as error:
                at = offset + skip + error.start
                raise UserError(
                    f"byte 0x{raw[skip + error.start]:02x} at offset {at} is not UTF-8",
                    where=f"{path}:{number}",
                    mend="save the file as UTF-8",
                ) from None
            offset += len(raw)
            yield number, text


def _read_jsonl(path: Path) -> Iterator[tuple[str, Record]]:
    for number, line in _lines(path):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = parse(text)
        except JsonProblem as problem:
            looks_listed = number == 1 and text.lstrip().startswith("[")
            raise UserError(
                _broken(problem, text, problem.column),
                where=where,
                mend="this looks like a JSON list: rename the file to .json" if looks_listed else "",
            ) from None
        if not isinstance(value, dict):
            raise UserError(f"the line is {_kind(value)}, not an object: {shorten(value)}", where=where)
        yield where, value


def _broken(problem: JsonProblem, line: str, column: int) -> str:
    if not column:
        return f"broken JSON: {problem.what}"
    near = line[column - 1 : column + 19].strip()
    return f"broken JSON at column {column}: {problem.what}" + (f", at {shorten(near)}" if near else ", at its end")


def _read_json(path: Path) -> Iterator[tuple[str, Record]]:
    text = "".join(line for _, line in _lines(path))
    if not text.strip():
        return
    try:
        value = parse(text)
    except JsonProblem as problem:
        if problem.what == "Extra data" and text.lstrip().startswith("{"):
            yield from _read_jsonl(path)
            return
        where = f"{path}:{problem.line}" if problem.line else str(path)
        line = text.split("\n")[problem.line - 1] if problem.line else ""
        raise UserError(_broken(problem, line, problem.column), where=where) from None
    for number, record in enumerate(_listed_records(path, value), start=1):
        where = f"{path}#row {number}"
        if not isinstance(record, dict):
            raise UserError(f"the row is {_kind(record)}, not an object: {shorten(record)}", where=where)
        yield where, record


def _listed_records(path: Path, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise UserError(f"the file holds {_kind(value)}, not a list of objects: {shorten(value)}", where=str(path))
    for key in _WRAPPERS:
        if isinstance(value.get(key), list):
            return list(value[key])
    if len(value) == 1:
        [(key, only)] = value.items()
        if key not in _MESSAGE_COLUMNS and isinstance(only, list) and only and isinstance(only[0], dict):
            return only
    return [value]


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _read_parquet(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        return
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}#row {number}", record
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(
            f"cannot be read as Parquet: {reason[:120]}", where=str(path), mend="write or download the file again"
        ) from None


def _read_txt(path: Path) -> Iterator[tuple[str, Record]]:
    start = 0
    paragraph: list[str] = []
    for number, text in _lines(path):
        if text.strip():
            start = start if paragraph else number
            paragraph.append(text)
        elif paragraph:
            yield f"{path}:{start}", {"text": "".join(paragraph).strip()}
            paragraph = []
    if paragraph:
        yield f"{path}:{start}", {"text": "".join(paragraph).strip()}


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".txt": _read_txt}
