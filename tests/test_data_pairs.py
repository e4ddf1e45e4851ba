"""Pairs out of rated answers, the published sets of pairs in their exact schemas, and splits that stay held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED_DATA, Ran, chats, pairs, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.data.detect import recognise
from smolalign.data.formats import FORMATS
from smolalign.data.formats.rated import rated_pair, scored_pair
from smolalign.data.load import load_rows
from smolalign.data.records import read_records
from smolalign.errors import UserError
from smolalign.recipe.data import PairChoice
from smolalign.recipe.schema import SmoltalkStep
from smolalign.rows import Message, Pair, Skip

Cli = Callable[..., Ran]
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def rated(*scores: Any, key: str = "overall_score", instruction: str = "hi") -> dict[str, Any]:
    """A record whose answers r0, r1, ... have these scores."""
    completions = [{"response": f"r{number}", key: score} for number, score in enumerate(scores)]
    return {"instruction": instruction, "completions": completions}


def raw(record: dict[str, Any]) -> Any:
    """What the format makes of a record, which must be recognised as one of it."""
    assert recognise(record) == "ultrafeedback_raw"
    return FORMATS["ultrafeedback_raw"].convert(record)


def chosen_and_rejected(pair: Any) -> tuple[str, str]:
    assert isinstance(pair, Pair), pair
    return pair.chosen.content, pair.rejected.content


def drawn(record: dict[str, Any], seed: int = 0, **choice: Any) -> str:
    """The rejected answer of a random choice."""
    return chosen_and_rejected(rated_pair(record, PairChoice(rejected="random", **choice), seed))[1]


# --- raw UltraFeedback -----------------------------------------------------------------------------------------------


def test_by_default_the_best_answer_stands_against_the_worst() -> None:
    pair = raw(rated(5, 8.5, 2, 7))
    assert chosen_and_rejected(pair) == ("r1", "r2")
    assert (pair.score_chosen, pair.score_rejected) == (8.5, 2.0)
    assert pair.prompt == (Message("user", "hi"),)
    assert raw(rated(1, 2, key="fine-grained_score")).chosen.content == "r1"


def annotated(*ratings: str) -> dict[str, Any]:
    """Annotations in openbmb's schema."""
    return {
        aspect: {"Rating": rating, "Rationale": "because", "Rationale For Rating": None, "Type": None}
        for aspect, rating in zip(ASPECTS, ratings, strict=True)
    }


