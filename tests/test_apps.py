"""The small commands over a chat model: what they ask of it, what they write, and what they refuse."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from conftest import ROOT, Ran
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.apps import writer
from smolalign.apps.rag import cited_numbers
from smolalign.apps.texts import parts
from smolalign.chat.generation import Ended, Reply
from smolalign.chat.template import chat_template
from smolalign.data.strict_json import dump

Cli = Callable[..., Ran]
PACKAGE = ROOT / "smolalign" / "apps"


class Model:
    """In place of generation: what it was asked, as text, and an answer that a function gives."""

    def __init__(self, answer: Callable[[str], str], ended: Ended = "stop") -> None:
        self.asked: list[str] = []
        self.most: list[int] = []
        self._answer, self._ended = answer, ended

    def write(self, _: Any, tokenizer: Any, prompt: list[int], say: Callable[[str], None], **options: Any) -> Reply:
        """What `write_reply` does."""
        self.asked.append(tokenizer.decode(prompt))
        self.most.append(options["max_new_tokens"])
        text = self._answer(self.asked[-1])
        say(text)
        return Reply(text, self._ended)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    """`answers(function)` makes the model answer what a function makes of the request."""

    def replace(answer: Callable[[str], str], ended: Ended = "stop") -> Model:
        model = Model(answer, ended)
        monkeypatch.setattr(writer, "write_reply", model.write)
        return model

    return replace


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """`piped(content)` makes it standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def user_turn(prompt: str) -> str:
    return prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]


