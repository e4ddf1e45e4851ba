"""Documents of datasets on the Hub that are too big to download: files in parts, each read over the network alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from smolalign.data.hub import cannot_be_read, give_up
from smolalign.data.records import Part

# Bytes of a split's files from which its documents are read as a stream.
_STREAM_BYTES = 1 << 30
# Bytes of a part, as Parquet tells them before compression.
_PART_BYTES = 64 << 20
# Files that a sample is drawn from, if they hold enough.
_FILES_DRAWN = 16
# Files whose footers are read at the same time.
_CONNECTIONS = 16
# A guess at the rows of files that do not tell them.
_BYTES_PER_ROW = 1000


@dataclass(frozen=True, slots=True)
class Split:
    """The files of a split at one commit: its name, their URLs in the library's order, and their bytes."""

    name: str
    commit: str
    urls: tuple[str, ...]
    sizes: tuple[int, ...]


@functools.lru_cache(maxsize=32)
def big_split(dataset_id: str, config: str | None, split: str | None, revision: str | None) -> Split | None:
    """A split that is to be read as a stream; None where it is small, or where only the library's cache can tell."""
    import datasets
    from huggingface_hub import HfFileSystem

    if datasets.config.HF_HUB_OFFLINE:
        return None
    try:
        builder = datasets.load_dataset_builder(dataset_id, name=config, revision=revision)
        files = {str(name): list(urls) for name, urls in (builder.config.data_files or {}).items()}
        urls = [str(url) for url in files.get(split or "train", [])]
        sizes = _sizes(HfFileSystem(), urls)
    except Exception as error:
        # What is wrong, the way without a stream tells; only that nobody answers it need not find out again.
        if isinstance(error, ConnectionError):
            give_up(str(error))
        return None
    if sum(sizes) < _STREAM_BYTES:
        return None
    return Split(split or "train", urls[0].split("@", 1)[1].split("/", 1)[0], tuple(urls), tuple(sizes))


def streamed_parts(
    dataset_id: str,
    config: str | None,
    split: Split,
    *,
    most_rows: int | None = None,
    draw: str = "",
) -> list[Part]:
    """The parts of a split, the same for the same commit.

    Args:
        dataset_id, config: what the split is of.
        split: its files.
        most_rows: draw parts at random until they hold so many rows, from a few files drawn at random.
        draw: seeds the draw.

    Raises:
        UserError: a file cannot be read.
    """
    hub = (config, split.name, split.commit)
    numbers = list(range(len(split.urls)))
    if most_rows is None:
        return [part for parts in _parts_of_files(dataset_id, hub, split, numbers) for part in parts]
    numbers = _drawn(numbers, f"{draw} files")
    found: list[Part] = []
    for first in range(0, len(numbers), _FILES_DRAWN):
        each = _parts_of_files(dataset_id, hub, split, numbers[first : first + _FILES_DRAWN])
        found += _drawn([part for parts in each for part in parts], f"{draw} parts")
        if sum(part.records for part in found) >= most_rows:
            break
    rows_before = itertools.accumulate((part.records for part in found), initial=0)
    return [part for part, before in zip(found, rows_before, strict=False) if before < most_rows]


def first_records(dataset_id: str, config: str | None, split: Split) -> Iterator[tuple[str, Any]]:
    """The records of a split from its first on, file after file."""
    for number in range(len(split.urls)):
        [parts] = _parts_of_files(dataset_id, (config, split.name, split.commit), split, [number])
        for part in parts:
            yield from read_streamed(part)


def read_streamed(part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `(owner/name/file#row N, record)` of a part. Raises UserError."""
    assert part.file is not None
    assert part.hub is not None
    config, split, commit = part.hub
    number = part.first - 1
    try:
        stream = _file_stream(part.source, part.file, commit)
        if part.stop is not None:
            stream = stream.reshard()
            groups = [stream.shard(stream.num_shards, group) for group in range(part.start, part.stop)]
        else:
            groups = [stream]
        for record in itertools.chain.from_iterable(groups):
            number += 1
            yield f"{part.source}/{part.file}#row {number}", dict(record)
    except Exception as error:
        raise cannot_be_read(f"{part.source}/{part.file}", config, split or "train", commit, error) from error


def _sizes(files: Any, urls: Sequence[str]) -> list[int]:
    """Bytes of files on the Hub; a folder's files are asked for together."""
    folders = {url.rsplit("/", 1)[0] for url in urls}
    listed = {item["name"]: item["size"] for folder in folders for item in files.ls(folder, detail=True)}
    # The listing names the revision or does not, as it was asked for.
    by_name = {name.rsplit("/", 1)[-1]: size for name, size in listed.items()} if len(folders) == 1 else {}
    return [by_name[url.rsplit("/", 1)[-1]] if by_name else int(files.info(url)["size"]) for url in urls]


def _parts_of_files(
    dataset_id: str, hub: tuple[str | None, str | None, str | None], split: Split, numbers: Sequence[int]
) -> list[list[Part]]:
    """The parts of some of the files, a list a file."""

    def of_file(number: int) -> list[Part]:
        file = split.urls[number].split("@", 1)[1].split("/", 1)[1]
        if PurePosixPath(file).suffix == ".parquet":
            return list(_groups(dataset_id, hub, file, split.urls[number]))
        rows = max(1, split.sizes[number] // _BYTES_PER_ROW)
        return [Part(dataset_id, records=rows, hub=hub, file=file)]

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        return list(threads.map(of_file, numbers))


def _groups(dataset_id: str, hub: tuple[str | None, str | None, str | None], file: str, url: str) -> Iterator[Part]:
    """A Parquet file in parts of whole row groups, by its footer."""
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    try:
        with HfFileSystem().open(url, "rb") as stream:
            footer = pq.read_metadata(stream)
    except Exception as error:
        raise cannot_be_read(f"{dataset_id}/{file}", hub[0], hub[1] or "train", hub[2], error) from error
    start = size = rows = done = 0
    for group in range(footer.num_row_groups):
        described = footer.row_group(group)
        size, rows = size + described.total_byte_size, rows + described.num_rows
        if size >= _PART_BYTES or group + 1 == footer.num_row_groups:
            yield Part(dataset_id, start, group + 1, done + 1, rows, hub, file)
            start, size, done, rows = group + 1, 0, done + rows, 0


def _drawn(items: Sequence[Any], purpose: str) -> list[Any]:
    """The items in a random order."""
    import numpy as np

    from smolalign.data.assembly.staging import mixed

    return [items[place] for place in np.argsort(mixed(np.arange(len(items), dtype=np.uint64), purpose), kind="stable")]


@functools.lru_cache(maxsize=2)
def _file_stream(dataset_id: str, file: str, commit: str | None) -> Any:
    """One file of a dataset; kept, since it is read part by part, and opening it asks the Hub several times."""
    import datasets

    return datasets.load_dataset(
        dataset_id, data_files={"train": [file]}, split="train", revision=commit, streaming=True
    )
