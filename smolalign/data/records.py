"""Raw records (dicts) of a source, each with its origin, before anything is known of their format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.data.sources import data_files, local_path
from smolalign.data.strict_json import JsonProblem, parse, shorten
from smolalign.errors import RowError, UserError

Record = dict[str, Any]
_PART_BYTES = 16 << 20
_HUB_ROWS = 5000
_BOM = b"\xef\xbb\xbf"
_WRAPPERS = ("data", "rows", "records", "examples", "train")
_MESSAGE_COLUMNS = frozenset({"messages", "conversations", "conversation", "chat", "completions", "chosen", "rejected"})


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a source that can be read by itself.

    Attributes:
        source: a file's path, or a Hub dataset's id.
        start, stop: bytes of a JSONL file, row groups of a Parquet file, rows of a Hub dataset; `stop` None is its end.
        first: number of the first line or row, counted from 1.
        records: how many records it holds, at most; 0 where that is not known without reading it.
        hub: config, split and revision of a Hub dataset.
        file: of a Hub dataset that is read as a stream; `start` and `stop` are then its row groups, where it has any.
    """

    source: str
    start: int = 0
    stop: int | None = None
    first: int = 1
    records: int = 0
    hub: tuple[str | None, str | None, str | None] | None = None
    file: str | None = None


