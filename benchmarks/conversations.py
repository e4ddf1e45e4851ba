"""Made-up conversations of SmolTalk's lengths, with rows planted that an assembly must find, and the truth about them.

    python -m benchmarks.conversations FOLDER --rows 200000

writes four JSONL sources in OpenAI's layout, `benchmark.jsonl` and `truth.jsonl`. No text is copied from anywhere:
words are made of syllables. Every row is made from its own number alone, so that processes share the work and a copy
can be of any earlier row.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = 4
QUESTIONS = 1000
WORDS = 30_000
# Words of a conversation: half have fewer than 350, the mean is 550.
MEDIAN_WORDS, MEAN_WORDS = 350, 550
SHORTEST, LONGEST = 60, 10_000
# Shares of all rows. The first three are copies of earlier plain rows, the last five are for the filters to drop.
SHARES = {
    "equal": 0.02,
    "near": 0.04,
    "lookalike": 0.01,
    "contaminated": 0.005,
    "refusal": 0.01,
    "repetition": 0.005,
    "empty turn": 0.005,
    "many turns": 0.005,
    "repeated turns": 0.005,
}
KINDS = (*SHARES, "plain")
COPIES = ("equal", "near", "lookalike")
# Jaccard similarity of the sets of runs of five words.
SIMILAR = {"near": (0.8, 0.98), "lookalike": (0.3, 0.6)}
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "I am unable to provide that.",
    "As an AI language model, I cannot answer this.",
)
_BLOCK = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """What each row is to be, arrays of one entry a row: place in `KINDS`, number of the row that it is a copy of (or
    -1), number of its source, and its line there from 1."""

    kinds: np.ndarray
    originals: np.ndarray
    sources: np.ndarray
    lines: np.ndarray

    def origin(self, row: int) -> str:
        """Where the row stands, such as `part-0.jsonl:12`."""
        return f"part-{self.sources[row]}.jsonl:{self.lines[row]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    given = parser.parse_args()
    write_conversations(given.folder, given.rows)


def write_conversations(folder: Path, rows: int, seed: int = 0, processes: int = 2) -> None:
    """Write the sources, the benchmark and, last, the truth: a line for each planted row with its origin as `row`, its
    `kind`, and for copies `of` and `jaccard`, for contaminated rows `question` (from 0) and the number of its `words`.

    The same for the same rows and seed, whatever the number of processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"question": _prose(_rng(seed, -1), words)}) for words in _questions(seed)]
    (folder / "benchmark.jsonl").write_text("\n".join(lines) + "\n")
    jobs = [(seed, rows, start) for start in range(0, rows, _BLOCK)]
    files = [(folder / f"part-{number}.jsonl").open("w") for number in range(SOURCES)]
    truth: list[str] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for parts, planted in pool.imap(_block, jobs):
            for file, part in zip(files, parts, strict=True):
                file.write(part)
            truth.append(planted)
    for file in files:
        file.close()
    (folder / "truth.jsonl").write_text("".join(truth))


@functools.cache
def make_plan(seed: int, rows: int) -> Plan:
    """Copies stand in their original's source or a later one, and later than it: it is the copy that has to go."""
    rng = _rng(seed, -2)
    kinds = np.searchsorted(np.cumsum(list(SHARES.values())), rng.random(rows), side="right")
    kinds[0] = KINDS.index("plain")
    plain = np.flatnonzero(kinds == KINDS.index("plain"))
    before = np.searchsorted(plain, np.arange(rows))
    copies = kinds < len(COPIES)
    drawn = plain[(rng.random(rows) * before).astype(np.int64)]
    originals = np.where(copies, drawn, -1)
    sources = rng.integers(0, SOURCES, rows)
    first = sources[drawn]
    sources = np.where(copies, first + (rng.random(rows) * (SOURCES - first)).astype(np.int64), sources)
    lines = np.zeros(rows, dtype=np.int64)
    for number in range(SOURCES):
        own = np.flatnonzero(sources == number)
        lines[own] = np.arange(1, len(own) + 1)
    return Plan(kinds, originals, sources, lines)


def _block(job: tuple[int, int, int]) -> tuple[list[str], str]:
    """The lines of the rows from `start` for each source, and those of the truth."""
    seed, rows, start = job
    plan = make_plan(seed, rows)
    parts: list[list[str]] = [[] for _ in range(SOURCES)]
    truth = []
    for row in range(start, min(rows, start + _BLOCK)):
        texts, about = _row(seed, plan, row)
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        parts[plan.sources[row]].append(json.dumps({"messages": turns}) + "\n")
        if about:
            truth.append(json.dumps({"row": plan.origin(row), **about}) + "\n")
    return ["".join(part) for part in parts], "".join(truth)


def _row(seed: int, plan: Plan, row: int) -> tuple[list[str], dict[str, Any]]:
    """The turns of a row, and what the truth says of it."""
    kind, original, rng = KINDS[plan.kinds[row]], int(plan.originals[row]), _rng(seed, row)
    if kind in COPIES:
        # An equal row has to draw what its original, a plain row, drew.
        source = _rng(seed, original)
        turns, similarity = _conversation(seed, source), 1.0
        if kind in SIMILAR:
            turns, similarity = _altered(seed, rng, turns, *SIMILAR[kind])
        texts = [_prose(source if kind == "equal" else rng, turn) for turn in turns]
        return texts, {"kind": kind, "of": plan.origin(original), "jaccard": similarity}
    turns = _conversation(seed, rng, int(rng.integers(11, 15)) if kind == "many turns" else None)
    about: dict[str, Any] = {} if kind == "plain" else {"kind": kind}
    if kind == "contaminated":
        about |= _plant_question(seed, rng, turns)
    texts = [_prose(rng, turn) for turn in turns]
    return _spoilt(seed, rng, texts, kind), about


