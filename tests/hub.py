"""A stand-in for the Hugging Face Hub on the loopback: models and datasets, as the libraries ask for them, and the
faults that a network and a Hub have. What it holds is in `hub_contents.py`; this module knows files alone."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, str | bytes]

COMMIT = "c" * 40
# Kept by the Hub in another store, to which it redirects.
_LARGE = (".safetensors", ".parquet", ".bin", ".gguf")


@dataclass
class Fault:
    """What goes wrong with requests whose path holds a match of `path`.

    Attributes:
        path: regular expression.
        status: answered in place of the file; 0 answers as if nothing were wrong, but for what follows.
        code: the Hub's name of what is wrong, as `GatedRepo`.
        headers: sent with it.
        cut: bytes of a body that are sent before the connection breaks; its length is announced in full.
        stall: seconds in which nothing is answered.
        times: how often it happens before all is well.
        methods: what requests are struck.
    """

    path: str
    status: int = 0
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: float = 0
    times: float = float("inf")
    methods: tuple[str, ...] = ("GET", "HEAD", "POST")


@dataclass(frozen=True)
class Asked:
    """A request: method, path, the Range header or "", the status of the answer, and whether its body broke off."""

    method: str
    path: str
    range: str
    status: int
    cut: bool


@dataclass
class Hub:
    """What the stand-in holds, how it fails, and what it was asked.

    Attributes:
        datasets, models: files by path of each repository by its id.
        refs: branches and tags, beside which every commit's hash is a revision that holds the same.
        faults: the first that fits a request strikes it.
        asked: all requests so far.
        address: where it is served.
        store: where it says that large files lie: under another name, as the libraries send no token there.
    """

    datasets: Mapping[str, Files] = field(default_factory=dict)
    models: Mapping[str, Files] = field(default_factory=dict)
    refs: Mapping[str, str] = field(default_factory=lambda: {"main": COMMIT})
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    address: str = ""
    store: str = ""

    def fetched(self, path: str) -> list[Asked]:
        """The requests for bodies of what matches a path and was given."""
        return [one for one in self.asked if one.method == "GET" and one.status < 300 and re.search(path, one.path)]

    def files(self, kind: str, name: str) -> Files | None:
        """A repository's files; `kind` is `datasets` or `models`."""
        return (self.datasets if kind == "datasets" else self.models).get(name)

    def commit(self, revision: str) -> str | None:
        """The commit that a revision is."""
        return revision if re.fullmatch("[0-9a-f]{40}", revision) else self.refs.get(revision)

    def struck(self, method: str, path: str) -> Fault | None:
        """The fault that befalls a request; it is counted."""
        for fault in self.faults:
            if fault.times > 0 and method in fault.methods and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


