"""Documents in Parquet shards become token files, once for the same texts and the same tokenizer."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smolalign import processes
from smolalign.data.assembly.documents import texts_of
from smolalign.data.assembly.pool import Run, pool
from smolalign.data.tokens.files import (
    MANIFEST,
    TokenFiles,
    dtype_for,
    finish,
    open_files,
    shard_is_written,
    write_shard,
)
from smolalign.errors import UserError
from smolalign.report import Progress, Reporter
from smolalign.store import cache_folder, digest_json, taking_turns, write_text

# Bytes of text of a token shard: a 256th of the source within these limits, whatever machine it is tokenized on.
_SHARD_BYTES = (8 << 20, 512 << 20)
_SHARDS = 256
# Texts that are tokenized together.
_BATCH_ROWS = 512
# The tokenizer beside the token files that it made.
_TOKENIZER = "tokenizer.json"
_THREADS = "TOKENIZERS_PARALLELISM"
# Raised when the same texts and the same tokenizer would make other token files.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Encoder:
    """What tokenizes: a `tokenizer.json`, the id that ends a document, and the size of the vocabulary."""

    json: str
    end: int
    vocabulary: int

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides on the tokens."""
        return digest_json([self.json, self.end])


@dataclass(frozen=True, slots=True)
class Stretch:
    """Row groups of a Parquet file, from `first` to before `last`."""

    file: str
    first: int
    last: int


def tokenized(
    files: Sequence[Path], encoder: Encoder, name: str, report: Reporter, run: Run | None = None
) -> TokenFiles:
    """The token files of the documents in Parquet shards, made if they are not in the cache.

    What a killed call has tokenized is kept, and the next one goes on behind it.

    Args:
        files: shards of an assembly.
        encoder: what tokenizes.
        name: of the source, for people.
        report: shown the progress.
        run: what runs the tasks, in place of processes of this machine.

    Raises:
        UserError: they cannot be written.
    """
    texts = [texts_of(file) for file in files]
    key = digest_json([_VERSION, encoder.digest, [text.digest for text in texts]])
    folder = cache_folder() / "tokens" / key[:32]
    try:
        with taking_turns(folder):
            if (folder / MANIFEST).is_file() and (known := _unchanged(folder, name, report)):
                return known
            return _made(files, sum(text.bytes for text in texts), encoder, folder, name, report, run)
    except OSError as error:
        raise UserError(f"cannot write token files: {error.strerror}", where=str(folder)) from None


def _unchanged(folder: Path, name: str, report: Reporter) -> TokenFiles | None:
    """The token files of a folder, or None where they are not what was written, which is said."""
    try:
        known = open_files(folder)
        changed = next((shard for shard in known.shards if shard.changed()), None)
        why = f"{changed.stem}.bin or .idx is not what was written" if changed else ""
    except UserError as error:
        why = error.line()
    if why:
        report.warn(f"{name} is tokenized anew: {why}")
        # The manifest first: notes of shards that a kill left beside it would pass for those of whole ones.
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)
        return None
    return known


def _made(
    files: Sequence[Path], size: int, encoder: Encoder, folder: Path, name: str, report: Reporter, run: Run | None
) -> TokenFiles:
    """Token files from documents whose texts are `size` bytes, or what is left to do of them."""
    shards = _cut(files, size)
    dtype = dtype_for(encoder.vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _TOKENIZER, encoder.json)
    left = [number for number in range(len(shards)) if not shard_is_written(folder, number)]
    cores = processes.usable_cores()
    alone = len(left) < max(4, cores)
    tasks = [(shards[number], encoder.end, dtype.str, folder, number, alone and run is None) for number in left]
    with nullcontext(run) if run else pool(1 if alone else cores) as run_stage:
        done = len(shards) - len(left)
        with closing(run_stage(f"tokenizing {name}", tokenize_task, tasks)) as ended:
            for _ in ended:
                done += 1
                report.progress(Progress(f"tokenizing {name}", done, len(shards), "shards"))
    return finish(folder, len(shards), dtype, {"tokenizer": encoder.digest, "end": encoder.end})


def _cut(files: Sequence[Path], size: int) -> list[list[Stretch]]:
    """The row groups of all files, in order, in shards of about the same size."""
    least, most = _SHARD_BYTES
    wanted = min(max(size // _SHARDS, least), most)
    shards: list[list[Stretch]] = [[]]
    held = 0
    for file in files:
        metadata = pq.read_metadata(file)
        first = 0
        for group in range(metadata.num_row_groups):
            held += metadata.row_group(group).total_byte_size
            if held >= wanted:
                shards[-1].append(Stretch(str(file), first, group + 1))
                shards.append([])
                first, held = group + 1, 0
        if first < metadata.num_row_groups:
            shards[-1].append(Stretch(str(file), first, metadata.num_row_groups))
    return [shard for shard in shards if shard]


def tokenize_task(shard: Sequence[Stretch], end: int, dtype: str, folder: Path, number: int, all_cores: bool) -> None:
    """Tokenize a shard, by one thread or by as many as there are cores."""
    if not shard_is_written(folder, number):
        with _threads(all_cores):
            tokenizer = _tokenizer(str(folder / _TOKENIZER))
            write_shard(folder, number, _encoded(shard, tokenizer, end, np.dtype(dtype)), np.dtype(dtype))


@contextmanager
def _threads(all_cores: bool) -> Iterator[None]:
    """Have the library use one thread: many tasks side by side use the cores better than many threads in one."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "true" if all_cores else "false"
    try:
        yield
    finally:
        os.environ.pop(_THREADS)
        if before is not None:
            os.environ[_THREADS] = before


@functools.lru_cache(maxsize=1)
def _tokenizer(file: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encoded(
    shard: Sequence[Stretch], tokenizer: Any, end: int, dtype: np.dtype
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """The documents of a shard as `write_shard` takes them."""
    for texts, size in read_texts(shard):
        found = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found)) + 1
        ids = np.fromiter(itertools.chain.from_iterable((*one, end) for one in found), dtype, int(lengths.sum()))
        yield ids, lengths, size


def first_texts(file: Path, most_bytes: int) -> Iterator[str]:
    """The first texts of a Parquet shard, at most so many bytes of them; its rows are in random order."""
    for texts, _ in read_texts([Stretch(str(file), 0, pq.read_metadata(file).num_row_groups)]):
        for text in texts:
            most_bytes -= len(text.encode())
            if most_bytes < 0:
                return
            yield text


def read_texts(shard: Sequence[Stretch]) -> Iterator[tuple[list[str], int]]:
    """The texts of a shard, some at a time, with their bytes in UTF-8."""
    for stretch in shard:
        with pq.ParquetFile(stretch.file) as file:
            groups = range(stretch.first, stretch.last)
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=["text"], use_threads=False):
                column = batch.column(0)
                yield column.to_pylist(), int(pc.sum(pc.binary_length(column)).as_py() or 0)
