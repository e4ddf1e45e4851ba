"""Hashes that are surely not among many others, told by one bit each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# With 64 bits for each hash or more, at most one in 64 other hashes passes.
_BITS_EACH = 64
_LEAST_BITS, _MOST_BITS = 16, 28
# Hashes looked up at a time, so that what is computed on the way stays in the processor's cache.
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class BitTable:
    """A Bloom filter of one function (Bloom 1970).

    Attributes:
        shift: of a hash, the bits left when it is moved right by so much are its place in the table.
        table: uint8 [2^(64 - shift) / 8], eight places each, the lowest bit first; at most 32 MiB.
    """

    shift: np.uint64
    table: np.ndarray

    def passed(self, hashes: np.ndarray) -> np.ndarray:
        """Where in `hashes` (uint64) those stand that may be in the table, in order: all that are, and few others."""
        found = [np.zeros(0, dtype=np.int64)]
        for first in range(0, len(hashes), _BLOCK):
            places = hashes[first : first + _BLOCK] >> self.shift
            bits = np.take(self.table, (places >> np.uint64(3)).view(np.int64), mode="clip")
            bits >>= (places & np.uint64(7)).astype(np.uint8)
            bits &= 1
            found.append(np.flatnonzero(bits) + first)
        return np.concatenate(found)


def bit_table(hashes: np.ndarray) -> BitTable:
    """The table of some hashes (uint64)."""
    bits = min(max((_BITS_EACH * len(hashes)).bit_length(), _LEAST_BITS), _MOST_BITS)
    shift = np.uint64(64 - bits)
    places = hashes >> shift
    table = np.zeros(1 << (bits - 3), dtype=np.uint8)
    np.bitwise_or.at(
        table, (places >> np.uint64(3)).view(np.int64), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
    )
    return BitTable(shift, table)
