"""Commands of the program beside the stand-in for the Hub, each in a process and all with one cache of downloads."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from conftest import ROOT, SESSION, Ran
from hub import Files, Hub, served

# A Hub that does not answer is given up on after seconds.
_SECONDS = "3"


class Bench:
    """A stand-in for the Hub, an empty cache, and `run`, which runs a command beside them.

    `constants` are set in its modules before a command runs, by their full names.
    """

    def __init__(self) -> None:
        self.constants: dict[str, int] = {}
        self.hub = Hub()
        self._ends = ExitStack()
        self._ends.enter_context(served(self.hub))
        self._place = Path(self._ends.enter_context(tempfile.TemporaryDirectory(dir=SESSION)))
        self.cache = self._place / "huggingface"
        self._runner = self._ends.enter_context(
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("command_server.py"))],
                env={**os.environ, **self._environment()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        atexit.register(self._ends.close)

    def _environment(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.hub.address,
            "HF_HOME": str(self.cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_ETAG_TIMEOUT": _SECONDS,
            "HF_HUB_DOWNLOAD_TIMEOUT": _SECONDS,
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(ROOT),
        }

    def empty(self, datasets: Mapping[str, Files] | None = None, models: Mapping[str, Files] | None = None) -> None:
        """Begin anew: a Hub with these repositories and no faults, and nothing downloaded."""
        self.hub.datasets, self.hub.models = datasets or {}, models or {}
        self.hub.faults.clear()
        self.hub.asked.clear()
        self.constants.clear()
        shutil.rmtree(self.cache, ignore_errors=True)

    def run(self, *arguments: object, **environment: str) -> Ran:
        """Run a command in the present folder."""
        out, err = self._place / "out", self._place / "err"
        command = {
            "arguments": [str(one) for one in arguments],
            "folder": str(Path.cwd()),
            "environment": environment,
            "constants": self.constants,
            "out": str(out),
            "err": str(err),
        }
        assert self._runner.stdin
        assert self._runner.stdout
        self._runner.stdin.write(json.dumps(command) + "\n")
        self._runner.stdin.flush()
        code = json.loads(self._runner.stdout.readline())
        return Ran(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


@functools.cache
def bench() -> Bench:
    """The one of this test session."""
    return Bench()


def beside_hub(datasets: Mapping[str, Files], *commands: Sequence[str]) -> list[Ran]:
    """Runs commands of the program one after the other beside a Hub that has these datasets."""
    bench().empty(datasets)
    return [bench().run(*command) for command in commands]
