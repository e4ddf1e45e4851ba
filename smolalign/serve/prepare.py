"""Requests to prompts: messages and tools rendered by the model's chat template, limits held, grammars made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError

from smolalign.chat import grammar
from smolalign.chat.render import render_prompt, render_text
from smolalign.data.formats.calls import parse_tools
from smolalign.data.formats.turns import parse_turns
from smolalign.errors import UserError
from smolalign.rows import Message
from smolalign.serve.protocol import ChatRequest, CompletionRequest, NamedTool, Request, ResponseFormat, invalid
from smolalign.serve.row import Ask
from smolalign.serve.sampling import Sampling

Tools = tuple[dict[str, Any], ...]
# Makes a fresh logits processor, one for each answer, since it follows what that answer says.
NewConstraint = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What to compute for a request: `choices` asks for each prompt, one after the other, and the tools on offer."""

    asks: tuple[Ask, ...]
    choices: int
    tools: Tools = ()

    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once however many answers it gets."""
        return sum(len(ask.prompt) for ask in self.asks[:: self.choices])


class Preparer:
    """Makes prompts of requests, one at a time.

    Args:
        tokenizer: of the model; used by one thread at a time.
        context: the longest prompt with its answer that the model takes, in tokens.
        max_tokens: the longest answer that may be asked for, in tokens.
        places: answers that the server can hold at once, waiting ones included.
    """

    def __init__(self, tokenizer: Any, *, context: int, max_tokens: int, places: int) -> None:
        self._tokenizer, self._context, self._max_tokens, self._places = tokenizer, context, max_tokens, places

    def chat(self, request: ChatRequest) -> Prepared:
        """Raises ApiError where the request cannot be met."""
        if not self._tokenizer.chat_template:
            raise invalid("the model has no chat template; use /v1/completions", "messages")
        tools = _tools(request)
        messages = _messages(request, bool(tools))
        if request.top_logprobs and not request.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        prompt = self._rendered(messages, tools)
        limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        top = (request.top_logprobs or 0) if request.logprobs else None
        ask = self._ask(request, prompt, limit, least=1, top=top)
        return self._several([ask], request, self._constraint(request, tools), tools)

    def completion(self, request: CompletionRequest) -> Prepared:
        """Raises ApiError where the request cannot be met."""
        echo, top = bool(request.echo), request.logprobs
        # OpenAI's default for this endpoint.
        limit = 16 if request.max_tokens is None else request.max_tokens
        asks = [
            replace(
                self._ask(request, prompt, limit, least=0 if echo else 1, top=top),
                score_prompt=echo and top is not None,
            )
            for prompt in self._prompts(request.prompt)
        ]
        return self._several(asks, request, None)

    def _several(
        self, asks: Sequence[Ask], request: Request, constraint: NewConstraint | None, tools: Tools = ()
    ) -> Prepared:
        choices = request.n or 1
        if len(asks) * choices > self._places:
            what = f"{len(asks) * choices} answers in one request; this server holds {self._places} at once"
            raise invalid(what, "n" if choices > 1 else "prompt")
        all_asks = tuple(
            replace(
                ask,
                sampling=_reseeded(ask.sampling, index),
                constraint=constraint() if constraint is not None else None,
            )
            for ask in asks
            for index in range(choices)
        )
        return Prepared(all_asks, choices, tools)

    def _ask(self, request: Request, prompt: Sequence[int], limit: int | None, *, least: int, top: int | None) -> Ask:
        if not prompt:
            raise invalid("the prompt has no tokens", "prompt")
        name = "max_completion_tokens" if getattr(request, "max_completion_tokens", None) is not None else "max_tokens"
        if limit is not None and limit < least:
            raise invalid(f"{name} must be at least {least}", name)
        if limit is not None and limit > self._max_tokens:
            raise invalid(f"{name} is too large: {limit}; this server allows {self._max_tokens}", name)
        room = self._context - len(prompt)
        if room < max(limit or 0, least):
            asked = f" and {limit} for the answer" if limit else ""
            what = f"the model's context is {self._context} tokens; the prompt takes {len(prompt)}{asked}"
            param = "messages" if isinstance(request, ChatRequest) else "prompt"
            raise invalid(what, param, "context_length_exceeded")
        longest = min(room, self._max_tokens) if limit is None else limit
        return Ask(tuple(prompt), longest, self._sampling(request), request.stops(), top)

    def _sampling(self, request: Request) -> Sampling:
        size = len(self._tokenizer)
        bias = request.logit_bias or {}
        if unknown := [token for token in bias if not 0 <= token < size]:
            raise invalid(f"logit_bias: {unknown[0]} is no token of the model", "logit_bias")
        given = {
            name: value
            for name in ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
            if (value := getattr(request, name)) is not None
        }
        return Sampling(**given, bias=bias)

    def _rendered(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        try:
            prompt = render_prompt(self._tokenizer, messages, tools)
            if tools and render_text(self._tokenizer, messages, tools) == render_text(self._tokenizer, messages):
                raise invalid("the model's chat template does not show tools", "tools")
        except (TemplateError, TypeError, ValueError, RecursionError) as error:
            # Some templates refuse what they were not made for, such as two user turns in a row.
            raise invalid(f"the model's chat template refuses these messages: {error}", "messages") from None
        return prompt

    def _prompts(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
        """Token ids of one or several prompts, given as text or as token ids."""
        if isinstance(prompt, str):
            return [self._tokenizer(prompt)["input_ids"]]
        if not prompt:
            raise invalid("prompt is empty", "prompt")
        if all(isinstance(one, str) for one in prompt):
            return [self._tokenizer(one)["input_ids"] for one in prompt]
        rows: Any = [prompt] if isinstance(prompt[0], int) else prompt
        if any(not 0 <= token < len(self._tokenizer) for row in rows for token in row):
            raise invalid("prompt: a number that is no token of the model", "prompt")
        return rows

    def _constraint(self, request: ChatRequest, tools: Tools) -> NewConstraint | None:
        """What holds the answer to calls or to JSON, where that is asked for."""
        asked = request.response_format
        try:
            if asked is not None and asked.type != "text":
                if tools:
                    raise invalid("response_format with tools needs tool_choice: none", "response_format")
                made = grammar.json_schema(_schema(asked))
            elif _must_call(request) or _strict(request, tools):
                required = _must_call(request)
                made = grammar.tool_calls(tools, required=required, dialect=grammar.dialect_of(self._tokenizer))
            else:
                return None
            made.processor(self._tokenizer)  # refuses a tokenizer here that it cannot read
        except UserError as error:
            raise invalid(error.line(), "response_format" if asked else "tools") from None
        return lambda: made.processor(self._tokenizer)


def _tools(request: ChatRequest) -> Tools:
    """The tools that the model is shown: all, the one that `tool_choice` names, or none."""
    choice = request.tool_choice
    try:
        tools = parse_tools([tool.function for tool in request.tools or []])
    except UserError as error:
        raise invalid(error.line(), "tools") from None
    names = [tool["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise invalid("two tools have the same name", "tools")
    if choice not in (None, "none", "auto") and not tools:
        raise invalid("tool_choice needs tools", "tool_choice")
    if isinstance(choice, NamedTool):
        if choice.function.name not in names:
            raise invalid(f"tool_choice: no tool is named {choice.function.name!r}", "tool_choice")
        return tuple(tool for tool in tools if tool["name"] == choice.function.name)
    return () if choice == "none" else tools


def _must_call(request: ChatRequest) -> bool:
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool)


def _strict(request: ChatRequest, tools: Tools) -> bool:
    """Whether a tool is marked `strict`, which OpenAI says makes its calls follow its schema."""
    return bool(tools) and any(tool.function.get("strict") for tool in request.tools or [])


def _schema(asked: ResponseFormat) -> dict[str, Any]:
    if asked.type == "json_object":
        return {"type": "object"}
    if asked.json_schema is None:
        raise invalid("response_format of type json_schema needs json_schema", "response_format")
    return asked.json_schema.schema_


def _messages(request: ChatRequest, has_tools: bool) -> tuple[Message, ...]:
    try:
        messages = parse_turns([_with_text(message) for message in request.messages], "messages", has_tools=has_tools)
    except UserError as error:
        raise invalid(error.line(), "messages") from None
    if not messages:
        raise invalid("messages say nothing", "messages")
    return messages


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its refusals as text. Raises ApiError where it has parts that are neither."""
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            raise invalid(f"content part of type {kind!r}: the model reads text only", "messages")
        texts.append({"type": "text", "text": part.get("refusal")} if kind == "refusal" else part)
    return {**message, "content": texts}


def _reseeded(sampling: Sampling, index: int) -> Sampling:
    """The sampling of the index-th answer to one prompt: with one and the same seed all would be alike."""
    return sampling if sampling.seed is None or index == 0 else replace(sampling, seed=sampling.seed + index)
