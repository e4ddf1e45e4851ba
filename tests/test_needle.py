"""Needles in haystacks: prompts of the length they say, needles where they say, replies judged by the value alone."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, write_jsonl
from rich.console import Console

from smolalign import console, console_eval
from smolalign.chat.render import render_prompt
from smolalign.errors import UserError
from smolalign.eval.generate import Generated
from smolalign.eval.haystack import hide, made_up_words, words_of
from smolalign.eval.needle import holds, lengths_of, make_items
from smolalign.eval.tasks import Loaded
from smolalign.model import load_model, load_tokenizer
from smolalign.recipe.measure import Needle
from smolalign.rows import Document

Cli = Callable[..., Ran]

FACT = re.compile(r"The access code of the (\w+ \w+) is (\d{6})\.")


@pytest.fixture(scope="module")
def loaded(roomy_model: Path) -> Loaded:
    return Loaded(load_model(str(roomy_model)).eval(), load_tokenizer(str(roomy_model)), 4, 3)


def recipe(folder: Path, model: Path, **task: Any) -> Path:
    tasks = {"find": {"task": "needle", **task}}
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump({"kind": "eval", "models": {"m": str(model)}, "tasks": tasks}), encoding="utf-8")
    return file


@pytest.mark.parametrize("own", [False, True])
def test_a_prompt_is_as_long_as_it_says_and_its_needle_as_deep(loaded: Loaded, own: bool) -> None:
    documents = [Document(f"Paper {i} is here. It says: {'many small words, ' * (i % 7)}and ends.") for i in range(90)]
    task = Needle(lengths=[300, 1500], depths=[0, 0.3, 1], needles=2)
    items = make_items(loaded, task, documents if own else [])
    assert [(one.length, one.depth) for one in items] == [
        (length, depth) for length in (300, 1500) for depth in (0, 0.3, 1) for _ in range(2)
    ]
    assert len({one.value for one in items}) == len(items)
    for one in items:
        assert list(one.ids) == render_prompt(loaded.tokenizer, one.messages)
        # Another word would be too much; of this vocabulary a word has up to a dozen tokens.
        assert one.length - 14 <= len(one.ids) <= one.length
        text = one.messages[-1].content
        [(key, value)] = FACT.findall(text)
        assert value == one.value
        assert text.count(value) == 1
        assert text.endswith(f"What is the access code of the {key}? Answer with the code alone.")
        haystack = text.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
        before, after = re.split(FACT.pattern, haystack)[:: len(FACT.findall(haystack)[0]) + 1]
        assert ("Paper" in haystack) is own
        share = len(before) / len(before + after)
        if one.depth in (0, 1):
            assert share == one.depth
        elif one.length > 1000:  # of a few sentences, the nearest end may be far
            assert abs(share - one.depth) < 0.05


def test_the_same_seed_gives_the_same_items_and_max_rows_a_sample_of_them(loaded: Loaded) -> None:
    task = Needle(lengths=[300, 400], needles=3)
    items = make_items(loaded, task, [])
    assert len(items) == 2 * 5 * 3
    assert make_items(loaded, task, []) == items
    other = make_items(Loaded(loaded.model, loaded.tokenizer, 4, 4), task, [])
    assert not {one.value for one in other} & {one.value for one in items}
    some = make_items(loaded, task.model_copy(update={"max_rows": 7}), [])
    assert len(some) == 7
    assert all(one in items for one in some)
    assert [one.length for one in some] == sorted(one.length for one in some)
    assert len({one.depth for one in some}) > 1


def test_made_up_text_has_no_sentence_twice_and_nothing_like_a_needle() -> None:
    words = made_up_words("a", 20_000)
    text = "".join(words)
    sentences = re.split(r"(?<=[.])\s+", text.strip())
    assert len(sentences) > 1200
    assert len(set(sentences)) == len(sentences)
    assert not re.search(r"\d|code|access", text)
    assert "  " not in text
    assert not re.search(r"[{}|]", text)
    assert 100 < len(set(text.lower().split())) < 2000
    assert made_up_words("a", 50) == words[: len(made_up_words("a", 50))]
    assert made_up_words("b", 50) != made_up_words("a", 50)


def test_a_needle_stands_between_sentences() -> None:
    words = [" One", " two.", " Three", " four", " five.", "\n\nSix", " seven"]
    assert hide(words, "N.", 0) == "N. One two. Three four five.\n\nSix seven …"
    assert hide(words, "N.", 0.3) == "One two. N. Three four five.\n\nSix seven …"
    assert hide(words, "N.", 0.7) == "One two. Three four five. N. Six seven …"
    assert hide(words, "N.", 1) == "One two. Three four five.\n\nSix seven … N."
    assert hide([], "N.", 0.5) == "N."
    assert words_of([Document("a b."), Document("c")], "x", 9) in (["\n\na", " b.", "\n\nc"], ["\n\nc", "\n\na", " b."])


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("123456", True),
        ("It is 123456.", True),
        ("The code:\n**123456**", True),
        ("123,456", True),
        ("It is 123, 456", False),
        ("1234567", False),
        ("0123456", False),
        ("12345", False),
        ("", False),
        ("654321 or 123456", True),
    ],
)
def test_a_reply_is_right_when_the_value_stands_in_it(reply: str, found: bool) -> None:
    assert holds(reply, "123456") is found


def test_lengths_are_what_is_asked_for_or_a_series_up_to_what_the_model_reads() -> None:
    assert lengths_of(Needle(), 8160, 60) == [510, 1020, 2040, 4080, 8160]
    assert lengths_of(Needle(), 224, 60) == [224]
    assert lengths_of(Needle(), 2016, 300) == [504, 1008, 2016]
    assert lengths_of(Needle(lengths=[900, 100, 900]), 8160, 60) == [100, 900]
    for lengths, words in ([9000], "more than the model reads: 8160 and a reply of 32"), ([50], "needle alone have 60"):
        with pytest.raises(UserError, match=words):
            lengths_of(Needle(lengths=lengths), 8160, 60)
    with pytest.raises(UserError, match="the question alone has 60 tokens"):
        lengths_of(Needle(), 59, 60)


def test_the_step_gives_a_grid_its_errors_and_a_map(
    cli: Cli, roomy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(model: Any, tokenizer: Any, prompts: list[list[int]], **more: Any) -> list[Generated]:
        """Finds what is short or stands at the end, and else says another number."""
        assert more["max_new_tokens"] == 32
        replies = []
        for ids in prompts:
            text = tokenizer.decode(ids)
            [(_, value)] = FACT.findall(text)
            deep = text.index(value) / len(text)
            replies.append(Generated(f"It is {value}." if len(ids) <= 350 or deep > 0.6 else "It is 111111.", True))
        return replies

    monkeypatch.setattr("smolalign.eval.replies.generate", answer)
    file = recipe(tmp_path, roomy_model, lengths=[350, 900], depths=[0, 0.5, 1], needles=2)
    ran = cli("eval", file, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    metrics = json.loads((tmp_path / "out" / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["table"]["m"] == {
        "find.accuracy": 0.6667,
        "find.at_350": 1,
        "find.at_900": 0.3333,
        "find.depth_0": 0.5,
        "find.depth_50": 0.5,
        "find.depth_100": 1,
    }
    assert metrics["items"] == {"find": 12}
    details = metrics["details"]["m"]["find"]
    assert [(one["length"], one["depth"], one["asked"], one["found"]) for one in details["grid"]] == [
        (350, 0, 2, 2),
        (350, 0.5, 2, 2),
        (350, 1, 2, 2),
        (900, 0, 2, 0),
        (900, 0.5, 2, 0),
        (900, 1, 2, 2),
    ]
    share = 8 / 12
    assert details["stderr"]["accuracy"] == pytest.approx(math.sqrt(share * (1 - share) / 11), rel=1e-4)
    assert details["haystack"] == "made up"
    assert details["decoding"] == {"do_sample": False, "max_new_tokens": 32}
    samples = [json.loads(line) for line in (tmp_path / "out/eval/samples.jsonl").read_text().splitlines()]
    assert [one["accuracy"] for one in samples] == [True] * 6 + [False] * 4 + [True] * 2
    assert all(one["expected"] in one["prompt"][0]["content"] for one in samples)
    drawn = ran.out[ran.out.rindex("m: find") :].splitlines()
    assert [line.split() for line in drawn[:4]] == [
        ["m:", "find", "350", "900"],
        ["0%", "deep", "100", "0"],
        ["50%", "deep", "100", "0"],
        ["100%", "deep", "100", "100"],
    ]


def test_a_model_is_asked_for_real_and_a_sample_of_the_grid_leaves_holes(
    cli: Cli, roomy_model: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"Note {i}: the weather was fine. " * 9} for i in range(20)])
    file = recipe(tmp_path, roomy_model, lengths=[300, 400], needles=1, max_rows=3, data=[{"source": "texts.jsonl"}])
    ran = cli("eval", file, "tasks.find.max_new_tokens=4", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    metrics = json.loads((tmp_path / "out" / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    details = metrics["details"]["m"]["find"]
    assert len(details["grid"]) == 10
    assert sum(one["asked"] for one in details["grid"]) == details["items"] == metrics["items"]["find"] == 3
    assert details["haystack"] == "documents"
    assert "·" in ran.out
    checked = cli("check", file, "--out", tmp_path / "out2")
    assert checked.code == 0, checked.err
    assert "20 rows read" in checked.out


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"lengths": [5000]}, "lengths: 5000 tokens are more than the model reads: 4064 and a reply of 32"),
        ({"lengths": [20]}, "lengths: 20 tokens are too few"),
        ({"lengths": [3000], "data": [{"source": "short.jsonl"}]}, "a haystack of 3000 is asked for → add documents"),
        ({"depths": [1.5]}, "depths"),
        ({"depths": []}, "depths"),
        ({"lengths": [0]}, "lengths"),
        ({"max_length": 9}, "max_length is for task: perplexity, this one is needle"),
        ({"task": "loss", "data": [{"source": "short.jsonl"}], "needles": 2}, "needles is for task: needle"),
    ],
)
def test_what_is_wrong_with_a_task_is_told_in_a_line(
    task: dict[str, Any], words: str, cli: Cli, roomy_model: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "short.jsonl", [{"text": "Only this."}])
    ran = cli("eval", recipe(tmp_path, roomy_model, **task), "--out", tmp_path / "out")
    assert ran.code == 2
    assert words in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out" / "eval" / "step.json").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_map_is_coloured_on_a_terminal_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=terminal, width=60, color_system="truecolor" if terminal else None)
    monkeypatch.setattr(console, "out", screen)
    grid = [
        {"length": 100, "depth": 0.0, "asked": 4, "found": 1},
        {"length": 2000, "depth": 0.0, "asked": 0, "found": 0},
    ]
    one = {"grid": grid, "lengths": [100, 2000], "depths": [0.0]}
    console_eval.print_needles({"details": {"m": {"find": one, "other": {}}}})
    text = shown.getvalue()
    assert ("48;2;190;75;40" in text) is terminal
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).split()
    assert plain == ["m:", "find", "100", "2000", "0%", "deep", "25", "·"]
