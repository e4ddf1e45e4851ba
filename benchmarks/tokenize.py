"""Tokenizing documents into token files against the tokenizers library alone, in turn on the same texts; and reading.

    python -m benchmarks.tokenize TOKENIZER.json [FILE.jsonl …] [--megabytes 64] [--repeats 3]

Ours reads Parquet, encodes, writes the ids and hashes them. The library encodes texts that are in memory, on all cores,
and drops what it made. Without files the texts are those of nano's pretraining, repeated with a number each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from smolalign.data.assembly.documents import TextDigest
from smolalign.data.tokens.files import dtype_for, finish, write_shard
from smolalign.data.tokens.stream import Stream
from smolalign.data.tokens.tokenize import Encoder, tokenized
from smolalign.report import Silent

NANO = Path(__file__).resolve().parent.parent / "data" / "nano" / "pretrain.jsonl"


def main() -> None:
    """Measure, and print a line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    texts = list(_texts(asked.files or [NANO], asked.megabytes * 1_000_000))
    with tempfile.TemporaryDirectory() as place:
        _tokenizing(texts, asked.tokenizer, Path(place), asked.repeats)
        _reading(Path(place))


def _tokenizing(texts: list[str], file: Path, place: Path, repeats: int) -> None:
    tokenizer = Tokenizer.from_file(str(file))
    encoder = Encoder(file.read_text(encoding="utf-8"), 0, tokenizer.get_vocab_size())
    size = sum(len(text.encode()) for text in texts)
    shard = _parquet(texts, place / "texts.parquet")
    ratios = []
    for number in range(repeats):
        os.environ["XDG_CACHE_HOME"] = str(place / f"cache {number}")
        began = time.perf_counter()
        files = tokenized([shard], encoder, "texts", Silent())
        ours = time.perf_counter() - began
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        began = time.perf_counter()
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        bare = time.perf_counter() - began
        assert files.tokens == sum(map(len, encoded)) + len(texts)
        del encoded
        ratios.append(bare / ours)
        print(
            f"{size / 1e6:.0f} MB, {files.tokens:,} tokens: ours {ours:.2f} s ({size / ours / 1e6:.2f} MB/s), "
            f"the library {bare:.2f} s ({size / bare / 1e6:.2f} MB/s), {100 * bare / ours:.0f} % of its speed",
            flush=True,
        )
    print(f"median: {100 * statistics.median(ratios):.0f} % of the library's speed")


def _reading(place: Path, tokens: int = 100_000_000, shards: int = 8) -> None:
    """Microseconds of a row from token files of a hundred million tokens, in order and at random."""
    draw = np.random.default_rng(0)
    folder = place / "synthetic"
    for number in range(shards):
        lengths = draw.integers(20, 2000, tokens // shards // 1000)
        ids = draw.integers(0, 49152, int(lengths.sum()), dtype=np.uint16)
        write_shard(folder, number, [(ids, lengths, 0)], dtype_for(49152))
    stream = Stream(finish(folder, shards, dtype_for(49152), {}), seed=0)
    for length in (2048, 8192):
        for how in ("in order", "at random"):
            count = 2000
            if how == "in order":
                starts = np.arange(count) * length
            else:
                starts = draw.integers(0, 3 * stream.tokens_per_epoch, count)
            seconds = []
            for start in starts.tolist():
                began = time.perf_counter()
                stream.read(start, length)
                seconds.append(time.perf_counter() - began)
            print(
                f"{stream.tokens_per_epoch:,} tokens, rows of {length} {how}: "
                f"median {1e6 * statistics.median(seconds):.0f} µs, mean {1e6 * statistics.mean(seconds):.0f} µs",
                flush=True,
            )


def _texts(files: list[Path], size: int) -> Iterator[str]:
    """Texts of files, in turn and again with another number, until there are so many bytes."""
    texts = [text for file in files for text in _of_file(file)]
    for number in itertools.count():
        for text in texts:
            yield text if not number else f"{number} {text}"
            size -= len(text.encode())
            if size <= 0:
                return


def _of_file(file: Path) -> Iterator[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    records = (json.loads(line) for line in lines) if file.suffix == ".jsonl" else json.loads("\n".join(lines))
    yield from (record["text"] for record in records)


def _parquet(texts: list[str], file: Path) -> Path:
    """The texts as an assembly writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": texts})
    digest = TextDigest()
    digest.add(table)
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        writer.write_table(table, row_group_size=1000)
        writer.add_key_value_metadata(digest.metadata())
    return file


if __name__ == "__main__":
    main()
