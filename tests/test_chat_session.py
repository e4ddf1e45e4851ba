"""A conversation, its commands, and its tools, with replies that a test has written; and the command through a pipe."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran

from smolalign.chat.conversation import Conversation
from smolalign.chat.generation import Reply
from smolalign.chat.session import MOST_ROUNDS, Session, Wishes, call_text
from smolalign.chat.terminal import visible
from smolalign.chat.tools import ToolBox, read_tools
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, ToolCall

Cli = Callable[..., Ran]
TOOLS = '''\
from pathlib import Path

def note(text: str) -> int:
    """Write it down.

    Args:
        text: what
    """
    with open(Path(__file__).parent / "noted", "a") as stream:
        return stream.write(text + "\\\\n")

def fail() -> None:
    """Fail."""
    raise RuntimeError("no \\\\x1b[2J luck")
'''.replace("\\\\", "\\")


@pytest.fixture
def box(tmp_path: Path) -> ToolBox:
    (tmp_path / "tools.py").write_text(TOOLS, encoding="utf-8")
    return read_tools(tmp_path / "tools.py")


class Typed:
    """A person who types these lines and answers these questions, and then no more."""

    def __init__(self, lines: Iterable[str], answers: Iterable[bool | type[BaseException]] = (), typed: bool = True):
        self.lines, self.answers, self.typed = list(lines), list(answers), typed
        self.questions: list[str] = []
        self.defaults: list[str] = []

    def read(self, default: str = "") -> str | None:
        self.defaults.append(default)
        return self.lines.pop(0) if self.lines else None

    def allows(self, question: str) -> bool:
        self.questions.append(question)
        answer = self.answers.pop(0)
        if isinstance(answer, bool):
            return answer
        raise answer


class Spoken:
    """A model that gives these replies, the last of them for ever, and what it was asked."""

    def __init__(self, *replies: str | Reply | BaseException) -> None:
        self.replies, self.asked = list(replies), list[tuple[tuple[Message, ...], bool]]()

    def __call__(self, conversation: Conversation, say: Callable[[str], None], first: bool) -> Reply:
        self.asked.append((conversation.messages, first))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, BaseException):
            raise reply
        reply = reply if isinstance(reply, Reply) else Reply(reply, "stop")
        say(reply.text)
        return reply


def talked(spoken: Spoken, source: Typed, box: ToolBox | None = None, **wishes: Any) -> Session:
    session = Session(spoken, box or ToolBox(), Wishes(**wishes), source)
    session.run()
    return session


def wrote(*calls: tuple[str, dict[str, Any]]) -> str:
    return f"<tool_call>{json.dumps([{'name': name, 'arguments': given} for name, given in calls])}</tool_call>"


NOTE = wrote(("note", {"text": "a"}))
NESTED: Any = functools.reduce(lambda inside, _: [inside], range(900), 1)


def turns(session: Session) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in session.conversation.turns]


def noted(box: ToolBox) -> str:
    assert box.file
    file = box.file.parent / "noted"
    return file.read_text() if file.exists() else ""


def test_each_turn_is_answered_after_all_before_it() -> None:
    spoken = Spoken("One.", "Two.")
    talked(spoken, Typed(["a", "", "b"]), system="Be brief.")
    system = Message("system", "Be brief.")
    assert spoken.asked == [
        ((system, Message("user", "a")), True),
        ((system, Message("user", "a"), Message("assistant", "One."), Message("user", "b")), True),
    ]


def test_a_tool_runs_after_a_yes_and_the_model_goes_on_with_its_result(box: ToolBox) -> None:
    spoken, source = Spoken(NOTE, "Noted."), Typed(["go"], [True])
    session = talked(spoken, source, box)
    assert source.questions == ['run note(text="a")?']
    assert noted(box) == "a\n"
    assert session.conversation.turns == [
        Message("user", "go"),
        Message("assistant", "", (ToolCall("note", {"text": "a"}),)),
        Message("tool", "2"),
        Message("assistant", "Noted."),
    ]
    assert [first for _, first in spoken.asked] == [True, False]


def test_no_tool_runs_after_a_no_and_the_model_is_told(box: ToolBox) -> None:
    session = talked(Spoken(NOTE, "Well."), Typed(["go"], [False]), box)
    assert noted(box) == ""
    assert turns(session)[2:] == [("tool", '{"error": "the user did not allow note"}'), ("assistant", "Well.")]


def test_each_call_of_a_reply_is_asked_for(box: ToolBox) -> None:
    reply = wrote(("note", {"text": "a"}), ("note", {"text": "b"}))
    session = talked(Spoken(reply, "Ok."), Typed(["go"], [False, True]), box)
    assert noted(box) == "b\n"
    assert [role for role, _ in turns(session)] == ["user", "assistant", "tool", "tool", "assistant"]


def test_ctrl_c_at_the_question_runs_nothing_and_ends_the_turn(box: ToolBox) -> None:
    reply = wrote(("note", {"text": "a"}), ("note", {"text": "b"}))
    spoken = Spoken(reply, "Ok.")
    session = talked(spoken, Typed(["go"], [KeyboardInterrupt]), box)
    assert noted(box) == ""
    assert [content for role, content in turns(session) if role == "tool"] == ['{"error": "the user stopped it"}'] * 2
    assert len(spoken.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(NOTE, "interrupted"),
        Reply(NOTE.removesuffix("</tool_call>"), "stop"),
        Reply(wrote(("gone", {})), "stop"),
        Reply(wrote(("g" * 20_000, {})), "stop"),
        Reply(wrote(("note", {"text": "a", "m" * 10_000: 1})), "stop"),
        Reply(wrote(("note", {})), "stop"),
        Reply(wrote(("note", {"text": 3})), "stop"),
        Reply(wrote(("note", {"text": "a", "more": 1})), "stop"),
        Reply(wrote(("note", {"text": "x" * 1_000_000})), "stop"),
        Reply('<tool_call>[{"name": "note", "arguments": {"text": NaN}}]</tool_call>', "stop"),
        Reply('<tool_call>[{"name": "note", "arguments": {"text": "a", "text": "b"}}]</tool_call>', "stop"),
        Reply('<tool_call>[{"name": "note", "arguments": {"text": "\\ud800"}}]</tool_call>', "stop"),
        Reply("<tool_call>" + "[" * 100_000 + "</tool_call>", "stop"),
        Reply(wrote(("note", {"text": NESTED})), "stop"),
    ],
)
def test_a_call_that_is_wrong_or_was_stopped_is_not_run_even_with_yes(
    reply: Reply, box: ToolBox, capsys: pytest.CaptureFixture[str]
) -> None:
    talked(Spoken(reply, "Ok."), Typed(["go"]), box, yes=True)
    assert noted(box) == ""
    told = capsys.readouterr().err.splitlines()[1:]
    assert told
    assert all(len(line) < 600 for line in told)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("note", {}), "note: missing a required argument: 'text'"),
        (("note", {"text": 3}), 'note: text: 3 is not of type "string"'),
        (("gone", {}), "no tool is named gone"),
    ],
)
def test_what_is_wrong_with_a_call_is_told_to_the_model_which_may_mend_it(
    call: tuple[str, dict[str, Any]], said: str, box: ToolBox
) -> None:
    session = talked(Spoken(wrote(call), NOTE, "Noted."), Typed(["go"]), box, yes=True)
    assert [role for role, _ in turns(session)] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert json.loads(turns(session)[2][1]) == {"error": said}
    assert noted(box) == "a\n"


def test_without_anyone_to_ask_no_tool_runs_unless_yes_was_said(
    box: ToolBox, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken = Spoken(NOTE, "Ok.")
    talked(spoken, Typed(["go"], typed=False), box)
    assert noted(box) == ""
    assert len(spoken.asked) == 1
    assert capsys.readouterr() == (f"{NOTE}\n", "(not run: nobody is there to ask → --yes runs every call)\n")
    source = Typed(["go"], typed=False)
    talked(Spoken(NOTE, "Ok."), source, box, yes=True)
    assert noted(box) == "a\n"
    assert source.questions == []


def test_a_failure_is_shown_to_the_person_and_to_the_model(box: ToolBox, capsys: pytest.CaptureFixture[str]) -> None:
    session = talked(Spoken(wrote(("fail", {})), "Oh."), Typed(["go"], [True]), box)
    assert turns(session)[2] == ("tool", '{"error": "RuntimeError: no \\u001b[2J luck"}')
    assert "(RuntimeError: no �[2J luck)" in capsys.readouterr().err


def test_a_model_that_calls_for_ever_is_stopped_and_that_is_told(
    box: ToolBox, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken = Spoken(wrote(("fail", {})))
    talked(spoken, Typed(["go"]), box, yes=True)
    assert len(spoken.asked) == MOST_ROUNDS
    assert f"(stopped: {MOST_ROUNDS} replies in a row were calls)" in capsys.readouterr().err


def test_calls_of_schemas_without_functions_end_the_turn(box: ToolBox) -> None:
    spoken = Spoken(NOTE)
    session = talked(spoken, Typed(["go"]), ToolBox(box.schemas), yes=True)
    assert len(spoken.asked) == 1
    assert session.conversation.turns[-1].tool_calls == (ToolCall("note", {"text": "a"}),)


@pytest.mark.parametrize(
    ("ended", "told"),
    [("length", "cut off at 256 tokens → --max-new-tokens"), ("loop", "stopped: it says the same over and over")],
)
def test_a_reply_that_did_not_end_itself_says_why(ended: Any, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    session = talked(Spoken(Reply("so", ended)), Typed(["a"]))
    assert f"({told})" in capsys.readouterr().err
    assert turns(session) == [("user", "a"), ("assistant", "so")]


def test_ctrl_c_keeps_the_conversation_and_what_was_said_so_far() -> None:
    session = talked(Spoken("Yes.", Reply("and so", "interrupted"), KeyboardInterrupt(), "No."), Typed("abcd"))
    assert turns(session) == [
        ("user", "a"),
        ("assistant", "Yes."),
        ("user", "b"),
        ("assistant", "and so"),
        ("user", "d"),
        ("assistant", "No."),
    ]


def test_a_conversation_too_long_for_the_model_is_told_and_its_last_turn_taken_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = talked(Spoken("Yes.", UserError("too long", mend="/undo"), "No."), Typed("abc"))
    assert turns(session) == [("user", "a"), ("assistant", "Yes."), ("user", "c"), ("assistant", "No.")]
    assert "(too long → /undo)" in capsys.readouterr().err
    with pytest.raises(UserError, match="too long"):
        talked(Spoken(UserError("too long")), Typed("a", typed=False))


def test_undo_takes_the_last_turn_back_with_all_that_followed(box: ToolBox) -> None:
    spoken = Spoken("Hi.", NOTE, "Ok.", "Hm.")
    session = talked(spoken, Typed(["a", "go", "/undo", "b", "/undo", "/undo", "/undo"], [True]), box)
    assert spoken.asked[-1][0] == (Message("user", "a"), Message("assistant", "Hi."), Message("user", "b"))
    assert turns(session) == []


def test_edit_offers_the_last_turn_or_asks_another_in_its_place() -> None:
    source, spoken = Typed(["a", "/edit", "b", "/edit c", "/reset", "/edit"]), Spoken("x")
    talked(spoken, source)
    assert source.defaults == ["", "", "a", "", "", "", ""]
    assert [messages for messages, _ in spoken.asked] == [(Message("user", text),) for text in "abc"]


def test_system_and_reset_change_what_the_model_reads() -> None:
    spoken = Spoken("x")
    talked(spoken, Typed(["a", "/system Be kind.", "/reset", "b", "/system", "/reset", "c"]))
    assert [messages for messages, _ in spoken.asked] == [
        (Message("user", "a"),),
        (Message("system", "Be kind."), Message("user", "b")),
        (Message("user", "c"),),
    ]


def test_save_appends_rows_that_training_reads(box: ToolBox, tmp_path: Path) -> None:
    file = tmp_path / "saved chats.jsonl"
    lines = ["/save x.jsonl", "go", f"/save {file}", "/reset", "hello", f"/save {file}"]
    session = talked(Spoken(NOTE, "Ok.", "Hello."), Typed(lines, [True]), box, system="S")
    rows = load_rows(str(file), "chat").rows
    assert all(isinstance(row, Chat) for row in rows)
    first, second = (row for row in rows if isinstance(row, Chat))
    assert first.tools == second.tools == box.schemas
    assert second.messages == session.conversation.messages
    assert [turn.role for turn in first.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert first.messages[2].tool_calls == (ToolCall("note", {"text": "a"}),)
    assert not Path("x.jsonl").exists()


def test_save_begins_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"open": "line"}')
    conversation = Conversation(turns=[Message("user", "é"), Message("assistant", "b")])
    conversation.save(file)
    conversation.save(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == '{"open": "line"}'
    assert lines[1] == lines[2]
    assert json.loads(lines[1]) == {
        "messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}]
    }
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        conversation.save(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/sav x", "no command is named /sav → did you mean /save?"),
        ("/quit", "no command is named /quit → "),
        ("/zzz", "no command is named /zzz → /help shows them"),
        ("/save", "/save needs a file"),
        ("/save /no/such/folder/a.jsonl", "nothing to save"),
        ("/undo", "nothing to undo"),
        ("/edit x", "nothing to edit"),
        ("/tools", "no tools → --tools FILE"),
    ],
)
def test_a_command_that_cannot_be_done_is_told_and_not_sent(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken = Spoken("x")
    talked(spoken, Typed([line]))
    assert told in capsys.readouterr().err
    assert spoken.asked == []


def test_a_path_is_no_command_and_exit_leaves() -> None:
    spoken = Spoken("x")
    talked(spoken, Typed(["/etc/hosts is what?", "/exit", "never"]))
    assert [messages[-1].content for messages, _ in spoken.asked] == ["/etc/hosts is what?"]


def test_tools_lists_them_and_says_what_is_only_a_schema(box: ToolBox, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {"name": "look", "description": "Look.\nMore.", "parameters": {"type": "object", "properties": {"at": {}}}}
    mixed = ToolBox((*box.schemas, schema), box.functions)
    talked(Spoken("x"), Typed(["/tools", "/help"]), mixed)
    out = capsys.readouterr().out
    assert out.startswith("note(text)  Write it down.\nfail()  Fail.\nlook(at)  Look. (only a schema: it is not run)\n")
    assert "/save FILE" in out


def test_what_would_hide_on_a_screen_is_shown() -> None:
    assert call_text(ToolCall("f", {"a": "x\x1b\u202e\n é", "b": [1]})) == 'f(a="x\\u001b\\u202e\\n é", b=[1])'
    assert visible("a\x1b[2J\u202e\n\té\x9b") == "a�[2J�\n\té�"


# Through the command line, with a model.


def piped(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    stream = StringIO(text) if isinstance(text, str) else TextIOWrapper(BytesIO(text), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)


def test_each_line_of_a_pipe_is_a_turn(tiny_model: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, "Hi\n/reset\nHi\n/sav\n")
    ran = cli("chat", tiny_model, "--max-new-tokens", "3")
    assert ran.code == 0, ran.err
    half = len(ran.out) // 2
    assert ran.out[:half] == ran.out[half:] != ""
    assert "did you mean /save?" in ran.err


def test_replies_are_json_by_a_schema(
    tiny_model: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text(
        '{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}'
    )
    schema = json.loads((tmp_path / "schema.json").read_text()) | {"additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    piped(monkeypatch, "Hi\nYes\n")
    ran = cli("chat", tiny_model, "--json-schema", tmp_path / "schema.json")
    assert ran.code == 0, ran.err
    assert [json.loads(line)["a"] in (1, 2) for line in ran.out.splitlines()] == [True, True]


@pytest.mark.parametrize("yes", [False, True])
def test_a_required_call_is_made_and_runs_only_with_yes(
    yes: bool, roomy_model: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tools.py").write_text(
        'def touch() -> str:\n    """Touch."""\n    open(__file__ + ".touched", "w").close()\n    return "done"\n'
    )
    piped(monkeypatch, "Hi\n")
    options = ["--tools", tmp_path / "tools.py", "--tool-choice", "required", "--max-new-tokens", "60"]
    ran = cli("chat", roomy_model, *options, *(["--yes"] if yes else []))
    assert ran.code == 0, ran.err
    assert ran.out.startswith('<tool_call>[{"name": "touch", "arguments": {}}')
    assert (tmp_path / "tools.py.touched").exists() == yes
    assert ('(touch → "done")' in ran.err) == yes
    assert ("nobody is there to ask" in ran.err) != yes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tools", "{tools}", "--json-schema", "{schema}"], "--json-schema and --tools cannot go together"),
        (["--constrain"], "are about calls → add --tools FILE"),
        (["--tool-choice", "required"], "are about calls → add --tools FILE"),
        (["--json-schema", "{gone}"], "gone: cannot be read: No such file"),
        (["--json-schema", "{tools}"], "tools.py:1: not JSON: "),
        (["--json-schema", "{schema}"], 'the schema cannot be held to: Unimplemented keys: ["not"]'),
        (["--tools", "{gone}"], "gone: cannot be read"),
    ],
)
def test_options_that_cannot_be_are_refused_before_a_model_is_loaded(
    options: Sequence[str], told: str, cli: Cli, tmp_path: Path, box: ToolBox
) -> None:
    (tmp_path / "schema.json").write_text('{"not": {}}')
    places = {"tools": box.file, "schema": tmp_path / "schema.json", "gone": tmp_path / "gone"}
    ran = cli("chat", "no-such-model", *(option.format(**places) for option in options))
    assert ran.code == 2
    assert told in ran.err
    assert ran.err.count("\n") == 1


def test_input_that_is_no_text_is_refused(tiny_model: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"caf\xe9\n")
    ran = cli("chat", tiny_model)
    assert (ran.code, ran.out) == (2, "")
    assert "the input is not UTF-8 text" in ran.err