def openbmb() -> dict[str, Any]:
    """A record in the exact schema of openbmb/UltraFeedback; its first answer's overall score of 10 is wrong."""
    marks = [("1", "2", "1", "N/A", 10.0), ("5", "4", "5", "5", 8.5), ("3", "N/A", "N/A", "4", 7.0)]
    return {
        "source": "evol_instruct",
        "instruction": "hi",
        "models": ["alpaca-7b", "gpt-4", "pythia-12b"],
        "completions": [
            {
                "annotations": annotated(*ratings),
                "custom_system_prompt": "As an honest assistant, ...",
                "model": "gpt-4",
                "principle": "honesty",
                "response": f"r{number}",
                "critique": "Good.",
                "overall_score": overall,
            }
            for number, (*ratings, overall) in enumerate(marks)
        ],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def test_fine_grained_ratings_are_averaged_without_what_does_not_apply_and_right_a_wrong_overall_score() -> None:
    assert chosen_and_rejected(raw(openbmb())) == ("r0", "r2")
    assert chosen_and_rejected(rated_pair(openbmb(), PairChoice(score="overall"), 0)) == ("r0", "r2")
    fine = rated_pair(openbmb(), PairChoice(score="fine_grained"), 0)
    assert chosen_and_rejected(fine) == ("r1", "r0")
    assert isinstance(fine, Pair)
    assert (fine.score_chosen, fine.score_rejected) == (4.75, pytest.approx(4 / 3))
    stored = openbmb()
    for completion, score in zip(stored["completions"], (3.0, 2.0, 1.0), strict=True):
        completion["fine-grained_score"] = score
    assert chosen_and_rejected(rated_pair(stored, PairChoice(score="fine_grained"), 0)) == ("r0", "r2")


def test_answers_are_never_compared_on_two_scales() -> None:
    record = openbmb()
    record["completions"][1]["overall_score"] = None
    # Overall scores now rate two of three, the annotations all.
    assert chosen_and_rejected(raw(record)) == ("r1", "r0")
    assert chosen_and_rejected(rated_pair(record, PairChoice(score="overall"), 0)) == ("r0", "r2")


@pytest.mark.parametrize("rejected", ["worst", "random"])
def test_records_without_a_pair_are_skipped_for_a_reason(rejected: Any) -> None:
    def skip(record: dict[str, Any], **choice: Any) -> Any:
        return rated_pair(record, PairChoice(rejected=rejected, **choice), 0)

    assert skip(rated(5, 5, 5)) == Skip("tie")
    assert skip(rated(5, "N/A", None, True)) == Skip("fewer than two rated answers")
    assert skip(rated(5, 10**400)) == Skip("fewer than two rated answers")
    assert skip(rated()) == Skip("fewer than two rated answers")
    assert skip(rated(1, 2), score="fine_grained") == Skip("fewer than two rated answers")
    assert skip(rated(8, 7.5, 7.25), min_margin=1) == Skip("margin below min_margin")
    assert skip(rated(5, 5), min_margin=1) == Skip("tie")
    same = rated(5, 4)
    same["completions"][1]["response"] = "r0"
    assert skip(same) == Skip("chosen equals rejected")


def test_a_margin_that_is_met_exactly_is_enough() -> None:
    assert 4.1 - 4.0 < 0.1
    assert chosen_and_rejected(rated_pair(rated(4.0, 4.1), PairChoice(min_margin=0.1), 0)) == ("r1", "r0")
    assert rated_pair(rated(4.0, 4.1), PairChoice(min_margin=0.11), 0) == Skip("margin below min_margin")


def test_a_random_rejected_answer_is_any_that_is_worse_by_the_margin_each_as_likely() -> None:
    records = [rated(9, 9, 8, 6, 2, instruction=f"q{number}") for number in range(3000)]
    counts = Counter(drawn(record) for record in records)
    assert set(counts) == {"r2", "r3", "r4"}
    assert all(900 < count < 1100 for count in counts.values())
    assert {chosen_and_rejected(rated_pair(r, PairChoice(rejected="random"), 0))[0] for r in records} == {"r0"}
    assert set(Counter(drawn(record, min_margin=3) for record in records)) == {"r3", "r4"}


def test_a_random_choice_is_the_seeds() -> None:
    record = rated(9, 8, 7, 6)
    assert {drawn(record, seed) for seed in range(40)} == {"r1", "r2", "r3"}
    assert [drawn(record, 7) for _ in range(3)] == [drawn(record, 7)] * 3


@given(st.permutations(range(5)), st.integers(0, 2**32), st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_a_random_choice_depends_on_neither_the_answers_order_nor_those_that_a_margin_removes(
    order: list[int], seed: int, margin: float
) -> None:
    record = rated(9, 8, 7.5, 6, 4)
    moved = {**record, "completions": [record["completions"][index] for index in order], "source": "flan"}
    assert drawn(moved, seed) == drawn(record, seed)
    free, far = drawn(record, seed), drawn(record, seed, min_margin=margin)
    if 9 - [9, 8, 7.5, 6, 4][int(free[1])] >= margin:
        assert far == free


def test_broken_records_are_told() -> None:
    def error_of(record: dict[str, Any]) -> str:
        with pytest.raises(UserError) as caught:
            raw(record)
        return caught.value.line()

    assert error_of({"instruction": "hi", "completions": ["a"]}) == 'completions[0] must be an object, not "a"'
    record = rated(5, 4, 3)
    record["completions"][1]["response"] = 7
    assert error_of(record) == "response must be a string, not 7"


# --- published sets of pairs -----------------------------------------------------------------------------------------

_GOOD = [{"content": "hi", "role": "user"}, {"content": "hello", "role": "assistant"}]
_BAD = [{"content": "hi", "role": "user"}, {"content": "go away", "role": "assistant"}]
PUBLISHED: dict[str, dict[str, Any]] = {
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "hi",
        "prompt_id": "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4",
        "chosen": _GOOD,
        "rejected": _BAD,
        "messages": _GOOD,
        "score_chosen": 8.5,
        "score_rejected": 7.0,
    },
    "argilla/ultrafeedback-binarized-preferences-cleaned": {
        "source": "evol_instruct",
        "prompt": "hi",
        "chosen": _GOOD,
        "chosen-rating": 8.5,
        "chosen-model": "gpt-4",
        "rejected": _BAD,
        "rejected-rating": 7.0,
        "rejected-model": "alpaca-7b",
    },
    "trl-lib/ultrafeedback_binarized": {
        "chosen": _GOOD,
        "rejected": _BAD,
        "score_chosen": 8.5,
        "score_rejected": 7.0,
    },
}
PUBLISHED_PAIR = Pair(
    (Message("user", "hi"),),
    Message("assistant", "hello"),
    Message("assistant", "go away"),
    score_chosen=8.5,
    score_rejected=7.0,
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_read_as_they_are_scores_included(name: str, tmp_path: Path) -> None:
    record = PUBLISHED[name]
    assert recognise(record) == "ultrafeedback"
    assert FORMATS["ultrafeedback"].convert(record) == PUBLISHED_PAIR
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([record]), file)
    [(_, read)] = read_records(str(file))
    assert FORMATS["ultrafeedback"].convert(read) == PUBLISHED_PAIR


def test_a_rating_that_is_no_number_is_told_by_its_own_name() -> None:
    record = {**PUBLISHED["argilla/ultrafeedback-binarized-preferences-cleaned"], "rejected-rating": "bad"}
    with pytest.raises(UserError, match='rejected-rating must be a number, not "bad"'):
        FORMATS["ultrafeedback"].convert(record)


def test_a_margin_holds_for_published_pairs_that_have_scores() -> None:
    assert scored_pair(PUBLISHED_PAIR, PairChoice(min_margin=1.5)) is PUBLISHED_PAIR
    assert scored_pair(PUBLISHED_PAIR, PairChoice(min_margin=1.6)) == Skip("margin below min_margin")
    unscored = Pair(PUBLISHED_PAIR.prompt, PUBLISHED_PAIR.chosen, PUBLISHED_PAIR.rejected)
    assert scored_pair(unscored, PairChoice(min_margin=9)) is unscored
    for scores in ((5.0, 5.0), (5.0, 6.0)):
        published = Pair(PUBLISHED_PAIR.prompt, PUBLISHED_PAIR.chosen, PUBLISHED_PAIR.rejected, (), *scores)
        assert scored_pair(published, PairChoice()) is published


def test_scores_of_a_real_set_order_its_pairs_and_a_margin_keeps_those_it_should() -> None:
    file = SHARED_DATA / "ultrafeedback" / "train_clean.jsonl"
    if not file.exists():
        pytest.skip("SMOLALIGN_SHARED_DATA names the folder of real data files")
    scored = [(r, r.score_chosen, r.score_rejected) for r in load_rows(str(file), "pair").rows if isinstance(r, Pair)]
    assert len(scored) == 994
    assert all(better is not None and worse is not None for _, better, worse in scored)
    kept = [row for row, _, _ in scored if isinstance(scored_pair(row, PairChoice(min_margin=1)), Pair)]
    assert kept == [row for row, better, worse in scored if better - worse >= 1]  # type: ignore[operator]
    assert 0 < len(kept) < len(scored)


# --- held-out splits -------------------------------------------------------------------------------------------------


def write_prefs(folder: Path) -> Path:
    """A folder as the Hub's copy of HuggingFaceH4/ultrafeedback_binarized has it, of small rows."""
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", pairs(24)), ("test", [{**row, "prompt": "Held out."} for row in pairs(5)])):
        for shard, part in enumerate((rows[::2], rows[1::2])):
            file = folder / "data" / f"{split}_prefs-0000{shard}-of-00002.parquet"
            pq.write_table(pa.Table.from_pylist(part), file)
    return folder


def recipe(folder: Path, model: object, *lines: str) -> Path:
    text = [
        "kind: dpo",
        f"model: {model}",
        "template: chatml",
        "max_length: 128",
        "trainer: {max_steps: 1, per_device_train_batch_size: 2}",
    ]
    file = folder / "dpo.yaml"
    file.write_text("\n".join([*text, *lines]) + "\n", encoding="utf-8")
    return file


def test_a_folder_of_train_and_test_prefs_gives_its_train_rows_alone(tmp_path: Path) -> None:
    folder = str(write_prefs(tmp_path / "prefs"))
    assert sorted(r["prompt"] for _, r in read_records(folder)) == sorted(row["prompt"] for row in pairs(24))
    assert {r["prompt"] for _, r in read_records(folder, split="test_prefs")} == {"Held out."}


@pytest.mark.parametrize(
    "split", ["test_prefs", "train_prefs+test_prefs", "test_prefs[:50%]", "train_prefs + test_gen"]
)
@pytest.mark.parametrize("command", ["dpo", "check"])
def test_test_prefs_are_refused_as_rows_to_train_on(
    cli: Cli, tiny_model: Path, tmp_path: Path, command: str, split: str
) -> None:
    write_prefs(tmp_path / "prefs")
    file = recipe(tmp_path, tiny_model, f"data: [{{source: prefs}}, {{source: prefs, split: '{split}'}}]")
    ran = cli(command, file)
    assert ran.code == 2
    [line] = ran.err.strip().splitlines()
    assert f"data.1: split '{split}' holds rows to measure on, never to train on" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "source",
    [
        "prefs/data/test_prefs-00000-of-00002.parquet",
        "test.jsonl",
        "TEST-00000-of-00001.parquet",
        "test_sft.json",
        "./test_gen-00000-of-00001-0123456789abcdef.parquet",
        "default/test_prefs/0000.parquet",
        "ultrafeedback/test_prefs",
        "./test",
        "prefs/test",
    ],
)
@pytest.mark.parametrize("command", ["dpo", "check", "preview"])
def test_files_named_after_test_splits_are_refused_as_rows_to_train_on(
    cli: Cli, tiny_model: Path, tmp_path: Path, command: str, source: str
) -> None:
    write_prefs(tmp_path / "prefs")
    (tmp_path / "prefs/test").mkdir()
    file = recipe(tmp_path, tiny_model, "data:", "  - source: prefs", f"  - source: {source}")
    ran = cli(command, file)
    assert ran.code == 2
    [line] = ran.err.strip().splitlines()
    assert f"{file}:8: data.1: source {source!r} holds rows to measure on, never to train on → name the split" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("field", ["data", "tokenizer_data"])