def _spoilt(seed: int, rng: np.random.Generator, texts: list[str], kind: str) -> list[str]:
    """The turns with what a filter must find, for the kinds that are for the filters."""
    match kind:
        case "refusal":
            return [*texts[:-1], str(rng.choice(REFUSALS))]
        case "repetition":
            said = _prose(rng, _words(seed, rng, int(rng.integers(5, 30))))
            return [*texts[:-1], " ".join([said] * int(rng.integers(6, 20)))]
        case "empty turn":
            empty = int(rng.integers(len(texts)))
            return ["" if turn == empty else text for turn, text in enumerate(texts)]
        case "repeated turns":
            return [*texts, _prose(rng, _words(seed, rng, 8)), texts[-1]]
    return texts


def _conversation(seed: int, rng: np.random.Generator, exchanges: int | None = None) -> list[list[str]]:
    """The words of a question, of its answer, of the next question and so on."""
    spread = np.sqrt(2 * np.log(MEAN_WORDS / MEDIAN_WORDS))
    total = int(np.clip(rng.lognormal(np.log(MEDIAN_WORDS), spread), SHORTEST, LONGEST))
    words = _words(seed, rng, total)
    exchanges = exchanges or int(rng.integers(1, 5))
    turns = []
    for number, asked in enumerate(rng.uniform(0.05, 0.4, exchanges).tolist()):
        start, stop = total * number // exchanges, total * (number + 1) // exchanges
        answer = start + max(1, int((stop - start) * asked))
        turns += [words[start:answer], words[answer:stop]]
    return turns


def _altered(
    seed: int, rng: np.random.Generator, turns: list[list[str]], low: float, high: float
) -> tuple[list[list[str]], float]:
    """The same conversation with so many words replaced that its similarity lies between `low` and `high`; and its
    similarity."""
    places = [(turn, word) for turn, words in enumerate(turns) for word in range(len(words))]
    # Runs of five that hold no replaced word are a share s of all, and J = s / (2 - s).
    aim = rng.uniform(low, high)
    whole = 2 * aim / (1 + aim)
    changes = max(1, round(len(places) * (1 - whole**0.2)))
    before = _runs(turns)
    while True:
        copy = [list(words) for words in turns]
        chosen = rng.choice(len(places), changes, replace=False).tolist()
        for place, word in zip(chosen, _words(seed, rng, changes), strict=True):
            turn, at = places[place]
            copy[turn][at] = word
        after = _runs(copy)
        similarity = len(before & after) / len(before | after)
        if low <= similarity <= high:
            return copy, similarity
        changes = max(1, changes + (1 if similarity > high else -1))


def _runs(turns: list[list[str]]) -> set[tuple[str, ...]]:
    words = [word for turn in turns for word in turn]
    return set(zip(*(words[start:] for start in range(5)), strict=False))


def _plant_question(seed: int, rng: np.random.Generator, turns: list[list[str]]) -> dict[str, int]:
    """Put 13 to 30 consecutive words of a question into the longest turn, neither first nor last."""
    number, length = int(rng.integers(QUESTIONS)), int(rng.integers(13, 31))
    question = _questions(seed)[number]
    start = int(rng.integers(len(question) - length + 1))
    turn = max(turns, key=len)
    at = int(rng.integers(1, len(turn)))
    turn[at:at] = question[start : start + length]
    return {"question": number, "words": length}


def _prose(rng: np.random.Generator, words: list[str]) -> str:
    """The words as sentences."""
    said = list(words)
    said[0] = said[0].capitalize()
    for end in np.cumsum(rng.integers(6, 25, len(said) // 6)).tolist():
        if end >= len(said):
            break
        said[end - 1] += "."
        said[end] = said[end].capitalize()
    return " ".join(said) + "."


def _words(seed: int, rng: np.random.Generator, count: int) -> list[str]:
    """Words drawn by Zipf's law: the n-th word has a share of about 1 / n."""
    ranks = np.exp(rng.random(count) * np.log(WORDS)).astype(np.int64) - 1
    found: list[str] = _vocabulary(seed)[ranks].tolist()
    return found


@functools.cache
def _vocabulary(seed: int) -> np.ndarray:
    """Made-up words, str objects [WORDS], shorter ones first."""
    rng = _rng(seed, -3)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ai", "en")]
    words = dict.fromkeys(syllables)
    while len(words) < WORDS:
        words["".join(syllables[one] for one in rng.integers(len(syllables), size=rng.integers(2, 5)))] = None
    return np.array(sorted(words, key=len), dtype=object)


@functools.cache
def _questions(seed: int) -> list[list[str]]:
    rng = _rng(seed, -4)
    return [_words(seed, rng, int(rng.integers(30, 61))) for _ in range(QUESTIONS)]


def _rng(seed: int, row: int) -> np.random.Generator:
    """Rows count from 0; the negative numbers are for what is no row."""
    return np.random.Generator(np.random.PCG64((seed, row + 10)))


if __name__ == "__main__":
    main()
