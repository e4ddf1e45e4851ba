"""The conversations that assembly is measured on: the truth about planted rows is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conversations import KINDS, SIMILAR, write_conversations

ROWS = 2500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("conversations")
    write_conversations(made, ROWS)
    return made


@pytest.fixture(scope="module")
def lines(folder: Path) -> dict[str, str]:
    """Each row's line by its origin."""
    return {f"{file.name}:{n}": line for file in folder.glob("part-*") for n, line in enumerate(file.open(), start=1)}


@pytest.fixture(scope="module")
def truth(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def turns(line: str) -> list[str]:
    return [turn["content"] for turn in json.loads(line)["messages"]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(line: str) -> set[str]:
    found = words("\n".join(turns(line)))
    return {" ".join(found[at : at + 5]) for at in range(len(found) - 4)}


def test_every_kind_is_planted_and_every_row_is_written(lines: dict[str, str], truth: list[dict[str, Any]]) -> None:
    assert len(lines) == ROWS
    assert {entry["kind"] for entry in truth} | {"plain"} == set(KINDS)


def test_copies_have_the_similarity_that_the_truth_gives(lines: dict[str, str], truth: list[dict[str, Any]]) -> None:
    for entry in (entry for entry in truth if entry["kind"] in SIMILAR):
        own, other = runs(lines[entry["row"]]), runs(lines[entry["of"]])
        low, high = SIMILAR[entry["kind"]]
        assert low <= entry["jaccard"] == len(own & other) / len(own | other) <= high
    assert all(lines[entry["row"]] == lines[entry["of"]] for entry in truth if entry["kind"] == "equal")


def test_originals_are_plain_rows_that_stand_earlier(truth: list[dict[str, Any]]) -> None:
    def place(origin: str) -> tuple[str, int]:
        file, _, line = origin.partition(":")
        return file, int(line)

    planted = {entry["row"] for entry in truth}
    copies = [entry for entry in truth if "of" in entry]
    assert not planted & {entry["of"] for entry in copies}
    assert all(place(entry["of"]) < place(entry["row"]) for entry in copies)


def test_contaminated_rows_hold_words_of_their_question_inside_a_turn(
    folder: Path, lines: dict[str, str], truth: list[dict[str, Any]]
) -> None:
    questions = [words(json.loads(line)["question"]) for line in (folder / "benchmark.jsonl").read_text().splitlines()]
    for entry in (entry for entry in truth if entry["kind"] == "contaminated"):
        question, length = questions[entry["question"]], entry["words"]
        spans = [f" {' '.join(question[at : at + length])} " for at in range(len(question) - length + 1)]
        assert 13 <= length <= 30
        assert any(span in " ".join(words(turn)) for turn in turns(lines[entry["row"]]) for span in spans)


def test_processes_do_not_change_what_is_written(folder: Path, tmp_path: Path) -> None:
    write_conversations(tmp_path, ROWS, processes=1)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
