"""A stand-in for the Hugging Face Hub on the loopback: datasets of text files, as the `datasets` library asks for them,
at `main` and at every commit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conftest import ROOT, Ran

COMMIT = "c" * 40


# Several commands in one process, since what takes longest is the import of the libraries.
COMMANDS = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from smolalign import console
from smolalign.cli import main

ended = []
for command in json.loads(sys.argv[1]):
    out, err, code = StringIO(), StringIO(), 0
    sys.argv, console.out.file, console.err.file = ["smolalign", *command], out, err
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


def beside_hub(datasets: Mapping[str, Mapping[str, str]], cache: Path, *commands: Sequence[str]) -> list[Ran]:
    """Runs commands of the program one after the other, in a process of their own that finds the Hub here."""
    with served(datasets) as address:
        env = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(cache),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
        ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [Ran(*one) for one in json.loads(ended.stdout)]


@contextmanager
def served(datasets: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Serves datasets, by id the text of each file by path, while the context lasts. Gives the address."""

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).removeprefix("/api").removeprefix("/datasets/")
            owner, name, *rest = path.split("/")
            files = datasets.get(f"{owner}/{name}")
            if rest[:1] in (["resolve"], ["revision"], ["tree"]) and not re.fullmatch("main|[0-9a-f]{40}", rest[1]):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif files is None:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif rest[:1] == ["resolve"]:
                text = files.get("/".join(rest[2:]))
                if text is None:
                    self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                else:
                    self._answer(200, text.encode(), {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(text)}"'})
            elif rest[:1] == ["tree"]:
                self._json(_entries(files, "/".join(rest[2:])))
            else:
                names = [{"rfilename": file} for file in files]
                self._json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": names, "private": False, "tags": []})

        def _json(self, content: object) -> None:
            self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _answer(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _entries(files: Mapping[str, str], folder: str) -> list[dict[str, object]]:
    """What lies in a folder itself, as the Hub lists it."""
    start = f"{folder}/" if folder else ""
    below = [path.removeprefix(start) for path in files if path.startswith(start)]
    folders = dict.fromkeys(path.split("/")[0] for path in below if "/" in path)
    listed: list[dict[str, object]] = [
        {"type": "directory", "path": start + name, "size": 0, "oid": _digest(name)} for name in folders
    ]
    return listed + [_entry(start + path, files[start + path]) for path in below if "/" not in path]


def _entry(path: str, text: str) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(text.encode()), "oid": _digest(text)}


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