def written(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize("name", ["rag", "summarize", "rewrite", "fill"])
def test_each_app_is_less_than_120_lines(name: str) -> None:
    assert len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 120


# Parts of texts


texts = st.lists(st.text("ab \n\r\u2028ö", max_size=12) | st.sampled_from(["\n\n", "word " * 9]), max_size=30).map(
    "".join
)


@given(texts, st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_every_line_is_in_one_part_or_in_parts_that_follow_each_other(text: str, size: int) -> None:
    found = parts(text, size, len)
    assert "".join(part.text for part in found) == text
    before = 0
    for part in found:
        assert 0 < len(part.text) <= size
        assert part.first == 1 + text.count("\n", 0, before)
        before += len(part.text)
        assert part.last == 1 + text.count("\n", 0, before - 1)


def test_a_part_ends_with_a_paragraph_where_its_second_half_has_one() -> None:
    text = "one\ntwo\nthree\n\nfour\nfive\nsix\n"
    assert [part.text for part in parts(text, 22, len)] == ["one\ntwo\nthree\n\n", "four\nfive\nsix\n"]
    assert [part.text for part in parts("one\n\nthree\nfour\nfive", 18, len)] == ["one\n\nthree\nfour\n", "five"]


# rag

HANDBOOK: dict[str, str | bytes] = {f"note{i:02}.md": f"# Note {i}\n\nRoom {i} is painted grey.\n" for i in range(30)}
HANDBOOK |= {
    "deep/garden.txt": "The garden is wide.\nIt has a fence.\nThe heron feeds at the pond.\n",
    ".git/x.md": "heron\n",
}


def test_the_passage_that_a_question_is_about_is_found_given_and_named(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, roomy_model: Path
) -> None:
    folder = written(tmp_path / "handbook", HANDBOOK)
    model = answers(lambda _: "It feeds at the pond [1].")
    ran = cli("app", "rag", folder, "Where does the heron feed?", "-m", roomy_model)
    assert (ran.code, ran.out) == (0, "It feeds at the pond [1].\n")
    (asked,) = model.asked
    assert user_turn(asked).startswith("[1] The garden is wide.\nIt has a fence.\nThe heron feeds at the pond.\n\n")
    assert user_turn(asked).endswith("\nWhere does the heron feed?")
    assert f"([1] {folder}/deep/garden.txt:1-3, cited)" in ran.err
    assert "(31 files, 31 passages)" in ran.err
    assert ".git" not in ran.err


def test_an_answer_that_cites_nothing_or_what_is_not_there_is_told(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, roomy_model: Path
) -> None:
    folder = written(tmp_path, HANDBOOK)
    answers(lambda _: "The pond, where herons feed.")
    ran = cli("app", "rag", folder, "Is the room near the heron?", "-m", roomy_model, "--passages", 2)
    assert "the answer cites none of them; it shares most words with [1]" in ran.err
    assert ran.err.count("[2]") == 1
    assert ", cited" not in ran.err
    answers(lambda _: "The pond [3].")
    assert "cites what it was not given: 3" in cli("app", "rag", folder, "Where is the heron?", "-m", roomy_model).err


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [("No.", set()), ("So [1].", {1}), ("So [1][3].", {1, 3}), ("[1, 2;5]", {1, 2, 5}), ("[2-4]", {2, 3, 4})],
)
def test_citations_are_read_as_people_write_them(answer: str, numbers: set[int]) -> None:
    assert cited_numbers(answer) == numbers
    assert cited_numbers(f"{answer} [a] [] [2019-20x] (7)") == numbers


def test_where_no_passage_has_a_word_of_the_question_the_model_is_not_asked(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, roomy_model: Path
) -> None:
    model = answers(lambda _: "Never.")
    folder = written(tmp_path, HANDBOOK)
    for question in ("Unicorns?", "And what about the?", "??"):
        ran = cli("app", "rag", folder, question, "-m", roomy_model)
        assert (ran.code, ran.out) == (1, "")
        assert "no passage in" in ran.err
    assert not model.asked


def test_questions_through_a_pipe_are_answered_one_by_one(
    cli: Cli, answers: Callable[..., Model], piped: Callable[[bytes], None], tmp_path: Path, roomy_model: Path
) -> None:
    model = answers(lambda asked: f"{len(asked)} [1].")
    piped(b"Who paints room 3?\n\nUnicorns?\nWhere is the heron?\n")
    ran = cli("app", "rag", written(tmp_path, HANDBOOK), "-m", roomy_model)
    assert ran.code == 0
    assert ran.out == "".join(f"{len(asked)} [1].\n" for asked in model.asked)
    assert [user_turn(asked).splitlines()[-1] for asked in model.asked] == ["Who paints room 3?", "Where is the heron?"]


def test_as_many_passages_are_given_as_fit_and_the_rest_is_told(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, tiny_model: Path
) -> None:
    model = answers(lambda _: "Yes [1].")
    folder = written(tmp_path, {f"{i}.txt": "The heron feeds at the big pond. " for i in range(9)})
    ran = cli("app", "rag", folder, "Heron?", "-m", tiny_model, "--passages", 9, "--max-new-tokens", 20)
    given_passages = user_turn(model.asked[0]).count("The heron")
    assert 0 < given_passages < 9
    assert f"{given_passages} of 9 passages fit" in ran.err
    assert ran.err.count(".txt:1-1") == given_passages
    ran = cli("app", "rag", folder, "heron " * 300, "-m", tiny_model)
    assert (ran.code, ran.out) == (2, "")
    assert "the question is too long" in ran.err


def test_files_that_cannot_be_read_are_named_and_others_counted(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, roomy_model: Path
) -> None:
    answers(lambda _: "Yes [1].")
    broken: dict[str, str | bytes] = {"a.txt": b"\xff\xfe", "b.md": b"x\0y", "c.txt": " \n", "d.png": b"", "e.PY": b""}
    ran = cli("app", "rag", written(tmp_path, {**broken, "ok.MD": "Heron."}), "Heron?", "-m", roomy_model)
    assert ran.code == 0
    for line in ("a.txt (is not UTF-8 text)", "b.md (is no text: it has NUL bytes)", "c.txt (is empty)"):
        assert f"left out: {line}" in ran.err
    assert "1 × .png, 1 × .PY" in ran.err
    assert "(1 files, 1 passages)" in ran.err
    (tmp_path / "ok.MD").unlink()
    ran = cli("app", "rag", tmp_path, "Heron?", "-m", roomy_model)
    assert ran.code == 2
    assert "has no text to read: left out: a.txt (is not UTF-8 text);" in ran.err


# summarize


def test_a_text_beyond_the_context_is_summarized_in_parts_that_hold_all_of_it_and_then_together(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, tiny_model: Path
) -> None:
    lines = [f"The cat {i} sat on the mat." for i in range(40)]
    model = answers(lambda asked: f"Sum {asked.count('cat')}.")
    ran = cli("app", "summarize", written(tmp_path, {"a.txt": "\n".join(lines)}) / "a.txt", "-m", tiny_model)
    *partial, last = [user_turn(asked).split("\n", 1) for asked in model.asked]
    assert len(partial) > 2
    assert "\n".join(text for _, text in partial).split("\n") == lines
    assert last[1] == "\n\n".join(f"Sum {text.count('cat')}." for _, text in partial)
    assert {instruction for instruction, _ in [*partial, last]} == {"Summarize the text:"}
    assert (ran.code, ran.out) == (0, f"Sum {last[1].count('cat')}.\n")
    assert f"{len(partial)} parts" in ran.err
    assert f"part 1 of {len(partial)}, lines 1 to {partial[0][1].count(chr(10)) + 1})" in ran.err


def test_a_short_text_is_summarized_at_once_also_from_a_pipe(
    cli: Cli, answers: Callable[..., Model], piped: Callable[[bytes], None], roomy_model: Path
) -> None:
    model = answers(lambda _: "Short.")
    piped("\ufeffLänger.\n".encode())
    assert cli("app", "summarize", "-", "-m", roomy_model, "--words", 7) == Ran(0, "Short.\n", "")
    assert [user_turn(asked) for asked in model.asked] == ["Summarize the text in at most 7 words:\nLänger."]


@pytest.mark.parametrize(("answer", "said"), [(lambda asked: asked, "no shorter than"), (lambda _: " ", "are empty")])
def test_summaries_that_do_not_get_shorter_end_it(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, tiny_model: Path, answer: Any, said: str
) -> None:
    answers(answer)
    ran = cli("app", "summarize", written(tmp_path, {"a.txt": "The cat sat. " * 100}) / "a.txt", "-m", tiny_model)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_only_smollm2_is_shown_the_system_turn_that_smoltalk_taught_it(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, roomy_model: Path
) -> None:
    smollm2 = tmp_path / "smollm2"
    shutil.copytree(roomy_model, smollm2)
    (smollm2 / "chat_template.jinja").write_text(chat_template("smollm2"), encoding="utf-8")
    model = answers(lambda _: "Yes.")
    for folder, system in ((smollm2, True), (roomy_model, False)):
        cli("app", "rewrite", "Hi", "--tone", "friendly", "-m", folder)
        assert ("system\nYou're an AI assistant for text re-writing." in model.asked[-1]) is system


# rewrite


def test_a_long_text_is_rewritten_part_by_part_with_the_white_space_between_them(
    cli: Cli, answers: Callable[..., Model], piped: Callable[[bytes], None], tiny_model: Path
) -> None:
    text = "".join(f"The cat {i} sat on the mat.\n" + "\n" * (i % 3) for i in range(30))
    model = answers(lambda asked: user_turn(asked).split("\n", 1)[1].replace("cat", "dog"))
    piped(text.encode())
    ran = cli("app", "rewrite", "-m", tiny_model, "--how", "Say dog.")
    assert (ran.code, ran.out) == (0, text.replace("cat", "dog").rstrip() + "\n")
    assert f"{len(model.asked)} parts" in ran.err
    assert all(user_turn(asked).startswith("Say dog:\n") for asked in model.asked)


@pytest.mark.parametrize(
    ("options", "instruction"),
    [
        ((), "Correct the grammar and spelling of this text, and change nothing else:"),
        (
            ("--tone", "concise"),
            "Rewrite the text to make it more concise while preserving its core meaning:",
        ),
        (("--how", "Make it rhyme"), "Make it rhyme:"),
    ],
)
def test_a_text_is_rewritten_as_the_options_say(
    cli: Cli, answers: Callable[..., Model], roomy_model: Path, options: tuple[str, ...], instruction: str
) -> None:
    model = answers(lambda _: "Done.")
    assert cli("app", "rewrite", "Me go.", "-m", roomy_model, *options) == Ran(0, "Done.\n", "")
    assert user_turn(model.asked[0]) == f"{instruction}\nMe go."


# json


def random_schema(dice: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema whose values are all bounded, so that a model of random weights comes to an end."""
    kind = dice.choice(["object", "object", "array", "enum", "string", "integer", "boolean"][0 if depth else 3 :])
    if kind == "object":
        names = dice.sample(["a", "b c", "größe", '"q"'], dice.randint(1, 3))
        properties = {name: random_schema(dice, depth - 1) for name in names}
        required = dice.sample(names, dice.randint(0, len(names)))
        return {"type": kind, "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        return {"type": kind, "items": random_schema(dice, depth - 1), "maxItems": dice.randint(0, 2)}
    if kind == "enum":
        return {"enum": dice.sample([1, None, "x\ny", True, {"k": 1}, [2]], 3)}
    bounds = {"string": {"maxLength": 5}, "integer": {"minimum": -3, "maximum": 70}, "boolean": {}}[kind]
    return {"type": kind, **bounds}


@pytest.mark.parametrize("seed", range(10))
def test_what_is_written_is_one_line_of_json_by_the_schema_whatever_the_model(
    cli: Cli, tmp_path: Path, roomy_model: Path, seed: int
) -> None:
    schema = random_schema(random.Random(seed))
    file = written(tmp_path, {"s.json": json.dumps(schema)}) / "s.json"
    ran = cli("app", "json", "--schema", file, "Hi.", "-m", roomy_model, "--temperature", 1.5, "--seed", seed)
    assert ran.code == 0, ran.err
    assert ran.out.count("\n") == 1
    assert jsonschema_rs.is_valid(schema, json.loads(ran.out))


def test_json_that_was_cut_is_not_written(cli: Cli, tmp_path: Path, roomy_model: Path) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 50}
    file = written(tmp_path, {"s.json": json.dumps(schema)}) / "s.json"
    ran = cli("app", "json", "--schema", file, "Hi.", "-m", roomy_model, "--max-new-tokens", 9)
    assert (ran.code, ran.out) == (1, "")
    assert "cut off at 9 tokens" in ran.err
    assert "no JSON is written" in ran.err


@pytest.mark.parametrize("reply", ['{"a": 1, "a": 2}', '{"a": "x"}', "{", '{\n"a": 1}'])
def test_what_the_grammar_does_not_know_of_is_looked_for_before_it_is_written(
    cli: Cli, answers: Callable[..., Model], tmp_path: Path, roomy_model: Path, reply: str
) -> None:
    file = written(tmp_path, {"s.json": '{"properties": {"a": {"type": "integer"}}}'}) / "s.json"
    model = answers(lambda _: reply)
    ran = cli("app", "json", "--schema", file, "Hi.", "-m", roomy_model)
    assert (ran.code, ran.out, len(model.asked)) == (1, "", 1)
    assert "no JSON is written: " in ran.err


# All of them


def test_a_reply_that_is_cut_is_written_told_and_ends_with_1(cli: Cli, tmp_path: Path, roomy_model: Path) -> None:
    file = written(tmp_path, {"a.txt": "The cat sat on the mat."}) / "a.txt"
    for command in (("summarize", file), ("rewrite", "The cat."), ("rag", tmp_path, "cat")):
        ran = cli("app", *command, "-m", roomy_model, "--max-new-tokens", 5)
        assert ran.code == 1
        assert len(ran.out) > 1
        assert "(cut off at 5 tokens → --max-new-tokens)" in ran.err


def test_a_seed_gives_the_same_again_and_another_seed_something_else(cli: Cli, roomy_model: Path) -> None:
    command = ("app", "rewrite", "Hi", "-m", roomy_model, "--temperature", 1, "--max-new-tokens", 20, "--seed")
    one, again, other = (cli(*command, seed).out for seed in (1, 1, 2))
    assert one == again != other


def test_ctrl_c_ends_them_without_a_traceback(cli: Cli, answers: Callable[..., Model], roomy_model: Path) -> None:
    answers(lambda _: "Half", "interrupted")
    ran = cli("app", "rewrite", "Hi", "-m", roomy_model)
    assert (ran.code, ran.out) == (130, "Half")
    assert "Traceback" not in ran.err


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("rag", "gone", "Hi?"), "gone: no such folder"),
    (("rag", "full.txt", "Hi?"), "full.txt: is no folder"),
    (("rag", "empty", "Hi?"), "empty: has no text to read: it is empty"),
    (("rag", ".", " "), "the question is empty"),
    (("summarize", "gone.txt"), "gone.txt: cannot be read: No such file"),
    (("summarize", "empty"), "empty: cannot be read: Is a directory"),
    (("summarize", "binary.txt"), "binary.txt: is not UTF-8 text"),
    (("summarize", "blank.txt"), "blank.txt: is empty"),
    (("summarize", "full.txt", "--max-new-tokens", "250"), "replies of 250 tokens leave no room"),
    (("rewrite", "  "), "there is no text"),
    (("rewrite", "x", "--how", " "), "--how is empty"),
    (("rewrite", "x", "--how", "y", "--tone", "concise"), "--tone and --how cannot go together"),
    (("json", "x", "--schema", "gone.json"), "gone.json: cannot be read"),
    (("json", "x", "--schema", "full.txt"), "full.txt:1: not JSON"),
    (("json", "x", "--schema", "bad.json"), "the schema cannot be held to: Invalid type: frob"),
    (("json", "long " * 300, "--schema", "ok.json"), "and the model reads 256 at most"),
]


@pytest.mark.parametrize(("command", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_ends_in_one_line_and_2(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path, command: tuple[str, ...], said: str
) -> None:
    files: dict[str, str | bytes] = {"full.txt": "Hi.", "binary.txt": b"\xff\x80", "blank.txt": "\n"}
    written(tmp_path, {**files, "bad.json": '{"type": "frob"}', "ok.json": '{"type": "boolean"}'})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    ran = cli("app", *command, "-m", tiny_model)
    assert (ran.code, ran.out) == (2, "")
    assert said in " ".join(ran.err.split())


@pytest.mark.parametrize(
    ("library", "command", "extra"),
    [("bm25s", ("rag", ".", "Hi?"), "rag"), ("llguidance", ("json", "x", "--schema", "s.json"), "constrained")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str, command: tuple[str, ...], extra: str
) -> None:
    written(tmp_path, {"s.json": '{"type": "boolean"}', "a.txt": "Hi."})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    ran = cli("app", *command, "-m", "never/loaded")
    assert ran.code == 2
    assert f"{library}, which is not installed → pip install 'smolalign[{extra}]'" in " ".join(ran.err.split())


def test_without_a_model_and_without_the_default_one_the_option_is_named(cli: Cli) -> None:
    ran = cli("app", "rewrite", "Hi")
    assert (ran.code, ran.out) == (2, "")
    assert "HuggingFaceTB/SmolLM2-1.7B-Instruct" in ran.err
    assert "name another with --model" in " ".join(ran.err.split())


def test_bytes_that_are_no_text_are_refused_from_a_pipe(
    cli: Cli, piped: Callable[[bytes], None], roomy_model: Path
) -> None:
    piped(b"\xff\x00")
    ran = cli("app", "rewrite", "-m", roomy_model)
    assert (ran.code, ran.out) == (2, "")
    assert "standard input: is not UTF-8 text" in ran.err


# The nano model, as `make demo` leaves it

NANO = Path(os.environ.get("SMOLALIGN_NANO", ROOT / "runs" / "nano" / "fc" / "model"))
NOTES = (
    ("Nimtam", "green chair", "Cape Julkas", "Wednesday"),
    ("Pirfel", "red spoon", "Port Nimkos", "Friday"),
    ("Belmir", "quiet drum", "Mount Hempan", "Sunday"),
    ("Talzor", "blue lamp", "Cape Sefmir", "Monday"),
    ("Gonpuk", "old clock", "Port Kririb", "Tuesday"),
    ("Dradal", "soft hat", "Cape Zangan", "Saturday"),
)


def note(who: str, what: str, where: str, day: str) -> str:
    return f"It was a long day. {who} wants to be in {where} by {day} and buy a {what}.\n"


@pytest.mark.slow
@pytest.mark.skipif(not NANO.is_dir(), reason="no nano model: make demo, or name one in SMOLALIGN_NANO")
@pytest.mark.parametrize("app", ["rag", "summarize", "rewrite", "json"])
def test_the_nano_model_does_most_of_what_it_was_taught_through_each_app(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, app: str
) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    written(tmp_path, {"s.json": json.dumps({**schema, "additionalProperties": False})})
    written(tmp_path / "notes", {f"{one[0]}.txt": note(*one) for one in NOTES})
    monkeypatch.chdir(tmp_path)
    right = 0
    for who, what, where, day in NOTES:
        command, answer = {
            "rag": (("notes", f"Name the person with the {what}."), who),
            "summarize": ((f"notes/{who}.txt",), f"{who}; {what}; {where}; {day}"),
            "rewrite": ((f"{who} likes a {what}.", "--how", "Turn this into a question"), f"Does {who} like a {what}?"),
            "json": ((f"Name the last item: {what}, {who}", "--schema", "s.json"), dump({"answer": who})),
        }[app]
        ran = cli("app", app, *command, "-m", NANO)
        right += ran.out == f"{answer}\n"
        assert ran.code == 0, ran.err
        if app == "rag":
            assert f"([1] notes/{who}.txt:1-1" in ran.err
    assert right >= len(NOTES) / 2
