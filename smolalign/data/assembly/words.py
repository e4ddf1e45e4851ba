"""Words and n-grams of texts as hashes: what near-duplicates, contamination and repetition are all found with."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Runs of letters, digits and underscores; of scripts that write no spaces, each character alone.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# In ASCII, where splitting is twice as fast as the pattern: all but letters, digits and underscores becomes a space.
_ASCII = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}
# The same for UTF-8, upper case to lower case as well. Other letters' bytes stay as they are.
_ASCII_BYTES = bytes(ord(_ASCII.get(code, chr(code).lower())) if code < 128 else code for code in range(256))
_NO_WORD, _IN_WORD, _ALONE = range(3)
# An odd multiplier, so that every bit of each word reaches the hash of an n-gram (the golden ratio's 64 bits).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Runs, and bytes of texts, hashed at a time, so that they stay in the processor's cache: three times as fast as all at
# once.
_BLOCK = 1 << 14
_BLOCK_BYTES = 1 << 16
# Of a word of so many bytes (0 to 8) the bits that are its own.
_MASKS = np.array([(1 << (8 * length)) - 1 for length in range(9)], dtype=np.uint64)
# Longer words, such as pictures in base64, are hashed one by one.
_LONGEST_BYTES = 64


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
    values, counts = [np.zeros(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)]
    for block in _blocks(map(_spaced, texts)):
        found, starts = _hashed_words(b" ".join(block))
        places = np.cumsum([1, *(len(text) + 1 for text in block)])  # from 1: a space stands before the first text
        values.append(found)
        counts.append(np.diff(np.searchsorted(starts, places)))
    return Hashes(np.concatenate(values), np.cumsum(np.concatenate(counts)))


def _blocks(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _spaced(text: str) -> bytes:
    """The words of a text in UTF-8, at least one space between them."""
    if text.isascii():
        return text.encode().translate(_ASCII_BYTES)
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _kinds()[codes]
    codes = np.where(kinds == _NO_WORD, np.uint32(ord(" ")), codes)
    alone = np.flatnonzero(kinds == _ALONE)
    if len(alone):
        codes = np.insert(codes, np.concatenate([alone, alone + 1]), ord(" "))
    return codes.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogatepass")


@functools.cache
def _kinds() -> np.ndarray:
    """What each character is to `_WORD`: uint8 [all of Unicode]. Five times as fast as the pattern itself."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    kinds = np.full(len(every), _NO_WORD, dtype=np.uint8)
    for match in _WORD.finditer(every):
        kinds[match.start() : match.end()] = _IN_WORD
    for match in re.finditer(f"[{_UNSPACED}]", every):
        kinds[match.start()] = _ALONE
    return kinds


def _hashed_words(spaced: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each word, uint64 [words], and where each word starts if a space stood before all of them."""
    # Spaces at the end, so that eight bytes can be read from the start of the last word on.
    data = np.frombuffer(b" ".join([b"", spaced, b" " * (24 - len(spaced) % 8 - 2)]), dtype=np.uint8)
    inside = data != ord(" ")
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    words = data.view("<u8")
    hashed = lengths.astype(np.uint64) * _MULTIPLIER
    _mix(hashed, words, starts, lengths)
    longer = np.flatnonzero(lengths > 8)
    for done in range(8, _LONGEST_BYTES, 8):
        if not len(longer):
            break
        part = hashed[longer]
        _mix(part, words, starts[longer] + done, lengths[longer] - done)
        hashed[longer] = part
        longer = longer[lengths[longer] > done + 8]
    for word in longer.tolist():
        digest = hashlib.blake2b(data[starts[word] : starts[word] + lengths[word]].tobytes(), digest_size=8).digest()
        hashed[word] = int.from_bytes(digest)
    return hashed, starts


def _mix(hashed: np.ndarray, words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    """Mix into each hash up to eight of the bytes from `starts` on, little-endian, those behind `lengths` as zeros."""
    place, shift = starts >> 3, (starts & 7).astype(np.uint64) << np.uint64(3)
    read = words[place] >> shift
    read |= (words[place + 1] << np.uint64(1)) << (np.uint64(63) - shift)
    read &= _MASKS[np.minimum(lengths, 8)]
    with np.errstate(over="ignore"):
        hashed ^= read
        hashed *= _MULTIPLIER
        hashed ^= hashed >> np.uint64(29)
        hashed *= _MULTIPLIER
        hashed ^= hashed >> np.uint64(32)


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


def distinct(hashes: Hashes) -> Hashes:
    """The distinct hashes of each text, in ascending order."""
    values, offsets = hashes.values[hashes.offsets[0] : hashes.offsets[-1]].copy(), hashes.offsets - hashes.offsets[0]
    for start, stop in itertools.pairwise(offsets.tolist()):
        values[start:stop].sort()
    first = np.ones(len(values), dtype=bool)
    first[1:] = values[1:] != values[:-1]
    first[offsets[:-1][offsets[:-1] < len(values)]] = True
    return Hashes(values[first], np.concatenate([[0], np.cumsum(first)])[offsets])


def whole_hashes(words: Hashes) -> np.ndarray:
    """A hash of all words of each text, as one run of theirs: uint64 [texts], 0 for texts without words."""
    start, counts = words.offsets[0], np.diff(words.offsets)
    powers, _ = _powers(int(counts.max(initial=1)))
    places = np.arange(words.offsets[-1] - start) - np.repeat(words.offsets[:-1] - start, counts)
    terms = words.values[start : words.offsets[-1]] * powers[places]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms)])[words.offsets - start]
    return _stirred(sums[1:] - sums[:-1])


def _runs(values: np.ndarray, n: int) -> np.ndarray:
    """A hash of each `n` values that follow one another: uint64 [len(values) - n + 1].

    A polynomial in the multiplier (Karp and Rabin 1987): sums over runs are differences of sums from the start on,
    whatever `n` is, and the multiplier is odd, so that it has an inverse to shift them back with.
    """
    hashed = np.empty(len(values) - n + 1, dtype=np.uint64)
    powers, inverses = _powers(min(_BLOCK, len(hashed)) + n - 1)
    sums = np.zeros(min(_BLOCK, len(hashed)) + n, dtype=np.uint64)
    for first in range(0, len(hashed), _BLOCK):
        block = hashed[first : first + _BLOCK]
        count = len(block) + n - 1
        np.cumsum(values[first : first + count] * powers[:count], out=sums[1 : count + 1])
        np.subtract(sums[n : count + 1], sums[: len(block)], out=block)
        block *= inverses[: len(block)]
        _stirred(block)
    return hashed


def _stirred(hashes: np.ndarray) -> np.ndarray:
    """The same array with the bits of each sum mixed."""
    hashes ^= hashes >> np.uint64(29)
    hashes *= _MULTIPLIER
    return hashes


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The multiplier to the powers 0, 1, … up to at least `count` of them, and those of its inverse modulo 2^64."""
    return _powers_of(1 << (count - 1).bit_length())


@functools.cache
def _powers_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    inverse = np.uint64(pow(int(_MULTIPLIER), -1, 1 << 64))
    up, down = (np.full(count, factor, dtype=np.uint64) for factor in (_MULTIPLIER, inverse))
    up[0] = down[0] = 1
    return np.cumprod(up), np.cumprod(down)