@pytest.mark.parametrize("source", ["{source: test.jsonl}", "{source: a.jsonl, split: test_sft}"])
def test_a_tokenizer_is_not_trained_on_rows_to_measure_on_either(
    cli: Cli, tmp_path: Path, field: str, source: str
) -> None:
    file = tmp_path / "pretrain.yaml"
    rest = "" if field == "data" else "data: [{source: a.jsonl}]\n"
    file.write_text(f"kind: pretrain\n{rest}{field}: [{source}]\n", encoding="utf-8")
    ran = cli("check", file)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert f"{field}.0: s" in ran.err
    assert "holds rows to measure on" in ran.err


def test_data_and_init_on_the_command_line_are_held_to_it_too(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "test_prefs.jsonl", pairs(4))
    for arguments in (
        ("dpo", "--data", "test_prefs.jsonl", "--model", tiny_model),
        ("init", "test_prefs.jsonl"),
        ("init", ".", "--split", "test_prefs"),
    ):
        ran = cli(*arguments)
        assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran
        assert "holds rows to measure on, never to train on → name the split or file of rows to train on" in ran.err
        assert "test_prefs" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["test_prefs.jsonl"]


@pytest.mark.parametrize(
    "source",
    [
        "me/test",
        "me/test-chats",
        "tests.jsonl",
        "test_cases.jsonl",
        "test_genres.jsonl",
        "latest.jsonl",
        "test/a.jsonl",
    ],
)
def test_names_that_only_begin_alike_are_trained_on(source: str) -> None:
    SmoltalkStep.model_validate({"kind": "smoltalk", "data": [{"source": source}]})


