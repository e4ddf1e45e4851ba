"""A stand-in for the part of the Hugging Face Hub that is written to, on the loopback: whoami, repos and branches,
`preupload`, LFS and Xet, commits; with faults on demand. What was pushed can be read back from it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow
import yaml

TOKEN = "hf_" + "w" * 32
READ_TOKEN = "hf_" + "r" * 32
# The only owner whose repos the token may write to.
OWNER = "ada"
# The Hub stores these as LFS whatever their size.
_LFS = (".safetensors", ".bin")


@dataclass
class Fault:
    """What happens to requests of a method whose path a pattern is found in, so many times: a status, or `cut`, which
    reads half of the body and closes the connection."""

    method: str
    path: str
    what: int | str
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    """Commit of each branch."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of each commit, by path."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Header of each commit that was pushed, with the paths that it added and deleted."""

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Hub:
    """The state of the stand-in, and how to ask it for trouble."""

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    """Contents that arrived, by SHA-256."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def repo(self, name: str, files: Mapping[str, bytes] | None = None, *, private: bool = False) -> Repo:
        """A repo that is there already."""
        made = self.repos[name] = Repo(private)
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        return made

    def asked(self, pattern: str) -> int:
        """How many requests match a pattern, such as `PUT /lfs`."""
        return sum(re.search(pattern, request) is not None for request in self.requests)


