"""Words and n-grams of texts as hashes: what near-duplicates, contamination and repetition are all found with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# Runs of letters, digits and underscores; of scripts that write no spaces, each character alone.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# In ASCII, where splitting is twice as fast as the pattern: all but letters, digits and underscores becomes a space.
_ASCII = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}
# An odd multiplier, so that every bit of each word reaches the hash of an n-gram (the golden ratio's 64 bits).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Runs hashed at a time, so that they stay in the processor's cache: three times as fast as all at once.
_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class Hashes:
    """Hashes of several texts, one text after the other.

    Attributes:
        values: uint64 [all hashes of all texts].
        offsets: int64 [texts + 1]; text `i` has `values[offsets[i]:offsets[i + 1]]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    def of(self, text: int) -> np.ndarray:
        """The hashes of one text."""
        return self.values[self.offsets[text] : self.offsets[text + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased, without punctuation."""
    return text.lower().translate(_ASCII).split() if text.isascii() else _WORD.findall(text.lower())


def places_of(text: str) -> list[tuple[int, int]]:
    """Where each of `words_of(text)` starts and stops in the text as it stands."""
    lowered = text.lower()
    found = [match.span() for match in _WORD.finditer(lowered)]
    if len(lowered) == len(text):
        return found
    origin = [place for place, character in enumerate(text) for _ in character.lower()]  # One letter may become two.
    return [(origin[start], origin[stop - 1] + 1) for start, stop in found]


def normalised(text: str) -> str:
    """The words of a text with one space between them: equal for texts that differ in case and punctuation only."""
    return " ".join(words_of(text))


def word_hashes(texts: Iterable[str]) -> Hashes:
    """A hash of each word of each text, the same on every machine."""
    known = _Known()
    numbers: list[int] = []
    offsets = [0]
    for text in texts:
        numbers.extend(map(known.__getitem__, words_of(text)))
        offsets.append(len(numbers))
    values = np.array(known.hashes, dtype=np.uint64)[np.array(numbers, dtype=np.int64)]
    return Hashes(values, np.array(offsets, dtype=np.int64))


def joined(parts: Hashes, counts: Sequence[int]) -> Hashes:
    """The hashes of texts that are several of the given ones, `counts` of them each, one after the other."""
    return Hashes(parts.values, parts.offsets[np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])])


def ngram_hashes(words: Hashes, n: int) -> Hashes:
    """A hash of each run of `n` words within each text, in order; texts of fewer words have none."""
    grams = np.maximum(np.diff(words.offsets) - n + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(grams, dtype=np.int64)])
    if not offsets[-1]:
        return Hashes(np.zeros(0, dtype=np.uint64), offsets)
    start = words.offsets[0]
    hashed = _runs(words.values[start : words.offsets[-1]], n)
    inside = np.ones(len(hashed), dtype=bool)
    for back in range(1, n):  # A run that starts fewer than n words before a text's end goes on into the next text.
        crossing = words.offsets[1:-1] - start - back
        inside[crossing[(crossing >= 0) & (crossing < len(inside))]] = False
    return Hashes(hashed[inside], offsets)


def _runs(values: np.ndarray, n: int) -> np.ndarray:
    """A hash of each `n` values that follow one another: uint64 [len(values) - n + 1]."""
    hashed = np.zeros(len(values) - n + 1, dtype=np.uint64)
    scratch = np.empty(min(_BLOCK, len(hashed)), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for first in range(0, len(hashed), _BLOCK):
            block = hashed[first : first + _BLOCK]
            shifted = scratch[: len(block)]
            for step in range(first, first + n):
                block += values[step : step + len(block)]
                block *= _MULTIPLIER
                np.right_shift(block, np.uint64(29), out=shifted)
                block ^= shifted
    return hashed


class _Known(dict[str, int]):
    """Numbers of words in the order in which they came, and the hash of each, computed once."""

    def __init__(self) -> None:
        self.hashes: list[int] = []

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self.hashes.append(int.from_bytes(digest))
        self[word] = len(self)
        return len(self) - 1
