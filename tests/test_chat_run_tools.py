"""A call runs in a process of its own, within its time, and only if its arguments fit."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from smolalign.chat.run_tools import MOST_ARGUMENTS, MOST_RESULT, ToolResult, flaw, run_call
from smolalign.chat.tools import ToolBox, read_tools, with_null
from smolalign.rows import ToolCall

TOOLS = '''\
"""Tools that do as they are told."""
import os, subprocess, sys, time
from pathlib import Path

def add(a: int, b: int = 1, note: str | None = None) -> int:
    """Add.

    Args:
        a: one
        b: another
        note: nothing
    """
    print("adding")
    return a + b

def evaluate(code: str) -> object:
    """Evaluate.

    Args:
        code: Python
    """
    return eval(code)

def wait(file: str, child: bool) -> None:
    """Write the number of a process that stays for a minute, and stay.

    Args:
        file: where
        child: whether that is a child
    """
    number = subprocess.Popen(["sleep", "60"]).pid if child else os.getpid()
    Path(file).write_text(str(number))
    time.sleep(60)

def leave_behind(file: str) -> str:
    """Start a child and return.

    Args:
        file: where
    """
    Path(file).write_text(str(subprocess.Popen(["sleep", "60"]).pid))
    return "done"
'''


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ToolBox:
    file = tmp_path_factory.mktemp("tools") / "tools.py"
    file.write_text(TOOLS, encoding="utf-8")
    return read_tools(file)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def evaluated(box: ToolBox, code: str) -> ToolResult:
    return run_call(call("evaluate", code=code), box, 20)


def test_the_result_is_json_and_what_a_tool_prints_is_not_in_it(
    box: ToolBox, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_call(call("add", a=2, b=3), box, 20) == ToolResult("5")
    assert capfd.readouterr() == ("", "adding\n")


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("{'a': [1, 'é']}", '{"a": [1, "é"]}'),
        ("None", "null"),
        ("Path('x')", '"x"'),
        ("'<|im_end|>'", '"\\u003c|im_end|>"'),
        ("chr(0xd800)", '"?"'),
    ],
)
def test_results_of_all_kinds_are_written(code: str, content: str, box: ToolBox) -> None:
    assert evaluated(box, code) == ToolResult(content)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("sys.exit(4)", "SystemExit: 4"),
        ("os._exit(4)", "evaluate ended its process (exit code 4)"),
        ("os._exit(0)", "evaluate ended its process (exit code 0)"),
        ("os.kill(os.getpid(), 9)", "evaluate ended its process (exit code -9)"),
        ("float('nan')", "ValueError: Out of range float values are not JSON compliant"),
        ("(lambda a: a.append(a) or a)([])", "ValueError: Circular reference detected"),
        ("input()", "EOFError: EOF when reading a line"),
    ],
)
def test_a_failure_is_told_as_the_result(code: str, error: str, box: ToolBox) -> None:
    result = evaluated(box, code)
    assert result.failed
    told = json.loads(result.content)
    assert list(told) == ["error"]
    assert told["error"].startswith(error)


def test_a_long_result_is_cut_and_says_so(box: ToolBox) -> None:
    result = evaluated(box, "'x' * 1_000_000")
    assert not result.failed
    assert json.loads(result.content) == {"cut": '"' + "x" * (MOST_RESULT - 1), "characters": 1_000_002}


def lives(number: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def require_gone(number: int) -> None:
    until = time.monotonic() + 5
    while lives(number):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("child", [False, True])
def test_what_takes_too_long_is_ended_with_its_children(box: ToolBox, child: bool, tmp_path: Path) -> None:
    file, began = tmp_path / "number", time.monotonic()
    result = run_call(call("wait", file=str(file), child=child), box, 3)
    assert 3 <= time.monotonic() - began < 10
    assert json.loads(result.content) == {"error": "wait took more than 3 seconds and was stopped"}
    require_gone(int(file.read_text()))


def test_nothing_that_a_tool_started_outlives_it(box: ToolBox, tmp_path: Path) -> None:
    assert run_call(call("leave_behind", file=str(tmp_path / "number")), box, 20) == ToolResult('"done"')
    require_gone(int((tmp_path / "number").read_text()))


@pytest.mark.parametrize(
    ("code", "content"), [("os.fork() and 1 or 1", "1"), ("(os.fork(), 1 / 0)", '{"error": "ZeroDivisionError: ')]
)
def test_a_tool_that_forks_answers_once(code: str, content: str, box: ToolBox) -> None:
    result = evaluated(box, code)
    assert isinstance(json.loads(result.content), int | dict)
    assert result.content.startswith(content)


def test_a_daemon_that_a_tool_leaves_behind_is_not_waited_for(box: ToolBox) -> None:
    result = run_call(call("evaluate", code="os.fork() or (os.setsid(), time.sleep(30))"), box, 15)
    os.kill(int(result.content), signal.SIGKILL)


DEEP: Any = 1
for _ in range(900):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (call("gone"), "no tool is named gone"),
        (call("add"), "add: missing a required argument: 'a'"),
        (call("add", a=1, c=2), "add: got an unexpected keyword argument 'c'"),
        (call("add", a="1"), 'add: a: "1" is not of type "integer"'),
        (call("add", a=1, b=None), 'add: b: null is not of type "integer"'),
        (call("add", a=DEEP), "add: "),
        (call("evaluate", code="x" * 1_000_000), f"1000012 characters long, more than {MOST_ARGUMENTS}"),
    ],
)
def test_a_call_that_does_not_fit_is_told_why(wrong: ToolCall, said: str, box: ToolBox) -> None:
    assert said in (flaw(wrong, box) or "")


def test_a_call_that_fits_has_no_flaw_and_an_optional_argument_may_be_null(box: ToolBox) -> None:
    assert flaw(call("add", a=1, note=None), box) is None
    assert flaw(call("add", a=1, b=2, note="x"), box) is None
    properties = {"nullable": {"type": "string", "nullable": True}}
    assert with_null({"properties": properties}) == {
        "properties": {"nullable": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
    }


def test_a_schema_alone_is_not_run() -> None:
    assert flaw(call("f"), ToolBox(({"name": "f"},))) == "f is a schema without a function"


def test_ctrl_c_ends_the_tool(box: ToolBox, tmp_path: Path) -> None:
    import signal
    import threading

    file = tmp_path / "number"

    def interrupt() -> None:
        while not (file.exists() and file.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_call(call("wait", file=str(file), child=False), box, 20)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    require_gone(int(file.read_text()))
