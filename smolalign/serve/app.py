"""The HTTP side: paths, keys, limits, and clients that hang up."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from smolalign.data.strict_json import JsonProblem, parse
from smolalign.serve.answer import Gathered, read_answer
from smolalign.serve.engine import Busy, Engine
from smolalign.serve.prepare import Prepared, Preparer
from smolalign.serve.protocol import ApiError, ChatRequest, CompletionRequest, invalid, read_body
from smolalign.serve.replies import Envelope, usage
from smolalign.serve.row import Job
from smolalign.serve.streams import ChatStream, Inbox, TextStream, events, gather

# What nginx logs for a client that hung up; nobody reads it.
HUNG_UP = 499
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Served:
    """What the server answers with: the engine, what makes its prompts, and what clients are held to."""

    name: str
    engine: Engine
    preparer: Preparer
    tokenizer: Any
    api_key: str | None
    max_body: int  # bytes


def build(served: Served) -> Starlette:
    """The application. It starts the engine and stops it."""
    api = Api(served)
    routes = [
        Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
        Route("/v1/completions", api.guarded(api.completion), methods=["POST"]),
        Route("/v1/models", api.guarded(api.models)),
        Route("/v1/models/{name:path}", api.guarded(api.model)),
        Route("/health", api.health),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        served.engine.start()
        yield
        await asyncio.to_thread(served.engine.stop)

    handlers: Any = {
        ApiError: _api_error,
        HTTPException: _http_error,
        ClientDisconnect: _hung_up,
        Exception: _broken,
    }
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class Api:
    """The handlers of the paths."""

    def __init__(self, served: Served) -> None:
        self._served, self._began = served, int(time.time())
        # One thread, since a tokenizer may not be used by two at once.
        self._preparing = ThreadPoolExecutor(1, "prepare")

    def guarded(self, handler: Handler) -> Handler:
        """The handler behind the API key, where there is one."""

        async def checked(request: Request) -> Response:
            key = self._served.api_key
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if key is not None and not hmac.compare_digest(given.encode("latin-1"), key.encode()):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
            return await handler(request)

        return checked

    async def health(self, _request: Request) -> Response:
        """Whether answers can be made, and the engine's load."""
        alive = self._served.engine.alive()
        content = {"status": "ok" if alive else "failed", **dataclasses.asdict(self._served.engine.load())}
        return JSONResponse(content, 200 if alive else 503)

    async def models(self, _request: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The one model by its name."""
        self._require_model(request.path_params["name"])
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response:
        """A chat completion."""
        body = read_body(ChatRequest, await self._json(request))
        self._require_model(body.model)
        prepared = await self._prepared(self._served.preparer.chat, body)
        envelope = Envelope(self._served.name, chat=True, tokenizer=self._served.tokenizer)
        parallel = body.parallel_tool_calls is not False

        def choice(index: int, one: Gathered) -> dict[str, Any]:
            read = read_answer(one.text, one.finish or "stop", prepared.tools, parallel)
            return envelope.chat_choice(index, read, envelope.chat_logprobs(one.tokens) if body.logprobs else None)

        stream = ChatStream(body, envelope, prepared.tools, len(prepared.asks)) if body.stream else None
        return await self._reply(request, prepared, envelope, stream, choice)

    async def completion(self, request: Request) -> Response:
        """A text completion."""
        body = read_body(CompletionRequest, await self._json(request))
        self._require_model(body.model)
        prepared = await self._prepared(self._served.preparer.completion, body)
        envelope = Envelope(self._served.name, chat=False, tokenizer=self._served.tokenizer)
        decode = self._served.tokenizer.decode
        echoes = [decode(ask.prompt, skip_special_tokens=True) if body.echo else "" for ask in prepared.asks]

        def choice(index: int, one: Gathered) -> dict[str, Any]:
            start = 0 if one.prompt else len(echoes[index])
            scores = None if body.logprobs is None else envelope.text_logprobs([*one.prompt, *one.tokens], start)
            text = echoes[index] + one.text
            return {"index": index, "text": text, "logprobs": scores, "finish_reason": one.finish}

        stream = TextStream(body, envelope, echoes) if body.stream else None
        return await self._reply(request, prepared, envelope, stream, choice)

    async def _reply(
        self,
        request: Request,
        prepared: Prepared,
        envelope: Envelope,
        stream: ChatStream | TextStream | None,
        choice: Callable[[int, Gathered], dict[str, Any]],
    ) -> Response:
        """Has the answers made: as events where there is a stream, else each as a choice of one whole answer."""
        inbox, jobs = self._submit(prepared)
        if stream is not None:
            return _Stream(events(stream, envelope, inbox.pieces(), prepared.prompt_tokens(), _freeing(jobs)), jobs)
        answers = await _unless_hung_up(request, gather(inbox.pieces(), len(jobs)), jobs)
        if answers is None:
            return Response(status_code=HUNG_UP)
        choices = [choice(index, one) for index, one in enumerate(answers)]
        return JSONResponse(envelope.whole(choices, _used(prepared, answers)))

    def _model(self) -> dict[str, Any]:
        return {"id": self._served.name, "object": "model", "created": self._began, "owned_by": "smolalign"}

    def _require_model(self, name: str | None) -> None:
        if name not in (None, self._served.name):
            what = f"there is no model {name!r} here; this server has {self._served.name!r}"
            raise ApiError(404, what, param="model", code="model_not_found")

    async def _json(self, request: Request) -> Any:
        """The body, of which no more is read than is allowed."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A page in a browser can send other types to any server without asking it first.
            raise ApiError(415, "the body must be JSON, with Content-Type: application/json")
        limit = self._served.max_body
        length = request.headers.get("content-length", "")
        content = bytearray()
        if not (length.isdecimal() and int(length) > limit):
            async for part in request.stream():
                content += part
                if len(content) > limit:
                    break
            else:
                try:
                    return parse(content.decode())
                except UnicodeDecodeError:
                    raise invalid("the body is not UTF-8") from None
                except JsonProblem as problem:
                    raise invalid(f"the body is not JSON: {problem.what}") from None
        raise ApiError(413, f"the body is larger than {limit} bytes")

    async def _prepared(self, prepare: Callable[[Any], Prepared], body: Any) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._preparing, prepare, body)

    def _submit(self, prepared: Prepared) -> tuple[Inbox, list[Job]]:
        inbox = Inbox(len(prepared.asks))
        try:
            return inbox, self._served.engine.submit(prepared.asks, inbox.put)
        except Busy:
            raise ApiError(429, "all places are taken; try again later", code="rate_limit_exceeded") from None


