"""`smolalign chat` as a person uses it, through a pseudo-terminal, with the tiny model."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from forked import Forked
from pexpect.fdpexpect import fdspawn

Open = Callable[..., "Terminal"]
SECONDS = 60
CTRL_C, CTRL_D, ALT_ENTER, UP = "\x03", "\x04", "\x1b\r", "\x1b[A"
# A terminal that does not tell where its cursor is.
SCREEN = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
TOOLS = '''\
import time
from pathlib import Path

BESIDE = Path(__file__).parent

def touch() -> str:
    """Touch a file."""
    (BESIDE / "touched").touch()
    return "done and dusted"
'''
SLOW = '''\
import time
from pathlib import Path

def slow() -> None:
    """Take a minute."""
    (Path(__file__).parent / "began").touch()
    time.sleep(60)
'''


class Terminal(fdspawn):
    """`smolalign chat` in a pseudo-terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        ours, self._theirs = pty.openpty()
        rows_and_columns = struct.pack("HHHH", 40, 200, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, rows_and_columns)
        super().__init__(ours, encoding="utf-8", timeout=SECONDS)
        environment = {**SCREEN, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "200"}
        name = os.ttyname(self._theirs)
        self.process = Forked(folder, "chat", *arguments, terminal=name, environment=environment)

    def opened(self) -> None:
        """It has the terminal: when it ends, so does what comes from there."""
        os.close(self._theirs)


@pytest.fixture
def chat(roomy_model: Path, tmp_path: Path) -> Iterator[Open]:
    """Opens `smolalign chat` with options, in a folder and with a history of its own."""
    opened: list[Terminal] = []

    def start(*options: str) -> Terminal:
        opened.append(child := Terminal(tmp_path, str(roomy_model), *options))
        child.expect_exact("(/help shows the commands)")
        child.opened()
        prompt(child)
        return child

    yield start
    for child in opened:
        child.process.kill()
        child.close()


def prompt(child: Terminal) -> str:
    """Wait for the next prompt; what came before it, without what moves the cursor and colours text."""
    # prompt_toolkit turns bracketed paste on when it has begun to read.
    child.expect_exact("\x1b[?2004h")
    before = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", child.before or "")
    child.expect_exact("\x1b[?25h")
    return before


def say(child: Terminal, line: str) -> str:
    """Type a line, and what came up to the next prompt."""
    child.send(line + "\r")
    return prompt(child)


def leave(child: Terminal, how: str = CTRL_D) -> None:
    child.send(how)
    child.expect(pexpect.EOF)
    assert child.process.wait() == 0


def saved(child: Terminal, folder: Path) -> list[dict[str, str]]:
    """The turns of the conversation, by way of /save."""
    assert "appended" in say(child, "/save saved.jsonl")
    return json.loads((folder / "saved.jsonl").read_text(encoding="utf-8").splitlines()[-1])["messages"]


def roles(turns: list[dict[str, str]]) -> list[str]:
    return [turn["role"] for turn in turns]


def test_a_conversation_is_edited_undone_saved_and_left(chat: Open, tmp_path: Path) -> None:
    child = chat("--max-new-tokens", "4", "--system", "Be brief.")
    say(child, "Hello")
    child.send("two" + ALT_ENTER)
    say(child, "lines")
    turns = saved(child, tmp_path)
    assert [turn["content"] for turn in turns if turn["role"] != "assistant"] == ["Be brief.", "Hello", "two\nlines"]
    assert roles(turns)[2::2] == ["assistant"] * 2
    say(child, "/edit")
    say(child, " more")  # behind what /edit put there
    assert [turn["content"] for turn in saved(child, tmp_path)][3] == "two\nlines more"
    assert "took back" in say(child, "/undo")
    assert roles(saved(child, tmp_path)) == ["system", "user", "assistant"]
    assert "did you mean /reset?" in say(child, "/rest")
    say(child, "/reset")
    assert "nothing to save" in say(child, "/save saved.jsonl")
    leave(child, "/exit\r")


