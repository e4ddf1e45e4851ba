"""The command line as processes that can be killed, without the seconds that each would take to import its libraries:
forks of one process, as `command_server.py` makes them. They compute on one thread."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from conftest import ROOT, SESSION

_numbers = itertools.count()


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("command_server.py"))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


class Forked:
    """A command that has been started in a folder; to be used as a Popen with pipes, or with `terminal` given, the path
    of a pseudo-terminal, as a program that a person has started there."""

    def __init__(
        self, folder: Path, *arguments: object, terminal: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self._files = SESSION / f"command-{next(_numbers)}"
        self._files.mkdir()
        command = {
            "arguments": [str(one) for one in arguments],
            "folder": str(folder),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            **{name: str(self._files / name) for name in ("out", "err", "code")},
        }
        server = _server()
        assert server.stdin
        assert server.stdout
        server.stdin.write(json.dumps(command | ({"terminal": terminal} if terminal else {})) + "\n")
        server.stdin.flush()
        self.pid: int = json.loads(server.stdout.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with suppress(FileNotFoundError):
            self.returncode = int((self._files / "code").read_text())
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"process {self.pid} has not ended after {timeout} seconds")
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """What it wrote, when it has ended."""
        self.wait(timeout)
        out, err = ((self._files / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