def read_records(
    source: str, *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> Iterator[tuple[str, Record]]:
    """As `all_records`, but raises UserError at the first record that is broken."""
    for origin, record in all_records(source, config=config, split=split, revision=revision):
        if isinstance(record, UserError):
            raise record
        yield origin, record


def all_records(
    source: str, *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> Iterator[tuple[str, Record | UserError]]:
    """Yields `(origin, record)` of a file, a folder of files or a Hub dataset.

    `origin` is `path:LINE` for JSONL and text, `path#row N` for JSON, Parquet and the Hub, counted from 1. Files:
    `.jsonl` (one object a line), `.json` (a list of objects, or an object with one such list, or JSON lines),
    `.parquet`, `.txt` (paragraphs parted by blank lines give `{"text"}`). A source of the form `owner/name` that is
    no local path is read from the Hub; `split` is "train" unless given. In place of a record that is broken, and
    leaves the others readable, stands the UserError that says why.
    Raises UserError for whatever is wrong with the source as a whole.
    """
    path = local_path(source)
    if path is None:
        yield from read_part(Part(source, hub=(config, split, revision)))
        return
    _refuse_hub_options(path, config, revision)
    count = 0
    for file in data_files(path, split):
        for item in read_part(Part(str(file))):
            count += 1
            yield item
    if not count:
        raise UserError("holds no records" if path.is_dir() or path.stat().st_size else "is empty", where=str(path))


def source_parts(
    source: str, *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> list[Part]:
    """The source in parts of about 16 MB, which together give the records of `all_records` in its order.

    JSON lists and text files are one part each. Raises UserError as `all_records` does.
    """
    path = local_path(source)
    if path is None:
        from smolalign.data.hub import hub_rows

        rows, hub = hub_rows(source, config=config, split=split, revision=revision), (config, split, revision)
        return [
            Part(source, start, stop := min(rows, start + _HUB_ROWS), start + 1, stop - start, hub)
            for start in range(0, rows, _HUB_ROWS)
        ]
    _refuse_hub_options(path, config, revision)
    cut = {".jsonl": _jsonl_parts, ".parquet": _parquet_parts}
    parts = []
    for file in data_files(path, split):
        suffix = file.suffix.lower()
        parts += list(cut[suffix](file)) if suffix in cut else [Part(str(file))]
    return parts


def read_part(part: Part) -> Iterator[tuple[str, Record | UserError]]:
    """Yields `(origin, record)` of one part; see `all_records`."""
    if part.file is not None:
        from smolalign.data.hub_stream import read_streamed

        yield from read_streamed(part)
        return
    if part.hub is not None:
        from smolalign.data.hub import read_hub

        config, split, revision = part.hub
        yield from read_hub(
            part.source, config=config, split=split, revision=revision, start=part.start, stop=part.stop
        )
        return
    path = Path(part.source)
    yield from _READERS[path.suffix.lower()](path, part)


def _jsonl_parts(path: Path) -> Iterator[Part]:
    """Parts that end at line ends. Counting lines reads the file once, at the disk's speed."""
    start, first = 0, 1
    with path.open("rb") as stream:
        while block := stream.read(_PART_BYTES):
            block += stream.readline()
            lines = block.count(b"\n") + (not block.endswith(b"\n"))
            yield Part(str(path), start, start + len(block), first, lines)
            start, first = start + len(block), first + lines


def _parquet_parts(path: Path) -> Iterator[Part]:
    """Parts of whole row groups."""
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        return
    with _told_as_parquet(path), pq.ParquetFile(path) as file:
        start = size = rows = done = 0
        for group in range(file.num_row_groups):
            described = file.metadata.row_group(group)
            size, rows = size + described.total_byte_size, rows + described.num_rows
            if size >= _PART_BYTES or group == file.num_row_groups - 1:
                yield Part(str(path), start, group + 1, done + 1, rows)
                start, done, size, rows = group + 1, done + rows, 0, 0


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


def _lines(path: Path, part: Part) -> Iterator[tuple[int, str | UserError]]:
    """Yields `(line number, text)`. Splits at `\\n` bytes only: U+2028 and its like are text in JSON."""
    offset = part.start
    with path.open("rb") as stream:
        stream.seek(offset)
        for number, raw in enumerate(stream, start=part.first):
            if part.stop is not None and offset >= part.stop:
                return
            if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError("is UTF-16 text, not UTF-8", where=str(path), mend="save it as UTF-8")
            skip = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            try:
                text = raw[skip:].decode()
            except UnicodeDecodeError as error:
                at = offset + skip + error.start
                yield (
                    number,
                    RowError(
                        "not UTF-8",
                        f"byte 0x{raw[skip + error.start]:02x} at offset {at} is not UTF-8",
                        where=f"{path}:{number}",
                        mend="save the file as UTF-8",
                        found=raw[skip:].decode(errors="replace").rstrip("\r\n"),
                    ),
                )
            else:
                yield number, text
            offset += len(raw)


def _whole_text(path: Path, part: Part) -> Iterator[tuple[int, str]]:
    """The lines of a file that makes no sense without every one of them."""
    for number, text in _lines(path, part):
        if isinstance(text, UserError):
            raise text
        yield number, text


def _read_jsonl(path: Path, part: Part) -> Iterator[tuple[str, Record | UserError]]:
    for number, line in _lines(path, part):
        where = f"{path}:{number}"
        if isinstance(line, UserError):
            yield where, line
            continue
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        try:
            value = parse(text)
        except JsonProblem as problem:
            looks_listed = number == 1 and text.lstrip().startswith("[")
            mend = "this looks like a JSON list: rename the file to .json" if looks_listed else ""
            yield (
                where,
                RowError("broken JSON", _broken(problem, text, problem.column), where=where, mend=mend, found=text),
            )
            continue
        if not isinstance(value, dict):
            what = f"the line is {_kind(value)}, not an object: {shorten(value)}"
            yield where, RowError("not an object", what, where=where, found=value)
        else:
            yield where, value


def _broken(problem: JsonProblem, line: str, column: int) -> str:
    if not column:
        return f"broken JSON: {problem.what}"
    near = line[column - 1 : column + 19].strip()
    return f"broken JSON at column {column}: {problem.what}" + (f", at {shorten(near)}" if near else ", at its end")


def _read_json(path: Path, part: Part) -> Iterator[tuple[str, Record | UserError]]:
    text = "".join(line for _, line in _whole_text(path, part))
    if not text.strip():
        return
    try:
        value = parse(text)
    except JsonProblem as problem:
        if problem.what == "Extra data" and text.lstrip().startswith("{"):
            yield from _read_jsonl(path, part)
            return
        where = f"{path}:{problem.line}" if problem.line else str(path)
        line = text.split("\n")[problem.line - 1] if problem.line else ""
        raise UserError(_broken(problem, line, problem.column), where=where) from None
    for number, record in enumerate(_listed_records(path, value), start=1):
        where = f"{path}#row {number}"
        if isinstance(record, dict):
            yield where, record
        else:
            what = f"the row is {_kind(record)}, not an object: {shorten(record)}"
            yield where, RowError("not an object", what, where=where, found=record)


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


def _read_parquet(path: Path, part: Part) -> Iterator[tuple[str, Record | UserError]]:
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        return
    number = part.first - 1
    with _told_as_parquet(path), pq.ParquetFile(path) as file:
        groups = range(part.start, file.num_row_groups if part.stop is None else part.stop)
        for batch in file.iter_batches(batch_size=1000, row_groups=groups):
            for record in _records_of(batch):
                number += 1
                where = f"{path}#row {number}"
                yield where, record if isinstance(record, dict) else RowError("not UTF-8", record, where=where)


def _records_of(batch: Any) -> list[dict[str, Any] | str]:
    """The batch's records; in place of one that holds bytes that are no text, what is wrong with it."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [f"a string is not UTF-8 ({error.reason})"]
    return [record for index in range(len(batch)) for record in _records_of(batch.slice(index, 1))]


@contextmanager
def _told_as_parquet(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(
            f"cannot be read as Parquet: {reason[:120]}", where=str(path), mend="write or download the file again"
        ) from None


def _read_txt(path: Path, part: Part) -> Iterator[tuple[str, Record | UserError]]:
    start = 0
    paragraph: list[str] = []
    for number, text in _whole_text(path, part):
        if text.strip():
            start = start if paragraph else number
            paragraph.append(text)
        elif paragraph:
            yield f"{path}:{start}", {"text": "".join(paragraph).strip()}
            paragraph = []
    if paragraph:
        yield f"{path}:{start}", {"text": "".join(paragraph).strip()}


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".txt": _read_txt}
