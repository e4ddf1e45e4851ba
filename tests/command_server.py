"""Runs commands of the program as fresh processes without the seconds that its libraries take to import: this process
has imported them, and each command is a fork of it. Reads a JSON line a command, and answers with one: at the command's
end with its exit code, or at once with its process where the command names a file that its exit code shall go to."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from smolalign.environment import prepare


def serve() -> None:
    """Run commands until the input ends."""
    prepare()
    _import()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(_begin(command) if "code" in command else _run(command)), flush=True)


def _import() -> None:
    """What commands import, without starting a thread."""
    import huggingface_hub.constants
    import huggingface_hub.file_download
    import huggingface_hub.utils._http as http
    import trl  # noqa: F401
    from trl import DPOTrainer, SFTTrainer  # noqa: F401

    import smolalign.data.hub
    import smolalign.eval.run
    import smolalign.model
    import smolalign.pipeline
    import smolalign.train.session
    import smolalign.train.tuning  # noqa: F401

    # A small file comes in many chunks, as large ones do.
    huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 512
    # The pauses between retries are not waited for.
    fast: Any = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    http.time = huggingface_hub.file_download.time = fast


def _run(command: dict[str, Any]) -> int:
    child = os.fork()
    if not child:
        _become(command)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _begin(command: dict[str, Any]) -> int:
    """The process of a command that runs on; another waits for it and writes down how it ended."""
    reader, writer = os.pipe()
    if not os.fork():
        child = os.fork()
        if not child:
            os.close(writer)
            _become(command)
        os.write(writer, str(child).encode())
        os.close(writer)
        _, status = os.waitpid(child, 0)
        written = Path(command["code"]).with_suffix(".part")
        written.write_text(str(os.waitstatus_to_exitcode(status)))
        written.rename(command["code"])
        os._exit(0)
    os.close(writer)
    with open(reader) as told:
        return int(told.read())


def _become(command: dict[str, Any]) -> NoReturn:
    """The program, with its arguments, folder and where its output goes: two files, or a terminal of its own."""
    from smolalign.cli import main

    code: Any = 0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if "terminal" in command:
            # The first terminal that the leader of a session opens is the session's.
            os.setsid()
            ends = [os.open(command["terminal"], os.O_RDWR)] * 3
        else:
            made = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            ends = [os.open(os.devnull, os.O_RDONLY), os.open(command["out"], made), os.open(command["err"], made)]
        for number, end in enumerate(ends):
            os.dup2(end, number)
        os.chdir(command["folder"])
        os.environ.update(command["environment"])
        for name, value in command.get("constants", {}).items():
            module, _, constant = name.rpartition(".")
            setattr(importlib.import_module(module), constant, value)
        sys.argv = ["smolalign", *command["arguments"]]
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
