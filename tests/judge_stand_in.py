"""A stand-in for an OpenAI-compatible endpoint on the loopback, which judges as it is told and fails as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What is answered in place of a judgement: a status with a body, or a connection that is cut."""

    status: int = 500
    body: str = '{"error": {"message": "out of order"}}'
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


CUT = Fault(cut=True)


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Fault:
    """An error as OpenAI's API writes it."""
    body = json.dumps({"error": {"message": message, "type": "x", "code": code}})
    return Fault(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class StandIn:
    """A judge at work.

    Attributes:
        url: what a recipe names.
        bodies: of the requests that it got, in order.
        keys: what each had as its authorization.
        most: the most requests that it had at once.
        seconds: how long it takes to answer.
        at: the moments at which requests came.
    """

    says: Callable[[str], str]
    faults: list[Fault]
    seconds: float = 0.0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    most: int = 0
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self) -> list[str]:
        """The user's turn of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def judging(
    says: Callable[[str], str] = lambda asked: "Rating: [[5]]", faults: Sequence[Fault] = (), seconds: float = 0.0
) -> Iterator[StandIn]:
    """A judge while the context lasts.

    Args:
        says: what it answers to a user's turn.
        faults: what it does to the first requests, one each.
        seconds: that it takes.
    """
    judge = StandIn(says, list(faults), seconds)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(200, json.dumps({"object": "list", "data": []}), {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                judge.bodies.append(body)
                judge.keys.append(self.headers.get("Authorization"))
                judge.at.append(time.monotonic())
                fault = judge.faults.pop(0) if judge.faults else None
                judge.running += 1
                judge.most = max(judge.most, judge.running)
            time.sleep(judge.seconds)
            with judge.lock:
                judge.running -= 1
            if fault is not None and fault.cut:
                self.close_connection = True
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
            elif fault is not None:
                self._answer(fault.status, fault.body, fault.headers)
            else:
                message = {"role": "assistant", "content": judge.says(body["messages"][-1]["content"])}
                answer = {"model": f"{body['model']}-today", "choices": [{"index": 0, "message": message}]}
                answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 3}
                self._answer(200, json.dumps(answer), {"Content-Type": "application/json"})

        def _answer(self, status: int, body: str, headers: Mapping[str, str]) -> None:
            content = body.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            # Who gave up waiting does not read it.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
