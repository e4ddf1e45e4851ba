"""Runs commands of the program as fresh processes without the seconds that its libraries take to import: this process
has imported them, and each command is a fork of it. Reads a JSON line a command, and answers with one at its end."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from types import SimpleNamespace
from typing import Any

from smolalign.environment import prepare


def serve() -> None:
    """Run commands until the input ends."""
    prepare()
    _import()
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if not child:
            _become(command)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


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


def _become(command: dict[str, Any]) -> None:
    """The program, with its arguments, folder and where its output goes."""
    from smolalign.cli import main

    code: Any = 0
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(command["folder"])
        os.environ.update(command["environment"])
        for name, value in command["constants"].items():
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
