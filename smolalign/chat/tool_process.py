"""One call of a function in a Python file, in a process of its own. Standard library only, so that it starts at once.

python -m smolalign.chat.tool_process FILE FUNCTION LIMIT < arguments.json > result.json
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# The exit code where the tool raised.
FAILED = 3


def load(file: Path) -> ModuleType:
    """Run a Python file as a module; it may import what lies beside it. Raises whatever the file raises."""
    module = ModuleType("tools_of_a_person")
    module.__file__ = str(file)
    # Type hints are looked up there.
    sys.modules[module.__name__] = module
    beside = str(file.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)
    # Compiled here, it leaves no __pycache__ beside it.
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module


def as_json(value: Any, limit: int) -> str:
    """A tool's result as JSON text; what has no JSON form is written as its text.

    A result of more than `limit` characters is cut and says so. Special tokens cannot be in it: `<|` is written as an
    escape, or a tool that reads a web page would let the page speak as the user.

    Raises:
        ValueError: it has NaN or an infinity in it, or holds itself.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    if len(text) > limit:
        text = json.dumps({"cut": text[:limit], "characters": len(text)}, ensure_ascii=False)
    # Half a surrogate pair cannot be written as UTF-8.
    return text.replace("<|", "\\u003c|").encode(errors="replace").decode()


def failure(error: BaseException) -> dict[str, str]:
    """What a model is told of an exception."""
    said = str(error)
    return {"error": f"{type(error).__name__}: {said[:500]}" if said else type(error).__name__}


def outcome(find: Callable[[], Callable[..., Any]], arguments: Mapping[str, Any], limit: int) -> tuple[str, int]:
    """What a tool gives back, or how it failed, as JSON text, and the exit code that says which. Never raises."""
    try:
        return as_json(find()(**arguments), limit), 0
    except BaseException as error:
        return as_json(failure(error), limit), FAILED


def main() -> None:
    file, name, limit, began = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), os.getpid()
    arguments = json.loads(sys.stdin.buffer.read())
    # What the tool prints goes to the screen, not into its result, and it reads nothing of what the person types.
    answer = os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    text, code = outcome(lambda: getattr(load(file), name), arguments, limit)
    if os.getpid() != began:
        os._exit(code)  # a fork of the tool's, which has nothing to answer
    sys.stdout.flush()
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write(text)
    # Threads that a tool left behind do not keep the process.
    os._exit(code)


if __name__ == "__main__":
    main()