class Reading(BaseHTTPRequestHandler):
    """Answers what is asked in order to read; `do_POST` and what else writes can be added by a class over it."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    fault: Fault | None = None

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.fault = self.hub.struck(self.command, path)
        if self.fault and self.fault.stall:
            time.sleep(self.fault.stall)
            self.close_connection = True
        elif self.fault and self.fault.status:
            named = {"X-Error-Code": self.fault.code} if self.fault.code else {}
            self.answer(self.fault.status, b"", {**named, **self.fault.headers})
        else:
            self.route(path, body)

    def route(self, path: str, body: bytes) -> None:
        """Answer one request for what is there."""
        if found := re.fullmatch(r"/stored/([0-9a-f]{64})/.*", path):
            return self._stored(found[1])
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1] or "models", found[2], found[3], found[4])
        if found := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+)(?:/(.*))?)?)?", path):
            kind, name, what, revision, below = found.groups()
            files, commit = self.hub.files(kind, name), self.hub.commit(revision or "main")
            if files is None or commit is None:
                return self.missing("RepoNotFound" if files is None else "RevisionNotFound")
            if what in (None, "revision"):
                return self.json(_described(name, files, commit))
            if what == "tree":
                deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
                return self.json(listed(files, below or "", deep))
            if what == "paths-info":
                return self.json(_looked_up(files, _paths(body, self.headers)))
            if what == "refs":
                branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in _refs(self)]
                return self.json({"branches": branches, "tags": [], "converts": []})
        return self.missing("RepoNotFound")

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        files, commit = self.hub.files(kind, name), self.hub.commit(revision)
        if files is None or commit is None:
            return self.missing("RepoNotFound" if files is None else "RevisionNotFound")
        if path not in files:
            return self.missing("EntryNotFound", {"X-Repo-Commit": commit})
        content, known = as_bytes(files[path]), {"X-Repo-Commit": commit}
        if not path.endswith(_LARGE):
            return self.content(content, {**known, "ETag": f'"{blob_id(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        where = f"{self.hub.store}/stored/{digest}/{kind}/{name}/{path}"
        return self.answer(302, b"", {**known, **linked, "Location": where})

    def _stored(self, digest: str) -> None:
        for files in [*self.hub.datasets.values(), *self.hub.models.values()]:
            for path, content in files.items():
                if path.endswith(_LARGE) and hashlib.sha256(as_bytes(content)).hexdigest() == digest:
                    return self.content(as_bytes(content), {"ETag": f'"{digest}"'})
        return self.missing("EntryNotFound")

    def content(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Answer with a file, or with the stretch of it that is asked for."""
        known = {**headers, "Accept-Ranges": "bytes"}
        if not (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            return self.answer(200, content, known)
        start, stop = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1) + 1
        if start >= len(content):
            return self.answer(416, b"", {**known, "Content-Range": f"bytes */{len(content)}"})
        return self.answer(
            206, content[start:stop], {**known, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        )

    def json(self, content: object) -> None:
        """Answer with JSON."""
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def missing(self, code: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer that there is no such thing; of a repository the Hub does not say whether it is there or private."""
        self.answer(401 if code == "RepoNotFound" else 404, b"", {"X-Error-Code": code, **(headers or {})})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer, and break off where a fault wants it."""
        path = unquote(urlsplit(self.path).path)
        cut = self.fault is not None and self.fault.cut is not None and len(body) > self.fault.cut
        self.hub.asked.append(Asked(self.command, path, self.headers.get("Range", ""), status, cut))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut is not None:
            body, self.close_connection = body[: self.fault.cut], True
        self.wfile.write(body)


@contextmanager
def served(hub: Hub, handler: type[Reading] = Reading) -> Iterator[Hub]:
    """Serves a hub while the context lasts; its `address` says where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (handler,), {"hub": hub}))
    hub.address, hub.store = (f"http://{name}:{server.server_port}" for name in ("127.0.0.1", "localhost"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def as_bytes(content: str | bytes) -> bytes:
    """A file's bytes."""
    return content.encode() if isinstance(content, str) else content


def blob_id(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listed(files: Files, folder: str, deep: bool) -> list[dict[str, Any]]:
    """What lies in a folder, or also below it, as the Hub lists it."""
    start = f"{folder}/" if folder else ""
    below = [path for path in files if path.startswith(start)]
    folders = dict.fromkeys(
        start + "/".join(parts[: depth + 1])
        for path in below
        for parts in [path.removeprefix(start).split("/")]
        for depth in range(len(parts) - 1)
        if deep or depth == 0
    )
    entries = [_folder(path) for path in folders]
    return entries + [_file(path, files[path]) for path in below if deep or "/" not in path.removeprefix(start)]


def _described(name: str, files: Files, commit: str) -> dict[str, Any]:
    known = {"id": name, "modelId": name, "sha": commit, "private": False, "gated": False, "disabled": False}
    return {**known, "tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in files]}


def _paths(body: bytes, headers: Any) -> list[str]:
    if "json" in headers.get("Content-Type", ""):
        found = json.loads(body)["paths"]
        return [found] if isinstance(found, str) else list(found)
    return parse_qs(body.decode()).get("paths", [])


def _looked_up(files: Files, paths: list[str]) -> list[dict[str, Any]]:
    found = [_file(path, files[path]) for path in paths if path in files]
    return found + [_folder(path) for path in paths if any(file.startswith(f"{path}/") for file in files)]


def _refs(handler: Reading) -> list[tuple[str, str]]:
    return list(handler.hub.refs.items())


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _file(path: str, text: str | bytes) -> dict[str, Any]:
    content = as_bytes(text)
    known = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if path.endswith(_LARGE):
        known["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return known
