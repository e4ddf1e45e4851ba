"""Answers as they are made: server-sent events with OpenAI's chunks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from smolalign.serve.answer import Answer, Gathered, TextBeforeCalls, call_to_openai, read_answer
from smolalign.serve.protocol import ApiError, ChatRequest, CompletionRequest, invalid
from smolalign.serve.replies import Envelope, usage
from smolalign.serve.row import Piece, Scored

Pieces = AsyncIterator[tuple[int, Piece]]
DONE = "data: [DONE]\n\n"


class Inbox:
    """Pieces of several answers on their way from the engine's thread to a request's coroutine.

    Args:
        count: how many answers there are.
    """

    def __init__(self, count: int) -> None:
        self._loop, self._queue, self._open = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece]](), count

    def put(self, index: int, piece: Piece) -> None:
        """Called in the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))

    async def pieces(self) -> Pieces:
        """Every piece with its answer's index, until all answers have ended.

        Raises:
            ApiError: an answer could not be made.
        """
        while self._open:
            index, piece = await self._queue.get()
            # Where several wait, `get` does not let the loop go on, which would not learn of a client that hung up.
            await asyncio.sleep(0)
            if piece.error is not None:
                raise invalid(piece.error) if piece.refused else ApiError(500, piece.error)
            self._open -= piece.finish is not None
            yield index, piece


async def gather(pieces: Pieces, count: int) -> list[Gathered]:
    """All answers, whole. Raises ApiError."""
    answers = [Gathered() for _ in range(count)]
    async for index, piece in pieces:
        answers[index].add(piece)
    return answers


class ChatStream:
    """The chunks of a chat completion; calls come whole, when their answer has ended."""

    def __init__(self, request: ChatRequest, envelope: Envelope, tools: Sequence[dict[str, Any]], count: int) -> None:
        self.request, self._envelope, self._tools = request, envelope, tools
        self._answers = [Gathered() for _ in range(count)]
        self._shown = [TextBeforeCalls(tools=bool(tools)) for _ in range(count)]

    def opening(self) -> list[dict[str, Any]]:
        """The first chunk of each answer."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._choice(index, delta) for index in range(len(self._answers))]

    def chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to an answer."""
        gathered = self._answers[index]
        gathered.add(piece)
        out = []
        if (text := self._shown[index].add(piece.text)) or piece.tokens:
            out.append(self._choice(index, {"content": text}, piece.tokens))
        if piece.finish is not None:
            parallel = self.request.parallel_tool_calls is not False
            answer = read_answer(gathered.text, piece.finish, self._tools, parallel)
            out += self._ending(index, answer)
        return out

    def _ending(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        rest = self._shown[index].rest(answer)
        deltas: list[dict[str, Any]] = [{"content": rest}] if rest else []
        deltas += [{"tool_calls": [{"index": i, **call_to_openai(call)}]} for i, call in enumerate(answer.calls)]
        return [*(self._choice(index, delta) for delta in deltas), self._choice(index, {}, finish=answer.finish)]

    def _choice(
        self, index: int, delta: dict[str, Any], tokens: Sequence[Scored] = (), finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._envelope.chat_logprobs(tokens) if self.request.logprobs and tokens else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def written(self) -> int:
        """Tokens of all answers so far."""
        return sum(answer.written for answer in self._answers)


class TextStream:
    """The chunks of a text completion; `echoes` are the prompts that answers begin with, empty where none was asked."""

    def __init__(self, request: CompletionRequest, envelope: Envelope, echoes: Sequence[str]) -> None:
        self.request, self._envelope, self._echoes = request, envelope, echoes
        self._written = [0] * len(echoes)
        self._lengths = [len(echo) for echo in echoes]

    def opening(self) -> list[dict[str, Any]]:
        """The first chunk of each answer that begins with its prompt."""
        return [self._choice(index, echo) for index, echo in enumerate(self._echoes) if echo]

    def chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to an answer."""
        self._written[index] = max(self._written[index], piece.written)
        choice = self._choice(index, piece.text, (*piece.prompt, *piece.tokens), piece.finish)
        self._lengths[index] += len(piece.text)
        return [choice]

    def _choice(
        self, index: int, text: str, tokens: Sequence[Scored] = (), finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = None
        if self.request.logprobs is not None and tokens:
            # The tokens of a prompt come in one piece, without text of their own: it was the first chunk's.
            prompt = tokens[0].logprob is None
            logprobs = self._envelope.text_logprobs(tokens, 0 if prompt else self._lengths[index])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def written(self) -> int:
        """Tokens of all answers so far."""
        return sum(self._written)


async def events(
    stream: ChatStream | TextStream, envelope: Envelope, pieces: Pieces, prompt_tokens: int, free: Callable[[], None]
) -> AsyncIterator[str]:
    """Server-sent events of a stream, to the last; `free` is called however it ends."""
    include = stream.request.include_usage()
    more = {"usage": None} if include else {}
    try:
        for choice in stream.opening():
            yield _event(envelope.chunk([choice], **more))
        async for index, piece in pieces:
            for choice in stream.chunks(index, piece):
                yield _event(envelope.chunk([choice], **more))
        if include:
            yield _event(envelope.chunk([], usage=usage(prompt_tokens, stream.written())))
        yield DONE
    except ApiError as error:
        # The status is sent by now; clients look for this in the stream.
        yield _event(error.body())
    finally:
        free()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