@pytest.mark.parametrize(
    "held_out",
    ["test-00000-of-00001-0123456789abcdef.jsonl", "test_prefs.clean.jsonl", "Test.jsonl", "test-hard.jsonl"],
)
def test_parts_of_a_folder_named_after_test_splits_are_not_read(tmp_path: Path, held_out: str) -> None:
    write_jsonl(tmp_path / "train-00000-of-00001-0123456789abcdef.jsonl", pairs(2))
    write_jsonl(tmp_path / "more.jsonl", pairs(3))
    write_jsonl(tmp_path / held_out, [{"prompt": "Held out.", "chosen": "a", "rejected": "b"}])
    read = [record["prompt"] for _, record in read_records(str(tmp_path))]
    assert len(read) == 5
    assert "Held out." not in read


def test_the_rows_of_a_step_give_its_train_split_where_their_folder_is_a_source(cli: Cli, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chats.jsonl", chats(40))
    first = tmp_path / "first.yaml"
    first.write_text("kind: smoltalk\ntest_fraction: 0.25\ndata: [{source: chats.jsonl}]\n", encoding="utf-8")
    assert cli("smoltalk", first, "--out", tmp_path / "run").code == 0
    again = tmp_path / "again.yaml"
    again.write_text("kind: smoltalk\ndata: [{source: run/smoltalk/data}]\n", encoding="utf-8")
    assert cli("smoltalk", again, "--out", tmp_path / "other").code == 0
    counts = json.loads((tmp_path / "run/smoltalk/step.json").read_text(encoding="utf-8"))["metrics"]
    assert 0 < counts["rows_test"] < 40
    read = json.loads((tmp_path / "other/smoltalk/step.json").read_text(encoding="utf-8"))["metrics"]
    assert read["rows_in"] == counts["rows_train"]


@pytest.mark.parametrize("measured", ["{source: prefs, split: test_prefs}", "{source: test_prefs.jsonl}"])
def test_test_prefs_measure_what_is_trained_on_train_prefs(
    cli: Cli, tiny_model: Path, tmp_path: Path, measured: str
) -> None:
    write_prefs(tmp_path / "prefs")
    write_jsonl(tmp_path / "test_prefs.jsonl", pairs(5))
    file = recipe(tmp_path, tiny_model, "data: [{source: prefs}]", f"eval_data: [{measured}]")
    ran = cli("dpo", file, "--out", tmp_path / "runs")
    assert ran.code == 0, ran.err
    [manifest] = (tmp_path / "runs").rglob("step.json")
    rendered = json.loads(manifest.read_text(encoding="utf-8"))["truncation"]
    assert (rendered["rows"], rendered["held_out"]["rows"]) == (24, 5)


def test_pairs_that_are_no_choice_are_refused(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw.jsonl", [rated(5, 4)])
    ran = cli("check", recipe(tmp_path, tiny_model, "data: [{source: raw.jsonl, pairs: {rejected: best}}]"))
    assert ran.code == 2
    assert "data.0.pairs.rejected: input should be 'worst' or 'random', but is 'best'" in ran.err
