"""Two models' replies compared by a judge: both orders, ties and verdicts that lack, and what length alone wins."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Ran, chats, pairs, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_stand_in import Fault, judging
from pydantic import ValidationError

from smolalign.errors import UserError, UserErrors
from smolalign.eval.length_control import control_length
from smolalign.eval.openings import read_openings
from smolalign.recipe.data import DataSource
from smolalign.recipe.load import recipe_from_tree
from smolalign.recipe.schema import EvalStep
from smolalign.rows import Message
from smolalign.store import JUDGEMENTS

Cli = Callable[..., Ran]


# --- length control --------------------------------------------------------------------------------------------------


def synthetic(prompts: int, quality: float, bias: float, seed: int) -> tuple[list[float], list[int], list[int]]:
    """Preferences of a judge for a model that writes more, both orders averaged, by quality and by length."""
    draw = np.random.default_rng(seed)
    own, other = (np.exp(draw.normal(mean, 0.6, prompts)).astype(int) for mean in (6.6, 6.0))
    longer = np.tanh((own - other) / (own - other).std())
    if np.isinf(bias):
        wins = (own > other).astype(float)
    else:
        wins = (draw.random((2, prompts)) < 1 / (1 + np.exp(-quality - bias * longer))).mean(0)
    return wins.tolist(), own.tolist(), other.tolist()


@pytest.mark.parametrize("bias", [3.0, float("inf")])
def test_a_judge_that_likes_length_finds_equal_models_equal_at_equal_lengths(bias: float) -> None:
    found = [control_length(*(data := synthetic(500, 0.0, bias, seed)), seed=0) for seed in range(3)]
    raw = statistics.fmean(data[0])
    assert raw > 0.68
    for one in found:
        assert abs(one.win_rate - 0.5) < 2.5 * one.standard_error < 0.15
    assert abs(statistics.fmean(one.win_rate for one in found) - 0.5) < 0.05


def test_a_better_model_stays_better_at_equal_lengths() -> None:
    found = control_length(*(data := synthetic(800, 1.0, 3.0, 1)), seed=0)
    true = 1 / (1 + np.exp(-1))
    assert statistics.fmean(data[0]) > true + 0.05
    assert found.win_rate == pytest.approx(true, abs=2.5 * found.standard_error)
    assert found.win_rate - 0.5 > 5 * found.standard_error
    worse = control_length(*synthetic(800, -1.0, 3.0, 1), seed=0)
    assert worse.win_rate < 0.4, "long replies do not save a worse model"


def test_without_a_liking_for_length_nothing_changes() -> None:
    found = control_length(*(data := synthetic(800, 0.7, 0.0, 2)), seed=0)
    assert found.win_rate == pytest.approx(statistics.fmean(data[0]), abs=0.02)


def test_the_error_is_how_far_fits_of_other_prompts_lie_apart() -> None:
    found = [control_length(*synthetic(200, 0.5, 2.0, seed), seed=0) for seed in range(40)]
    spread = statistics.stdev(one.win_rate for one in found)
    assert statistics.fmean(one.standard_error for one in found) == pytest.approx(spread, rel=0.35)


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0.25, 0.5, 0.75, 1]), st.integers(0, 10**6), st.integers(0, 10**6)),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=60)
def test_any_preferences_have_a_fit_and_changing_sides_turns_it_round(rows: list[tuple[float, int, int]]) -> None:
    wins, own, other = map(list, zip(*rows, strict=True))
    found = control_length(wins, own, other, seed=0)
    assert 0 < found.win_rate < 1
    assert np.isfinite([found.standard_error, found.theta, found.phi]).all()
    turned = control_length([1 - win for win in wins], other, own, seed=0)
    assert turned.win_rate == pytest.approx(1 - found.win_rate, abs=1e-6)


def test_replies_of_equal_length_leave_the_raw_win_rate() -> None:
    found = control_length([1.0] * 60 + [0.0] * 20, [5] * 80, [5] * 80, seed=0)
    assert found.win_rate == pytest.approx(0.75, abs=0.01)
    assert found.phi == 0


# --- prompts ---------------------------------------------------------------------------------------------------------


def openings(folder: Path, *records: dict[str, Any]) -> list[tuple[Message, ...]]:
    file = write_jsonl(folder / "prompts.jsonl", records)
    return [one.messages for one in read_openings([DataSource(source=str(file))])]


USER = Message("user", "Hi")


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": "Hi", "output": "", "generator": "x", "dataset": "y"}, (USER,)),
        ({"instruction": "Hi"}, (USER,)),
        ({"prompt": "Hi"}, (USER,)),
        ({"messages": [{"role": "user", "content": "Hi"}]}, (USER,)),
        (chats(1)[0], (Message("user", "What is 0 + 0?"),)),
        (pairs(1)[0], (Message("user", "Say 0."),)),
        (
            {"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant", "user", "assistant")]},
            tuple(Message(r, r) for r in ("system", "user", "assistant", "user")),  # type: ignore[arg-type]
        ),
    ],
)
def test_a_prompt_is_what_stands_before_the_answer_in_any_layout(
    record: dict[str, Any], messages: tuple[Message, ...], tmp_path: Path
) -> None:
    assert openings(tmp_path, record) == [messages]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": "a"}, "no prompt among the keys text"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no user turn"),
        ({"instruction": " "}, "is empty"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "right after a user turn"),
        (
            {"messages": chats(1)[0]["messages"], "tools": [{"name": "f", "description": "", "parameters": {}}]},
            "has tools",
        ),
    ],
)
def test_a_row_that_is_no_prompt_is_told_with_its_line(record: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"prompts.jsonl:2: .*{problem}"):
        openings(tmp_path, {"instruction": "Hi"}, record)


# --- the recipe ------------------------------------------------------------------------------------------------------


JUDGE = {"url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("models", "task", "problem"),
    [
        (
            ["a", "b"],
            {"reference": "a", "judge": "gpt"},
            "tasks.duel.judge is 'gpt', not a block of keys → known keys: url, model",
        ),
        (["a", "b"], {}, "tasks.duel.reference is missing"),
        (["a", "b"], {"reference": "c"}, "is none of the models"),
        (["a"], {"reference": "a"}, "compares other models with 'a'"),
        (["a", "b"], {"reference": "a", "reference_answers": "x"}, "reference_answers is for task: mt_bench"),
        (["a", "b"], {"reference": "a", "data": [{"source": "p.jsonl", "weight": 2}]}, "of task: pairwise stand alone"),
        (["a", "b"], {"task": "exact"}, "judge is for task: mt_bench and pairwise"),
    ],
)
def test_recipes_that_cannot_be_measured_are_refused(models: list[str], task: dict[str, Any], problem: str) -> None:
    block = {"task": "pairwise", "data": [{"source": "p.jsonl"}], "judge": JUDGE, **task}
    with pytest.raises(UserErrors, match=problem):
        recipe_from_tree({"kind": "eval", "models": dict.fromkeys(models, "m"), "tasks": {"duel": block}})


def step(**references: str) -> EvalStep:
    tasks = {
        name: {"task": name.split("-")[0], "reference": reference, "data": [{"source": "p.jsonl"}]}
        | ({"judge": JUDGE} if name.startswith("pairwise") else {})
        for name, reference in references.items()
    }
    return EvalStep.model_validate({"kind": "eval", "models": dict.fromkeys("abc", "m"), "tasks": tasks})


def test_references_are_measured_before_the_models_that_need_them() -> None:
    assert step(pairwise="c").references_first() == ["c", "a", "b"]
    assert step(preference="b").references_first() == ["a", "b", "c"]
    assert step(pairwise="a", preference="b").references_first() == ["a", "b", "c"]


def test_two_references_that_need_each_other_are_refused() -> None:
    for references in ({"pairwise-1": "a", "pairwise-2": "b"}, {"pairwise": "b", "preference": "a"}):
        with pytest.raises(ValidationError, match="make two recipes"):
            step(**references)


# --- the step --------------------------------------------------------------------------------------------------------


REPLIES = re.compile(r"assistant A >>>\n(.*)\n<<< End.*assistant B >>>\n(.*)\n<<< End", re.DOTALL)


def likes_longer(asked: str) -> str:
    a, b = REPLIES.search(asked).groups()  # type: ignore[union-attr]
    return f"I like it long. {'[[C]]' if len(a) == len(b) else '[[A]]' if len(a) > len(b) else '[[B]]'}"


def recipe(folder: Path, url: str, models: dict[str, str], **fields: Any) -> Path:
    write_jsonl(folder / "prompts.jsonl", [{"instruction": f"What is {i} + {i}?"} for i in range(6)])
    judge = {"url": url, "model": "m", "concurrency": 2, **fields.pop("judge", {})}
    task = {"task": "pairwise", "reference": "base", "data": [{"source": "prompts.jsonl"}], "max_new_tokens": 8}
    file = folder / "eval.yaml"
    tasks = {"duel": {**task, "judge": judge, **fields}}
    file.write_text(yaml.safe_dump({"kind": "eval", "models": models, "tasks": tasks}, sort_keys=False), "utf-8")
    return file


def results(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    metrics = json.loads((folder / "step.json").read_text("utf-8"))["metrics"]
    return metrics, [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]


def test_a_model_is_compared_with_its_reference_in_both_orders(
    cli: Cli, tiny_model: Path, sharp_model: Path, tmp_path: Path
) -> None:
    models = {"new": str(sharp_model), "base": str(tiny_model), "same": str(tiny_model)}
    with judging(likes_longer) as judge:
        file = recipe(tmp_path, judge.url, models)
        ran = cli("eval", file, "--out", tmp_path / "out")
        assert ran.code == 0, ran.err
        metrics, samples = results(tmp_path / "out/eval")
        assert metrics["table"]["base"] == {}, "the reference is not compared with itself"
        assert metrics["table"]["same"] == {"duel.win_rate": 0.5, "duel.lc_win_rate": 0.5}
        new = [one for one in samples if one["model"] == "new"]
        wins = [0.5 + 0.5 * np.sign(len(one["reply"]) - len(one["reference_reply"])) for one in new]
        assert [one["win_rate"] for one in new] == wins
        assert metrics["table"]["new"]["duel.win_rate"] == pytest.approx(statistics.fmean(wins), abs=1e-4)
        # Twelve requests: two orders of six pairs, none for equal replies.
        assert len(judge.bodies) == 12
        details = metrics["details"]["new"]["duel"]
        assert details["orders"] == {"agree": 1.0, "first_preferred": 0.5}
        assert details["stderr"]["win_rate"] == pytest.approx(statistics.stdev(wins) / 6**0.5, abs=1e-5)
        assert details["stderr"]["lc_win_rate"] == pytest.approx(details["length_control"]["standard_error"], abs=1e-5)
        assert details["judge"]["answered_by"] == ["m-today"]
        assert details["judge"]["judgements"] == 12
        assert metrics["details"]["same"]["duel"]["equal_replies"] == 6
        assert "± " in ran.out
        # What was paid for survives a change of the recipe, but not a fresh start.
        ran = cli("eval", file, "--out", tmp_path / "out", "tasks.duel.judge.concurrency=1")
        assert (ran.code, len(judge.bodies)) == (0, 12)
        ran = cli("eval", file, "--out", tmp_path / "out", "--fresh")
        assert (ran.code, len(judge.bodies)) == (0, 24)


def test_a_judge_that_always_takes_the_first_prefers_no_model(
    cli: Cli, tiny_model: Path, sharp_model: Path, tmp_path: Path
) -> None:
    with judging(lambda asked: "[[A]]") as judge:
        ran = cli(
            "eval", recipe(tmp_path, judge.url, {"base": str(tiny_model), "new": str(sharp_model)}), "--out", tmp_path
        )
    assert ran.code == 0, ran.err
    metrics, _ = results(tmp_path / "eval")
    assert metrics["table"]["new"] == {"duel.win_rate": 0.5, "duel.lc_win_rate": 0.5}
    assert metrics["details"]["new"]["duel"]["orders"] == {"agree": 0.0, "first_preferred": 1.0}


def test_pairs_without_both_verdicts_are_left_out_and_counted(
    cli: Cli, tiny_model: Path, sharp_model: Path, tmp_path: Path
) -> None:
    said = iter(["[[A]]", "[[B]]", "[[A]]", "no idea", *["nothing"] * 8])
    models = {"base": str(tiny_model), "new": str(sharp_model)}
    with judging(lambda asked: next(said)) as judge:
        ran = cli("eval", recipe(tmp_path, judge.url, models, judge={"concurrency": 1}), "--out", tmp_path)
    assert ran.code == 0, ran.err
    metrics, samples = results(tmp_path / "eval")
    row = metrics["table"]["new"]
    assert (row["duel.win_rate"], row["duel.unrated"]) == (1.0, pytest.approx(5 / 6, abs=1e-4))
    assert metrics["details"]["new"]["duel"]["judge"]["unrated"] == 9
    assert metrics["details"]["new"]["duel"]["compared"] == 1
    assert [one["judged_second"] for one in samples if one["model"] == "new"] == [1, None, *[None] * 4]


def test_a_judge_that_never_gives_a_verdict_has_no_win_rate(
    cli: Cli, tiny_model: Path, sharp_model: Path, tmp_path: Path
) -> None:
    with judging(lambda asked: "Both are fine.") as judge:
        ran = cli(
            "eval", recipe(tmp_path, judge.url, {"base": str(tiny_model), "new": str(sharp_model)}), "--out", tmp_path
        )
    assert ran.code == 0, ran.err
    assert results(tmp_path / "eval")[0]["table"]["new"] == {"duel.unrated": 1.0}


def test_a_run_that_the_judge_ended_goes_on_where_it_was(
    cli: Cli, tiny_model: Path, sharp_model: Path, tmp_path: Path
) -> None:
    models = {"base": str(tiny_model), "new": str(sharp_model)}
    with judging(likes_longer) as judge:
        file = recipe(tmp_path, judge.url, models, judge={"concurrency": 1, "tries": 1})

        def says(asked: str) -> str:
            judge.faults = [Fault(500)] if len(judge.bodies) == 7 else []
            return likes_longer(asked)

        judge.says = says
        ran = cli("eval", file, "--out", tmp_path)
        assert ran.code == 2
        assert "the judge fails (500): out of order (after 1 try)" in ran.err
        assert "Traceback" not in ran.err
        assert len((tmp_path / "eval" / JUDGEMENTS).read_text("utf-8").splitlines()) == 7
        ran = cli("eval", file, "--out", tmp_path)
        assert ran.code == 0, ran.err
        assert len(judge.bodies) == 13


def test_check_reads_everything_and_asks_nobody(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"base": str(tiny_model), "new": str(tiny_model)}
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    file = recipe(tmp_path, "http://127.0.0.1:1/v1", models, judge={"api_key_env": "JUDGE_KEY"})
    ran = cli("check", file)
    assert ran.code == 2
    assert "the environment variable JUDGE_KEY of judge.api_key_env is not set" in " ".join(ran.err.split())
    monkeypatch.setenv("JUDGE_KEY", "k")
    ran = cli("check", file)
    assert ran.code == 0, ran.err
    assert "prompts.jsonl: pairwise, 6 rows read" in ran.out
    ran = cli("eval", file, "--out", tmp_path)
    assert ran.code == 2
    assert "the judge cannot be reached" in ran.err
    assert len(ran.err.strip().splitlines()) == 1
