"""Made-up conversations of SmolTalk's lengths, with rows planted that an assembly must find, and the truth about them.

    python -m benchmarks.conversations FOLDER --rows 200000

writes four JSONL sources, `benchmark.jsonl` and `truth.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = 4
QUESTIONS = 1000
# Shares of all rows.
EQUAL, NEAR, LOOKALIKE, CONTAMINATED, FILTERED = 0.02, 0.04, 0.01, 0.005, 0.03
REFUSAL = ["I'm", "sorry,", "but", "I", "can't", "help", "with", "that."]
ORIGINALS = 10_000
# Words of a conversation: half have fewer than 350, the mean is 530 (SmolTalk's are of this order).
MEDIAN_WORDS, SPREAD = 350, 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    given = parser.parse_args()
    write_conversations(given.folder, given.rows)


def write_conversations(folder: Path, rows: int, seed: int = 0) -> None:
    """Write the sources, the benchmark and the truth, whose entries are origins such as `part-0.jsonl:12`.

    Truth: `equal`, `near`: rows to be removed; `contaminated`, `filtered`: likewise; `lookalike`: rows that stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    vocabulary = _vocabulary(rng)
    questions = [" ".join(_words(rng, vocabulary, 40)) for _ in range(QUESTIONS)]
    lines = [json.dumps({"question": question}) + "\n" for question in questions]
    (folder / "benchmark.jsonl").write_text("".join(lines))
    names = ["equal", "near", "lookalike", "contaminated", "filtered", ""]
    bounds = np.cumsum([EQUAL, NEAR, LOOKALIKE, CONTAMINATED, FILTERED])
    truth: dict[str, list[str]] = {name: [] for name in names if name}
    lines_of: list[list[str]] = [[] for _ in range(SOURCES)]
    places = [0] * SOURCES
    # What copies are made of: plain rows with the number of their source.
    originals: list[tuple[int, list[list[str]]]] = []
    for row in range(rows):
        name = names[int(np.searchsorted(bounds, rng.random()))]
        first = 0
        if name in ("equal", "near", "lookalike") and originals:
            # In the same source or a later one, so that it is the copy that goes.
            first, turns = originals[int(rng.integers(len(originals)))]
            turns = _altered(rng, vocabulary, turns, name)
        else:
            turns = _conversation(rng, vocabulary)
        source = int(rng.integers(first, SOURCES))
        if name == "contaminated":
            _plant(rng, turns, questions)
        elif name == "filtered":
            turns = [turns[0], REFUSAL]
        elif name not in ("equal", "near", "lookalike"):
            at = len(originals) if len(originals) < ORIGINALS else int(rng.integers(ORIGINALS))
            originals[at : at + 1] = [(source, turns)]
        places[source] += 1
        lines_of[source].append(json.dumps({"messages": _messages(turns)}) + "\n")
        if name:
            truth[name].append(f"part-{source}.jsonl:{places[source]}")
        if row % 10_000 == 9_999 or row == rows - 1:
            for number, lines in enumerate(lines_of):
                with (folder / f"part-{number}.jsonl").open("a") as file:
                    file.writelines(lines)
                lines.clear()
    (folder / "truth.json").write_text(json.dumps({"rows": rows, **truth}))


def _vocabulary(rng: np.random.Generator) -> np.ndarray:
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]
    return np.array(["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(30_000)])


def _words(rng: np.random.Generator, vocabulary: np.ndarray, count: int) -> list[str]:
    """Words by a law like Zipf's."""
    ranks = np.minimum((len(vocabulary) ** rng.random(count)).astype(int), len(vocabulary) - 1)
    return list(vocabulary[ranks])


def _conversation(rng: np.random.Generator, vocabulary: np.ndarray) -> list[list[str]]:
    total = int(np.clip(rng.lognormal(np.log(MEDIAN_WORDS), SPREAD), 60, 8000))
    exchanges = int(rng.integers(1, 4))
    words = _words(rng, vocabulary, total)
    cuts = [int(total * (2 * number + 1) / (2 * exchanges) * 0.4) for number in range(exchanges)]
    bounds = sorted({0, *cuts, *(total * number // exchanges for number in range(1, exchanges + 1))})
    turns = [words[a:b] for a, b in itertools.pairwise(bounds)]
    turns = turns if len(turns) % 2 == 0 else [*turns[:-2], turns[-2] + turns[-1]]
    return turns


def _altered(rng: np.random.Generator, vocabulary: np.ndarray, turns: list[list[str]], name: str) -> list[list[str]]:
    """The same conversation; with so many words replaced that the Jaccard similarity of its runs of five words is about
    0.82 to 0.97 ("near") or 0.3 to 0.6 ("lookalike")."""
    if name == "equal":
        return turns
    low, high = (0.84, 0.97) if name == "near" else (0.3, 0.6)
    similarity = rng.uniform(low, high)
    count = sum(map(len, turns))
    # Each replaced word spoils five runs on either side: J = (1 - s) / (1 + s) where a share s of the runs is spoilt.
    spoilt = (1 - similarity) / (1 + similarity)
    changes = max(1, int(count * spoilt / 5)) if name == "near" else int(-count * np.log(1 - spoilt) / 5) + 1
    copy = [list(turn) for turn in turns]
    flat = [(a, b) for a, turn in enumerate(copy) for b in range(len(turn))]
    for place in rng.choice(len(flat), min(changes, len(flat)), replace=False):
        turn, word = flat[int(place)]
        copy[turn][word] = "x" + str(vocabulary[int(rng.integers(len(vocabulary)))])
    return copy


def _plant(rng: np.random.Generator, turns: list[list[str]], questions: list[str]) -> None:
    question = questions[int(rng.integers(len(questions)))].split()
    length = int(rng.integers(13, 31))
    start = int(rng.integers(len(question) - length + 1))
    at = int(rng.integers(len(turns[-1]) + 1))
    turns[-1][at:at] = question[start : start + length]


def _messages(turns: list[list[str]]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": " ".join(turn)} for number, turn in enumerate(turns)]


if __name__ == "__main__":
    main()
