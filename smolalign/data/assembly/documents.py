"""What a Parquet shard of documents tells of its texts: how many bytes they are, and the digest of them all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_BYTES, _DIGEST = b"smolalign.text_bytes", b"smolalign.text_sha256"


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a shard: their UTF-8 bytes in all, and a SHA-256 over their lengths and bytes, in order."""

    bytes: int
    digest: str


class TextDigest:
    """The digest of texts as they are written, independent of how Parquet lays them out."""

    def __init__(self) -> None:
        self._bytes, self._lengths, self._content = 0, hashlib.sha256(), hashlib.sha256()

    def add(self, table: pa.Table) -> None:
        """Take the column `text` of further rows in."""
        for chunk in table.column("text").chunks:
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].astype("<i8")
            self._lengths.update(np.diff(ends).tobytes())
            if data is not None:
                self._content.update(memoryview(data)[ends[0] : ends[-1]])
            self._bytes += int(ends[-1] - ends[0])

    def metadata(self) -> dict[bytes, bytes]:
        """What stands in the file's footer."""
        digest = hashlib.sha256(self._lengths.digest() + self._content.digest()).hexdigest()
        return {_BYTES: str(self._bytes).encode(), _DIGEST: digest.encode()}


def texts_of(file: Path) -> Texts:
    """What a shard tells of its texts, from its footer alone."""
    metadata = pq.read_metadata(file).metadata
    return Texts(int(metadata[_BYTES]), metadata[_DIGEST].decode())