class _Stream(StreamingResponse):
    """Server-sent events; however it ends, even before it began, its jobs' places are free."""

    def __init__(self, content: AsyncIterator[str], jobs: list[Job]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._free = _freeing(jobs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._free()


async def _unless_hung_up(
    request: Request, answers: Awaitable[list[Gathered]], jobs: list[Job]
) -> list[Gathered] | None:
    """The answers, or None as soon as the client has hung up; its jobs' places are free then."""
    made, gone = asyncio.ensure_future(answers), asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({made, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await made if made.done() else None
    finally:
        made.cancel()
        gone.cancel()
        _freeing(jobs)()


async def _hang_up(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _freeing(jobs: list[Job]) -> Callable[[], None]:
    def free() -> None:
        for job in jobs:
            job.cancel()

    return free


def _used(prepared: Prepared, answers: list[Gathered]) -> dict[str, int]:
    return usage(prepared.prompt_tokens(), sum(one.written for one in answers))


async def _api_error(_request: Request, error: ApiError) -> Response:
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


async def _http_error(_request: Request, error: HTTPException) -> Response:
    """No such path, or a path with another method."""
    return JSONResponse(ApiError(error.status_code, error.detail).body(), error.status_code, error.headers)


async def _hung_up(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=HUNG_UP)


async def _broken(_request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, f"{type(error).__name__}: {error}").body(), 500)
