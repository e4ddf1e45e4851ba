"""A model's calls, checked and then run, each in a process of its own with a limit on its time."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import smolalign
from smolalign.chat.tool_process import FAILED, as_json
from smolalign.chat.tools import ToolBox, with_null
from smolalign.data.strict_json import dump
from smolalign.rows import ToolCall

# Longest arguments of a call and longest result of a tool, in characters of JSON: a small model's context.
MOST_ARGUMENTS, MOST_RESULT = 16_384, 8_192
# Longest word on what is wrong with a call, which a model may have given names of any length.
MOST_SAID = 500


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool turn says, as JSON text, and whether the call failed."""

    content: str
    failed: bool = False


def failed(what: str) -> ToolResult:
    """The result of a call that was not run, or that came to no end."""
    return ToolResult(as_json({"error": what[:MOST_SAID]}, MOST_RESULT), failed=True)


def flaw(call: ToolCall, box: ToolBox) -> str | None:
    """Why a call cannot be run: no such tool, only a schema of it, or arguments that break its schema. None: it can."""
    if call.name not in {schema["name"] for schema in box.schemas}:
        return f"no tool is named {call.name}"
    if call.name not in box.functions:
        return f"{call.name} is a schema without a function"
    text = dump(call.arguments)
    if len(text) > MOST_ARGUMENTS:
        return f"the arguments of {call.name} are {len(text)} characters long, more than {MOST_ARGUMENTS}"
    try:
        inspect.signature(box.functions[call.name]).bind(**call.arguments)
    except TypeError as error:
        return f"{call.name}: {error}"
    return _breaks(call.arguments, next(schema for schema in box.schemas if schema["name"] == call.name))


def _breaks(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    import jsonschema_rs

    validator = jsonschema_rs.validator_for(with_null(schema["parameters"]))
    try:
        first = next(iter(validator.iter_errors(dict(arguments))), None)
    except ValueError as error:
        return f"{schema['name']}: {error}"
    if first is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first.instance_path).lstrip(".")
    return f"{schema['name']}: {f'{place}: ' if place else ''}{first.message[:300]}"


def run_call(call: ToolCall, box: ToolBox, seconds: float) -> ToolResult:
    """Run a call that has no flaw. What it started is ended with it, when it answers, fails, or takes too long.

    The file is run anew for each call, so that nothing of a call is left for the next.

    Raises:
        KeyboardInterrupt: Ctrl-C; what it started is ended.
    """
    module = "smolalign.chat.tool_process"
    command = [sys.executable, "-m", module, str(box.file), call.name, str(MOST_RESULT)]
    # The package is found wherever this process found it.
    paths = [str(Path(smolalign.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # To a file: the end of a pipe would be awaited as long as any fork of the tool's holds it.
    with tempfile.TemporaryFile() as answer:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=answer, env=environment, start_new_session=True
        ) as process:
            try:
                process.communicate(json.dumps(call.arguments).encode(), timeout=seconds)
            except subprocess.TimeoutExpired:
                return failed(f"{call.name} took more than {seconds:g} seconds and was stopped")
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        answer.seek(0)
        out = answer.read()
    if process.returncode in (0, FAILED) and out:
        return ToolResult(out.decode(), failed=process.returncode == FAILED)
    return failed(f"{call.name} ended its process (exit code {process.returncode})")