@contextmanager
def hub_to_write() -> Iterator[Hub]:
    """Serves an empty Hub while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    do_GET = do_POST = do_PUT = do_HEAD

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = next(
            (f for f in self.hub.faults if f.times and f.method == self.command and re.search(f.path, path)), None
        )
        length = int(self.headers.get("Content-Length") or 0)
        if fault:
            fault.times -= 1
        if fault and fault.what == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self._body(length)
        if fault:
            self._say(int(fault.what), {"error": "as the test wants it"}, fault.headers)
            return
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}".replace("HEAD ", "GET ")):
                answer(self, body, *found.groups())
                return
        self._say(404, {"error": "no such route"})

    def _body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self, repo: str | None = None, *, write: bool = True) -> bool:
        """Answers where the token is none, or may not do this; False where it may."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            self._say(401, {"error": "Invalid username or password."})
        elif write and (token == READ_TOKEN or (repo is not None and repo.split("/")[0] != OWNER)):
            self._say(403, {"error": "You don't have the rights to write to this repo."})
        else:
            return False
        return True

    def _found(self, repo: str, revision: str = "main") -> Repo | None:
        """The repo; None, and an answer, where it or the revision is not there."""
        found = self.hub.repos.get(repo)
        if found is None:
            self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in found.branches and revision not in found.commits:
            self._say(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            return found
        return None

    def whoami(self, body: bytes) -> None:
        if not self._refused(write=False):
            role = "read" if READ_TOKEN in self.headers["Authorization"] else "write"
            self._say(200, {"name": OWNER, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if self._refused(name):
            return
        if name in self.hub.repos:
            self._say(409, {"error": "You already created this model repo"})
            return
        self.hub.repo(name, private=asked.get("visibility") == "private")
        self._say(200, {"url": f"{self.hub.address}/{name}"})

    def info(self, body: bytes, repo: str, revision: str | None) -> None:
        if found := self._found(repo, revision or "main"):
            files = found.files(revision or "main")
            listed = [{"rfilename": name} for name in files]
            sha = found.branches.get(revision or "main", revision)
            self._say(200, {"id": repo, "sha": sha, "private": found.private, "siblings": listed, "tags": []})

    def branch(self, body: bytes, repo: str, name: str) -> None:
        if not self._refused(repo) and (found := self._found(repo)):
            found.branches[name] = found.branches["main"]
            self._say(200, {})

    def validate(self, body: bytes) -> None:
        """As the Hub: the block of YAML must be one, and `model-index` must have what the specification requires."""
        block = re.match(r"^\s*---\n([\S\s]*?)\n---[ \t]*(\n|$)", json.loads(body)["content"])
        try:
            data = yaml.safe_load(block[1]) if block else {}
            for model in data.get("model-index", []):
                assert model["name"]
                for result in model["results"]:
                    assert all([result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]])
                    assert all("value" in metric and metric["type"] for metric in result["metrics"])
        except (yaml.YAMLError, KeyError, AssertionError) as error:
            self._say(400, {"errors": [{"message": repr(error)}], "warnings": []})
            return
        self._say(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if self._refused(repo) or not (found := self._found(repo, revision)):
            return
        answered = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(_LFS) else "regular"
            there = found.files(revision).get(file["path"])
            oid = None if there is None else _sha256(there) if mode == "lfs" else _git_hash(there)
            answered.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._say(200, {"files": answered})

    def batch(self, body: bytes, repo: str) -> None:
        if self._refused(repo) or not self._found(repo):
            return
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}
            objects.append({**one, **({} if one["oid"] in self.hub.lfs else {"actions": upload})})
        self._say(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if _sha256(body) != oid:
            self._say(400, {"error": "not what was announced"})
            return
        self.hub.lfs[oid] = body
        self._say(200, {})

    def xet_token(self, body: bytes, repo: str, revision: str) -> None:
        if not self._refused(repo):
            self._say(200, {"casUrl": self.hub.address, "exp": 2**33, "accessToken": "xet"})

    def xorb(self, body: bytes, digest: str) -> None:
        """Of Xet's uploads only those are understood that hold one file, in its order."""
        content = b"".join(_chunks(body))
        self.hub.lfs[_sha256(content)] = content
        self._say(200, {"was_inserted": True})

    def shard(self, body: bytes) -> None:
        self._say(200, {"result": 1})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if self._refused(repo) or not (found := self._found(repo, revision)):
            return
        header, *operations = [json.loads(line) for line in body.decode().splitlines()]
        if header["value"].get("parentCommit") not in (None, found.branches[revision]):
            self._say(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(found.files(revision))
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            else:
                del files[value["path"]]
        changed = [(operation["key"], operation["value"]["path"]) for operation in operations]
        found.log.append({**header["value"], "changed": changed, "branch": revision})
        oid = found.commit(revision, files)
        url = f"{self.hub.address}/{repo}/commit/{oid}"
        self._say(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def resolve(self, body: bytes, repo: str, revision: str, name: str) -> None:
        if not (found := self._found(repo, revision)):
            return
        commit = found.branches.get(revision, revision)
        content = found.files(revision).get(name)
        if content is None:
            self._say(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self._say(200, content, {"X-Repo-Commit": commit, "ETag": f'"{_sha256(content)}"'})

    def tree(self, body: bytes, repo: str, revision: str, folder: str | None) -> None:
        if found := self._found(repo, revision):
            start = f"{folder}/" if folder else ""
            names = [name for name in found.files(revision) if name.startswith(start)]
            sizes = {name: len(found.files(revision)[name]) for name in names}
            self._say(200, [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in sizes.items()])

    def paths(self, body: bytes, repo: str, revision: str) -> None:
        """Size and digests of files that are named: git's own, and SHA-256 of those in LFS."""
        if found := self._found(repo, revision):
            answered = []
            for name in parse_qs(body.decode()).get("paths", []):
                if (content := found.files(revision).get(name)) is not None:
                    lfs = {"size": len(content), "oid": _sha256(content), "pointerSize": 135}
                    named = {"lfs": lfs} if name.endswith(_LFS) else {}
                    about = {"path": name, "size": len(content), "oid": _git_hash(content), **named}
                    answered.append({"type": "file", **about})
            self._say(200, answered)


_REPO = r"([^/]+/[^/]+)"
_ROUTES = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_REPO}/preupload/(.+)", _Handler.preupload),
    (rf"POST /api/models/{_REPO}/commit/(.+)", _Handler.commit),
    (rf"POST /api/models/{_REPO}/branch/(.+)", _Handler.branch),
    (rf"POST /api/models/{_REPO}/paths-info/(.+)", _Handler.paths),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/([0-9a-f]{64})", _Handler.put),
    (rf"GET /api/models/{_REPO}/xet-write-token/(.+)", _Handler.xet_token),
    (r"POST /v1/xorbs/default/([0-9a-f]{64})", _Handler.xorb),
    (r"POST /v1/shards", _Handler.shard),
    (rf"GET /api/models/{_REPO}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    (rf"GET /api/models/{_REPO}(?:/revision/(.+))?", _Handler.info),
    (rf"GET /{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def _chunks(xorb: bytes) -> Iterator[bytes]:
    """The chunks of a xorb, Xet's unit of upload (huggingface/xet-core): each a header of 8 bytes (version, length as
    sent, scheme, length) and its content: as it is, as a frame of LZ4, or so with every fourth byte together."""
    place = 0
    while xorb[place : place + 7] != b"XETBLOB" and place < len(xorb):
        sent, scheme = int.from_bytes(xorb[place + 1 : place + 4], "little"), xorb[place + 4]
        length = int.from_bytes(xorb[place + 5 : place + 8], "little")
        part = xorb[place + 8 : place + 8 + sent]
        content = bytearray(part if scheme == 0 else pyarrow.decompress(part, length, codec="lz4", asbytes=True))
        if scheme == 2:
            grouped, start = bytes(content), 0
            for remainder in range(4):
                count = len(range(remainder, length, 4))
                content[remainder::4] = grouped[start : start + count]
                start += count
        yield bytes(content)
        place += 8 + sent


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
