"""A judge is asked once for each judgement, through all that an endpoint may do; what it costs is never paid twice."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_stand_in import CUT, Fault, judging, refusal
from pydantic import ValidationError

from smolalign.errors import UserError
from smolalign.eval import judge as client
from smolalign.eval.judge import Judgement, ask, require_reachable
from smolalign.eval.judge_prompts import FIELDS, OWN, PAIR_PROMPTS, RATING_PROMPTS, judge_prompts, preference, rating
from smolalign.recipe.judge import Judge
from smolalign.store import JUDGEMENTS


def turns(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def told(judge: Judge, folder: Path | None = None, *texts: str) -> str:
    with pytest.raises(UserError) as caught:
        ask(judge, turns(*(texts or ("a",))), folder)
    line = caught.value.line()
    assert "\n" not in line
    return line


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_DELAY_SECONDS", 0.005)


# --- what is sent, and what is kept ----------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_questions_and_equal_ones_are_sent_once(tmp_path: Path) -> None:
    moments: list[tuple[int, int]] = []
    with judging(lambda asked: f"{asked} [[7]]", seconds=0.02) as judge:
        block = Judge(url=judge.url + "/", model="m", concurrency=3)
        found = ask(block, turns(*"abcdabcd"), tmp_path, lambda done, total: moments.append((done, total)))
    assert [one.text for one in found] == [f"{letter} [[7]]" for letter in "abcdabcd"]
    assert sorted(judge.asked()) == list("abcd")
    assert judge.most == 3
    assert judge.keys == [None] * 4
    assert judge.bodies[0] == {"model": "m", "messages": turns("a")[0], "temperature": 0, "max_tokens": 2048}
    assert (found[0].model, found[0].prompt_tokens, found[0].completion_tokens) == ("m-today", 10, 3)
    assert moments == [(0, 8), (2, 8), (4, 8), (6, 8), (8, 8)]


def test_fields_of_the_request_can_be_set_and_taken_away() -> None:
    with judging() as judge:
        body = {"max_tokens": None, "max_completion_tokens": 9, "temperature": 1}
        ask(Judge(url=judge.url, model="m", body=body), turns("a"), None)
    sent = {"model": "m", "messages": turns("a")[0], "temperature": 1, "max_completion_tokens": 9}
    assert judge.bodies == [sent]


def test_the_key_comes_from_the_environment_and_stands_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", " sk-secret\n")
    with judging() as judge:
        ask(Judge(url=judge.url, model="m", api_key_env="JUDGE_KEY"), turns("a"), tmp_path)
    assert judge.keys == ["Bearer sk-secret"]
    assert "secret" not in (tmp_path / JUDGEMENTS).read_text("utf-8")


def test_a_run_that_was_cut_off_pays_for_nothing_twice(tmp_path: Path) -> None:
    with judging() as judge:
        block = Judge(url=judge.url, model="m", concurrency=1)
        ask(block, turns("a", "b"), tmp_path)
        file = tmp_path / JUDGEMENTS
        # The third answer was being written when the run was killed.
        with file.open("ab") as stream:
            stream.write(b'{"request": "9f", "text": "half')
        ask(block, turns("a", "b", "c"), tmp_path)
        assert judge.asked() == ["a", "b", "c"]
        assert [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()] == ["Rating: [[5]]"] * 3
        ask(block, turns("c", "a"), tmp_path)
        assert len(judge.bodies) == 3
        ask(block.model_copy(update={"max_tokens": 5}), turns("a"), tmp_path)
        assert len(judge.bodies) == 4, "another request has another answer"


def test_what_was_judged_before_a_failure_is_kept(tmp_path: Path) -> None:
    def says(asked: str) -> str:
        judge.faults = [refusal(401, "expired")] if asked == "c" else []
        return "[[3]]"

    with judging(says) as judge:
        block = Judge(url=judge.url, model="m", concurrency=1)
        assert "(401): expired" in told(block, tmp_path, *"abcdef")
        judge.says = lambda asked: "[[3]]"
        assert [one.text for one in ask(block, turns(*"abcdef"), tmp_path)] == ["[[3]]"] * 6
    assert judge.asked() == [*"abcd", *"def"]


@given(st.binary(max_size=40), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_whatever_a_kill_leaves_of_the_file_the_next_lines_are_whole(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int
) -> None:
    file = tmp_path_factory.mktemp("kept") / JUDGEMENTS
    whole = [{"request": str(n), "text": f"é {n}"} for n in range(3)]
    content = write_jsonl(file, whole).read_bytes()
    file.write_bytes(content[:cut] + noise)
    first = client._Kept(file)
    assert {f"é {n}" for n in range(content[:cut].count(b"\n"))} <= {one.text for one in first.found.values()}
    first.add("new", Judgement("last", "m", 1, 2))
    again = client._Kept(file)
    assert again.found["new"] == Judgement("last", "m", 1, 2)
    assert again.found == first.found


# --- an endpoint out of order ----------------------------------------------------------------------------------------


def test_what_passes_is_tried_again_until_there_is_an_answer() -> None:
    faults = [refusal(429, "slow down", Retry_After="0"), Fault(500, "oops"), CUT, Fault(503, ""), refusal(408, "late")]
    with judging(faults=faults) as judge:
        found = ask(Judge(url=judge.url, model="m"), turns("a"), None)
    assert [one.text for one in found] == ["Rating: [[5]]"]
    assert len(judge.bodies) == 6


def test_a_wait_that_is_asked_for_is_kept_in_seconds_and_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    faults = [refusal(429, "x", Retry_After=value) for value in ("7", "1.5", date, "soon", "²")]
    with judging(faults=faults) as judge:
        ask(Judge(url=judge.url, model="m"), turns("a"), None)
    assert waits[:2] == [7, 1.5]
    assert waits[2] == pytest.approx(60, abs=3)
    assert max(waits[3:]) < 1


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(client, "FIRST_DELAY_SECONDS", 0.5)
    with judging(faults=[Fault()] * 9) as judge:
        line = told(Judge(url=judge.url, model="m", tries=9))
    assert line.startswith(f"{judge.url}: the judge fails (500): out of order (after 9 tries) → run the same command")
    assert [round(wait / ideal, 1) for wait, ideal in zip(waits, (0.5, 1, 2, 4, 8, 16, 30, 30), strict=True)] == [
        pytest.approx(1, abs=0.21)
    ] * 8


OVER = "This model's maximum context length is 8 tokens."


@pytest.mark.parametrize(
    ("fault", "line", "requests"),
    [
        (refusal(401, "Incorrect key: sk-k"), "refuses access (401): Incorrect key: … → check the key in JUDGE_KEY", 1),
        (refusal(403, "no"), "refuses access (403): no", 1),
        (refusal(404, "gone", "model_not_found"), "no model 'm', or no such address (404): gone [model_not_found]", 1),
        (Fault(404, "<html>\nNot here</html>"), "no such address (404): <html> Not here</html> → check judge.model", 1),
        (refusal(400, "max_tokens: unsupported"), "refuses the request (400): max_tokens: unsupported → fields of", 1),
        (Fault(302, "", {"Location": "/"}), "refuses the request (302)", 1),
        (refusal(429, "pay", "insufficient_quota"), "takes no more requests (429): pay [insufficient_quota]", 1),
        (refusal(429, "later", Retry_After="3600"), "(429): later; it asks to wait for 3,600 seconds → run the", 1),
        (refusal(429, "busy", Retry_After="0"), "takes no more requests (429): busy (after 3 tries)", 3),
        (CUT, "the connection to the judge was cut: ", 3),
        (Fault(200, "<html>Welcome</html>"), "answers with no JSON: '<html>Welcome</html>' → judge.url", 1),
        (Fault(200, '{"error": "overloaded"}'), 'is no chat completion: \'{"error": "overloaded"}\'', 1),
        (Fault(200, "[]"), "is no chat completion: '[]'", 1),
        (Fault(200, '{"choices": []}'), "is no chat completion", 1),
    ],
)
def test_what_ends_it_is_told_in_one_line(
    fault: Fault, line: str, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-k")
    with judging(faults=[fault] * 4) as judge:
        found = told(Judge(url=judge.url, model="m", api_key_env="JUDGE_KEY", tries=3))
    assert found.startswith(f"{judge.url}: ")
    assert line in found
    assert "sk-k" not in found
    assert len(judge.bodies) == requests


def test_an_endpoint_that_is_too_slow_is_told() -> None:
    with judging(seconds=0.5) as judge:
        line = told(Judge(url=judge.url, model="m", timeout_seconds=0.1, tries=2))
    assert "the judge does not answer within 0.1 seconds (after 2 tries)" in line


def test_that_nothing_answers_is_told_before_anything_is_measured() -> None:
    with judging() as judge:
        require_reachable(Judge(url=judge.url, model="m"))
    with pytest.raises(UserError, match=r"cannot be reached: .* → check judge.url, and that its server runs"):
        require_reachable(Judge(url=judge.url, model="m"))


@pytest.mark.parametrize("fault", [refusal(400, OVER), refusal(400, "too long", "context_length_exceeded")])
def test_a_request_longer_than_the_judge_reads_has_no_verdict_and_stops_nothing(fault: Fault, tmp_path: Path) -> None:
    with judging(faults=[fault]) as judge:
        found = ask(Judge(url=judge.url, model="m", concurrency=1), turns("a", "b"), tmp_path)
    assert [(one.text, bool(one.error)) for one in found] == [("", True), ("Rating: [[5]]", False)]


def test_an_answer_without_content_or_with_half_a_character_is_kept(tmp_path: Path) -> None:
    answers: list[Any] = [
        {"choices": [{"message": {"content": text}}], "usage": None} for text in (None, "\ud800 [[4]]")
    ]
    with judging(faults=[Fault(200, json.dumps(answer)) for answer in answers]) as judge:
        found = ask(Judge(url=judge.url, model="m", concurrency=1), turns("a", "b"), tmp_path)
    assert [one.text for one in found] == ["", "? [[4]]"]


# --- the block of a recipe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"url": "localhost:8000/v1"}, "an endpoint's address"),
        ({"url": "http://localhost:99999/v1"}, "Port out of range"),
        ({"url": "http://h/v1/chat/completions"}, "ends before /chat/completions"),
        ({"url": "http://me:pw@h/v1"}, "no user and no password"),
        ({"api_key_env": "sk-abc"}, "never a key"),
        ({"api_key_env": "skabc123"}, "never a key"),
        ({"body": {"messages": []}}, "body.messages is set by the program"),
        ({"tries": 0}, "greater than or equal to 1"),
        ({"timeout_seconds": 0}, "greater than 0"),
        ({"api_key": "x"}, "Extra inputs"),
    ],
)
def test_a_block_that_cannot_work_or_holds_a_secret_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Judge.model_validate({"url": "http://h/v1", "model": "m", **change})


@pytest.mark.parametrize("value", [None, "", "  ", "schlüssel", "a\nb"])
def test_a_key_that_is_not_there_or_none_is_told(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(UserError, match="the environment variable JUDGE_KEY"):
        client.api_key(Judge(url="http://h/v1", model="m", api_key_env="JUDGE_KEY"))


# --- prompts and verdicts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Good. Rating: [[7]]", 7),
        ("[[7.5]]", 7.5),
        ("[1] was wrong. [[3]] then [[9]]", 3),
        ("Rating: [6]", 6),
        ("[[10]]", 10),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[seven]]", None),
        ("Rating: 7", None),
        ("[[-3]]", None),
        ("", None),
    ],
)
def test_a_grade_is_read_as_in_the_original(text: str, value: float | None) -> None:
    assert rating(text) == value


@given(st.text(st.sampled_from("[]1059. a²٣"), max_size=30))
def test_a_grade_is_from_1_to_10_or_none(text: str) -> None:
    found = rating(text)
    assert found is None or 1 <= found <= 10


@pytest.mark.parametrize(
    ("text", "value"),
    [("[[A]]", 1), ("so [[B]]", 0), ("[[C]]", 0.5), ("[[B]] or [[A]]", 1), ("A", None), ("[A]", None)],
)
def test_a_preference_is_read_as_in_the_original(text: str, value: float | None) -> None:
    assert preference(text) == value


def published(**changes: Any) -> dict[str, Any]:
    base = {"name": "pair-v2", "type": "pairwise", "system_prompt": "Judge.", "output_format": "[[A]]"}
    return {**base, "prompt_template": "{question} {{x}} {answer_a} | {answer_b}", **changes}


def test_a_file_of_prompts_takes_the_place_of_ours(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "judge_prompts.jsonl", [{"name": "other"}, published()]))
    prompts = judge_prompts(file, PAIR_PROMPTS)
    asked = prompts.by_name["pair-v2"].turns(question="q {y}", answer_a="a", answer_b="b")
    assert asked == [{"role": "system", "content": "Judge."}, {"role": "user", "content": "q {y} {x} a | b"}]
    assert prompts.origin.startswith("file ")
    assert prompts.origin != judge_prompts(None, PAIR_PROMPTS).origin


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "pair-v1"}, "no judge prompt named pair-v2"),
        ({"prompt_template": "{question} {answer_a}"}, r":1: pair-v2: prompt_template shows the judge no \{answer_b\}"),
        (
            {"prompt_template": "{question} {answer_c}"},
            r"unknown field \{answer_c\} → it is filled with question, answer",
        ),
        ({"prompt_template": "{question.x}"}, r"unknown field \{question.x\}"),
        ({"prompt_template": "{question:>{answer_a}}"}, "unknown field"),
        ({"prompt_template": "{} {question"}, "cannot be filled"),
        ({"prompt_template": None}, "must be texts"),
        ({"output_format": "[[rating]]"}, "output_format is '\\[\\[rating\\]\\]', and what is read is \\[\\[A\\]\\]"),
    ],
)
def test_prompts_that_cannot_be_used_are_told(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "judge_prompts.jsonl", [published(**changes)]))
    with pytest.raises(UserError, match=problem):
        judge_prompts(file, PAIR_PROMPTS)


def test_our_own_prompts_are_as_a_file_of_prompts_must_be(tmp_path: Path) -> None:
    records = [
        {"name": name, "system_prompt": own.system, "prompt_template": own.template, "output_format": FIELDS[name][1]}
        for name, own in OWN.items()
    ]
    file = str(write_jsonl(tmp_path / "own.jsonl", records))
    for names in (RATING_PROMPTS, PAIR_PROMPTS):
        assert judge_prompts(file, names).by_name == judge_prompts(None, names).by_name
        for name in names:
            verdicts = rating(OWN[name].template), preference(OWN[name].template)
            assert any(verdict is not None for verdict in verdicts), "a judge is shown how a verdict is written"
