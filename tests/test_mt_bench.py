"""MT-Bench: its files, what the judge is shown of each turn, the grades, and what a run leaves behind."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, write_jsonl
from judge_stand_in import judging

from smolalign.errors import UserError, UserErrors
from smolalign.eval.judge_prompts import FIELDS
from smolalign.eval.mt_bench_questions import Question, read_questions
from smolalign.recipe.data import DataSource
from smolalign.recipe.load import recipe_from_tree

Cli = Callable[..., Ran]

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write of a cat.", "Make it short."]},
    {"question_id": 111, "category": "math", "turns": ["What is 2 + 3?", "And + 4?"], "reference": ["5", ""]},
    {"question_id": 112, "category": "math", "turns": ["What is 1 + 1?", "And + 1?"], "reference": ["2", "3"]},
    {"question_id": 141, "category": "stem", "turns": ["Why is it red?", "And blue?"], "reference": ["unused", "x"]},
]
ANSWERS = [
    {"question_id": number, "choices": [{"index": 0, "turns": [f"first of {number}", f"second of {number}"]}]}
    for number in (111, 112)
]


def questions(folder: Path, *records: dict[str, Any], answers: list[dict[str, Any]] | None = None) -> list[Question]:
    file = write_jsonl(folder / "question.jsonl", records)
    beside = None if answers is None else str(write_jsonl(folder / "gpt-4.jsonl", answers))
    return read_questions([DataSource(source=str(file))], beside)


# --- files -----------------------------------------------------------------------------------------------------------


def test_questions_read_alike_in_the_originals_layout_and_the_hubs(tmp_path: Path) -> None:
    hub = [
        {"prompt": one["turns"], "prompt_id": one["question_id"], "category": one["category"]}
        | {"reference": one.get("reference", [])}
        for one in QUESTIONS
    ]
    ours = questions(tmp_path, *QUESTIONS)
    theirs = questions(tmp_path, *hub)
    assert theirs == ours
    assert [one.id for one in ours] == [81, 111, 112, 141]
    assert [one.references for one in ours] == [(), ("5",), ("2", "3"), ()]


def test_reference_answers_take_the_place_of_the_questions_own(tmp_path: Path) -> None:
    read = questions(tmp_path, *QUESTIONS, answers=[*ANSWERS, {**ANSWERS[0], "question_id": 141}])
    assert [one.references for one in read] == [
        (),
        ("first of 111", "second of 111"),
        ("first of 112", "second of 112"),
        (),
    ]
    with pytest.raises(UserError, match=r"gpt-4.jsonl: no reference answer to every turn of question 112 of .*:3"):
        questions(tmp_path, *QUESTIONS, answers=ANSWERS[:1])
    with pytest.raises(UserError, match=r"gpt-4.jsonl:1: a reference answer must have question_id and choices"):
        questions(tmp_path, *QUESTIONS, answers=[{"question_id": 111, "choices": []}])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"turns": []}, "turns must be a list of one text or two, not \\[\\]"),
        ({"turns": ["a", "b", "c"]}, "turns must be"),
        ({"turns": ["a", " "]}, "turns must be"),
        ({"turns": "a"}, "turns must be"),
        ({"category": None}, "category must be"),
        ({"category": "score"}, "category must be"),
        ({"question_id": None}, "question_id must be"),
        ({"reference": [1]}, "reference must be"),
    ],
)
def test_a_wrong_question_is_told_with_its_line(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"question.jsonl:2: {problem}"):
        questions(tmp_path, QUESTIONS[0], {**QUESTIONS[1], **change})


# --- the recipe ------------------------------------------------------------------------------------------------------


JUDGE = {"url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"judge": None}, "tasks.x.judge is None, not a block of keys → known keys: url, model, api_key_env"),
        ({"reference": "a"}, "tasks.x: reference is for task: preference and pairwise, this one is mt_bench"),
        ({"task": "exact", "judge_prompts": "x"}, "judge_prompts is for task: mt_bench and pairwise"),
        ({"judge": {**JUDGE, "api_key": "sk"}}, "api_key"),
    ],
)
def test_a_task_that_cannot_be_judged_is_refused(change: dict[str, Any], problem: str) -> None:
    task = {"task": "mt_bench", "data": [{"source": "q.jsonl"}], "judge": JUDGE, **change}
    with pytest.raises(UserErrors, match=problem):
        recipe_from_tree({"kind": "eval", "models": {"m": "m"}, "tasks": {"x": task}})


def test_a_key_in_a_recipe_is_refused_and_not_repeated(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    ran = cli("check", recipe(tmp_path, tiny_model, "http://127.0.0.1:1/v1", judge={"api_key_env": "sk-secret"}))
    assert ran.code == 2
    assert "api_key_env is the name of an environment variable" in " ".join(ran.err.split())
    assert "secret" not in ran.err


def test_every_mistake_in_a_recipe_and_its_files_is_told_by_check(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path, tiny_model, "http://127.0.0.1:1/v1", judge={"modle": "m"})
    ran = cli("check", file)
    assert ran.code == 2
    assert "unknown key tasks.mt.judge.modle → did you mean model?" in " ".join(ran.err.split())
    file = recipe(tmp_path, tiny_model, "http://127.0.0.1:1/v1")
    write_jsonl(tmp_path / "question.jsonl", [{**QUESTIONS[0], "turns": []}, QUESTIONS[1], {}])
    ran = cli("check", file)
    assert ran.code == 2
    found = [line.split("question.jsonl")[1][:3] for line in ran.err.splitlines() if "question.jsonl:" in line]
    assert found == [":1:", ":3:"]
    assert "failed" not in ran.err


# --- the step --------------------------------------------------------------------------------------------------------


def recipe(folder: Path, model: Path, url: str, **fields: Any) -> Path:
    write_jsonl(folder / "question.jsonl", QUESTIONS)
    judge = {"url": url, "model": "m", "concurrency": 1, **fields.pop("judge", {})}
    task = {"task": "mt_bench", "data": [{"source": "question.jsonl"}], "max_new_tokens": 6, "judge": judge, **fields}
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump({"kind": "eval", "models": {"ours": str(model)}, "tasks": {"mt": task}}), "utf-8")
    return file


def results(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    metrics = json.loads((folder / "step.json").read_text("utf-8"))["metrics"]
    return metrics, [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]


def test_both_turns_are_answered_judged_and_summed_up(cli: Cli, sharp_model: Path, tmp_path: Path) -> None:
    # In the order of the questions, first turns and second turns; the last question's second reply has no grade.
    grades = iter(["[[4]]", "Rating: [[2]]", "[[8]]", "[6]", "[[1]]", "[[3]]", "[[7]]", "well"])
    with judging(lambda asked: next(grades)) as judge:
        ran = cli("eval", recipe(tmp_path, sharp_model, judge.url), "--out", tmp_path)
    assert ran.code == 0, ran.err
    metrics, samples = results(tmp_path / "eval")
    assert [one["ratings"] for one in samples] == [[4, 2], [8, 6], [1, 3], [7, None]]
    assert metrics["table"]["ours"] == {
        "mt.score": pytest.approx(31 / 7, abs=1e-4),
        "mt.turn_1": 5.0,
        "mt.turn_2": pytest.approx(11 / 3, abs=1e-4),
        "mt.writing": 3.0,
        "mt.math": 4.5,
        "mt.stem": 7.0,
        "mt.unrated": 0.125,
    }
    details = metrics["details"]["ours"]["mt"]
    # A question's two grades are one cluster: the error of a ratio of sums over questions.
    mean = 31 / 7
    residuals = [6 - 2 * mean, 14 - 2 * mean, 4 - 2 * mean, 7 - mean]
    assert details["stderr"]["score"] == pytest.approx((4 / 3 * sum(r * r for r in residuals)) ** 0.5 / 7, abs=1e-5)
    assert details["stderr"]["turn_1"] == pytest.approx(statistics.stdev([4, 8, 1, 7]) / 2, abs=1e-5)
    assert details["judge"]["unrated"] == 1
    assert (details["judge"]["judgements"], details["judge"]["prompt_tokens"]) == (8, 80)
    assert details["with_reference"] == 3
    assert details["decoding"]["temperature"] == {
        "writing": 0.7,
        "roleplay": 0.7,
        "stem": 0.1,
        "humanities": 0.1,
        "others": 0,
    }
    assert "4.43 ± " in ran.out, "grades are no shares"
    # The second turn is asked in view of the first reply.
    first = samples[0]["prompt"]
    assert [turn["role"] for turn in first] == ["user", "assistant", "user"]
    asked = judge.asked()
    assert first[1]["content"] in asked[0]
    assert all(text in asked[1] for text in ("Write of a cat.", first[1]["content"], "Make it short."))
    assert samples[0]["reply"] in asked[1]


def test_the_judge_sees_references_in_their_categories_and_prompts_of_a_file(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    prompts = [
        {"name": name, "system_prompt": f"system of {name}", "output_format": verdict}
        | {"prompt_template": "\n".join(f"{field}={{{field}}}" for field in fields)}
        for name, (fields, verdict) in FIELDS.items()
    ]
    write_jsonl(tmp_path / "judge_prompts.jsonl", prompts)
    write_jsonl(tmp_path / "gpt-4.jsonl", ANSWERS)
    beside = {"judge_prompts": "judge_prompts.jsonl", "reference_answers": "gpt-4.jsonl"}
    with judging() as judge:
        file = recipe(tmp_path, tiny_model, judge.url, **beside)
        ran = cli("check", file)
        assert ran.code == 0, ran.err
        assert judge.bodies == []
        ran = cli("eval", file, "--out", tmp_path)
    assert ran.code == 0, ran.err
    systems = [body["messages"][0]["content"] for body in judge.bodies]
    plain, known = ["single-v1", "single-v1-multi-turn"], ["single-math-v1", "single-math-v1-multi-turn"]
    assert systems == [f"system of {name}" for name in (*plain, *known, *known, *plain)]
    asked = judge.asked()
    assert "ref_answer_1=first of 111" in asked[2]
    assert "ref_answer_2=second of 112" in asked[5]
    assert "question_2=And blue?" in asked[7]
    metrics, samples = results(tmp_path / "eval")
    assert metrics["details"]["ours"]["mt"]["judge"]["prompts"].startswith("file ")
    assert samples[1]["judge_prompts"] == known
    # What is read beside the questions is part of the step: another reference answer runs it again.
    write_jsonl(tmp_path / "gpt-4.jsonl", [{**one, "model": "other"} for one in ANSWERS])
    assert "cached" not in cli("eval", file, "--out", tmp_path, "--dry-run").out


def test_the_same_seed_gives_the_same_replies_and_another_one_others(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    found = []
    with judging() as judge:
        file = recipe(tmp_path, tiny_model, judge.url)
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            assert cli("eval", file, "--out", tmp_path / name, f"seed={seed}").code == 0
            found.append([one["reply"] for one in results(tmp_path / name / "eval")[1]])
    assert found[0] == found[1]
    sampled, greedy = [0, 3], [1, 2]
    assert [found[0][i] for i in sampled] != [found[2][i] for i in sampled]
    assert [found[0][i] for i in greedy] == [found[2][i] for i in greedy]


def test_a_question_of_one_turn_has_no_second_one(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    with judging() as judge:
        file = recipe(tmp_path, tiny_model, judge.url, max_rows=1)
        write_jsonl(tmp_path / "question.jsonl", [{**QUESTIONS[0], "turns": ["Hi"]}])
        ran = cli("eval", file, "--out", tmp_path)
    assert ran.code == 0, ran.err
    assert results(tmp_path / "eval")[0]["table"]["ours"] == {"mt.score": 5.0, "mt.turn_1": 5.0, "mt.writing": 5.0}
    assert len(judge.bodies) == 1
