"""What a scorer sees of a text: its words and its runs of bytes, hashed, and a few plain figures.

Only whole numbers leave this module, computed from bytes alone, so that they are the same on every machine. Nothing
here knows a language: words are what `data.assembly.words` finds in any script, bytes are UTF-8's, and the plain
figures tell prose, formulas and code apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from smolalign.data.assembly.words import Hashes, word_hashes

# Places in the table of weights, as a power of two.
BITS = 18
PLACES = 1 << BITS
# What is hashed, by name. Pairs of words were tried as well, and told no more.
FAMILIES = ("words", "bytes")
_BYTES = 4
_BATCH = 256

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Bytes as they are hashed: capitals as small letters, digits all as one, so that no number is learned by heart.
_FOLDED = bytes(
    ord("0") if 48 <= byte < 58 else byte + 32 if 65 <= byte < 91 else 32 if byte in b"\t\r" else byte
    for byte in range(256)
)
_LETTER, _CAPITAL, _DIGIT, _SPACE, _LINE_END, _MARK, _SYMBOL, _HIGH = range(8)


def _kind(byte: int) -> int:
    if byte >= 128:
        return _HIGH
    character = chr(byte)
    if character.isalpha():
        return _CAPITAL if character.isupper() else _LETTER
    if character.isdigit():
        return _DIGIT
    if character == "\n":
        return _LINE_END
    if character.isspace() or byte < 32:
        return _SPACE
    return _MARK if character in ".,;:!?'\"-" else _SYMBOL


_KINDS = np.array([_kind(byte) for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Features:
    """What is seen of several texts.

    Attributes:
        runs: for each of FAMILIES the places of each text's distinct runs, from 0 to before PLACES.
        plain: int64 [texts, len(FIGURES)], the plain figures.
    """

    runs: list[Hashes]
    plain: np.ndarray

    def __len__(self) -> int:
        return len(self.plain)


FIGURES = (
    *("bytes", "words", "lines", "bytes a word", "bytes a line", "distinct words", "distinct lines"),
    *("capitals", "digits", "spaces", "punctuation", "symbols", "beyond ASCII"),
    *("longest word", "indented lines", "lines that begin with a symbol", "lines that end with a mark"),
)
"""The plain figures: sizes as they are, shares in thousandths."""


def features(texts: Sequence[str], max_characters: int) -> Iterator[Features]:
    """What is seen of texts, batch by batch, of each no more than its beginning."""
    for start in range(0, len(texts), _BATCH):
        yield _of_batch([text[:max_characters] for text in texts[start : start + _BATCH]])


def _of_batch(texts: Sequence[str]) -> Features:
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    folded = [one.translate(_FOLDED) for one in raw]
    words = word_hashes(one.decode("utf-8", "surrogatepass") for one in folded)
    return Features([_places(words), _places(_byte_runs(folded))], _plain(raw, words))


def _byte_runs(texts: Sequence[bytes]) -> Hashes:
    """Every run of so many bytes, as a number; a text that is shorter has none."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    data = np.frombuffer(b"".join(texts) + b"\0" * _BYTES, dtype=np.uint8)
    total = int(lengths.sum())
    values = np.zeros(total, dtype=np.uint64)
    for place in range(_BYTES):
        values |= data[place : place + total].astype(np.uint64) << np.uint64(8 * place)
    ends = np.cumsum(lengths)
    inside = np.arange(total) + _BYTES <= np.repeat(ends, lengths)
    counts = np.maximum(lengths - _BYTES + 1, 0)
    return Hashes(values[inside], np.concatenate([[0], np.cumsum(counts)]))


def _places(runs: Hashes) -> Hashes:
    """The distinct places of each text's runs, in ascending order."""
    counts = np.diff(runs.offsets)
    with np.errstate(over="ignore"):
        mixed = runs.values[runs.offsets[0] : runs.offsets[-1]] * _MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
        places = (mixed * _MULTIPLIER) >> np.uint64(64 - BITS)
    # One number of text and place, so that all texts are sorted at once.
    keys = (np.repeat(np.arange(len(counts), dtype=np.int64), counts) << BITS) | places.astype(np.int64)
    keys.sort()
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    keys = keys[first]
    offsets = np.searchsorted(keys, np.arange(len(counts) + 1, dtype=np.int64) << BITS)
    return Hashes(keys & (PLACES - 1), offsets)


def _plain(texts: Sequence[bytes], words: Hashes) -> np.ndarray:
    return np.array([_figures(text, words.of(number)) for number, text in enumerate(texts)], dtype=np.int64).reshape(
        len(texts), len(FIGURES)
    )


def _figures(text: bytes, words: np.ndarray) -> list[int]:
    kinds = np.bincount(_KINDS[np.frombuffer(text, dtype=np.uint8)], minlength=8).tolist()
    lines = [line for line in text.split(b"\n") if line.strip()]
    size, count, filled = len(text), len(words), len(lines)
    stripped = [line.strip() for line in lines]
    return [
        size,
        count,
        filled,
        _share(size - kinds[_SPACE] - kinds[_LINE_END], count),
        size // max(1, filled),
        _share(len(np.unique(words)), count),
        _share(len(set(stripped)), filled),
        _share(kinds[_CAPITAL], size),
        _share(kinds[_DIGIT], size),
        _share(kinds[_SPACE], size),
        _share(kinds[_MARK], size),
        _share(kinds[_SYMBOL], size),
        _share(kinds[_HIGH], size),
        max(map(len, text.split()), default=0),
        _share(sum(line[:1] in (b" ", b"\t") for line in lines), filled),
        _share(sum(_KINDS[line[0]] == _SYMBOL for line in stripped), filled),
        _share(sum(line[-1] in b".!?:;" for line in stripped), filled),
    ]


def _share(part: int, whole: int) -> int:
    """Thousandths, rounded down."""
    return 1000 * part // whole if whole else 0