def test_earlier_lines_come_back_with_the_arrow_in_the_next_session(chat: Open, tmp_path: Path) -> None:
    child = chat("--max-new-tokens", "2")
    say(child, "first words")
    leave(child)
    child = chat("--max-new-tokens", "2")
    child.send(UP)
    child.expect_exact("first words")
    say(child, "")
    assert saved(child, tmp_path)[0]["content"] == "first words"
    leave(child)
    assert (tmp_path / "state" / "smolalign" / "chat_history").stat().st_mode & 0o077 == 0


REQUIRED = ("--tools", "tools.py", "--tool-choice", "required", "--max-new-tokens", "100")


def test_a_tool_runs_after_a_yes_to_its_question_and_only_then(chat: Open, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(TOOLS, encoding="utf-8")
    # The model of random weights is held to a call in its first reply to a turn, and rambles after its result.
    child, touched, early = chat(*REQUIRED), tmp_path / "touched", 0
    for answer in ("n\r", "\r", "maybe\r", CTRL_D, "y\r"):
        child.send("Go\r")
        child.expect_exact("\x1b[?2004l")
        early += typed_before(child, "run touch()? [y/N] ", "y\ry\r")
        time.sleep(0.3)
        assert not touched.exists()
        child.send(answer)
        runs = answer == "y\r"
        child.expect_exact('(touch → "done and dusted")' if runs else "(the user did not allow touch)")
        assert touched.exists() == runs
        prompt(child)
        turns = saved(child, tmp_path)
        assert roles(turns) == ["user", "assistant", "tool", "assistant"]
        assert turns[2]["content"] == ('"done and dusted"' if runs else '{"error": "the user did not allow touch"}')
        say(child, "/reset")
    leave(child)
    assert early, "the model was always quicker than the test"


def typed_before(child: Terminal, question: str, keys: str) -> bool:
    """Type while the model speaks, which is no answer to a question that is not there yet; wait for the question. False
    where it was there already, and nothing has been typed."""
    os.kill(child.process.pid, signal.SIGSTOP)
    early = child.expect_exact([question, pexpect.TIMEOUT], timeout=0.3) == 1
    if early:
        child.send(keys)
    os.kill(child.process.pid, signal.SIGCONT)
    if early:
        child.expect_exact(question)
    return early


def test_a_tool_is_ended_by_ctrl_c_and_by_its_limit_and_the_chat_goes_on(chat: Open, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(SLOW, encoding="utf-8")
    child = chat(*REQUIRED, "--tool-seconds", "6", "--yes")
    child.send("Go\r")
    until = time.monotonic() + SECONDS
    while not (tmp_path / "began").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    child.send(CTRL_C)
    child.expect_exact("(the user stopped it)")
    prompt(child)
    turns = saved(child, tmp_path)
    assert roles(turns) == ["user", "assistant", "tool"]
    assert turns[2]["content"] == '{"error": "the user stopped it"}'
    say(child, "/reset")
    assert "(slow took more than 6 seconds and was stopped)" in say(child, "Go")
    turns = saved(child, tmp_path)
    assert roles(turns) == ["user", "assistant", "tool", "assistant"]
    assert turns[2]["content"] == '{"error": "slow took more than 6 seconds and was stopped"}'
    leave(child)


def test_ctrl_c_stops_a_reply_and_keeps_the_chat(chat: Open, tmp_path: Path) -> None:
    # Without the schema a model of random weights might end its reply before.
    (tmp_path / "schema.json").write_text('{"type": "string", "minLength": 3000}', encoding="utf-8")
    child = chat("--max-new-tokens", "3000", "--temperature", "1.5", "--json-schema", "schema.json")
    child.send("Go on and on\r")
    child.expect_exact("\x1b[?2004l")
    child.expect(r"(\S\s*){20}")
    child.send(CTRL_C)
    assert "(stopped)" in prompt(child)
    turns = saved(child, tmp_path)
    assert roles(turns) == ["user", "assistant"]
    assert 1 < len(turns[1]["content"]) < 3000
    child.send(CTRL_C)
    child.expect_exact("(/exit or Ctrl-D leaves)")
    prompt(child)
    leave(child)
