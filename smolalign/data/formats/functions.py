"""Function-calling sets: APIGen and xLAM, Glaive v2, Seal-Tools."""

from __future__ import annotations

import json
import re
from typing import Any

from smolalign.data.formats.calls import parse_arguments, parse_calls, parse_tools
from smolalign.data.formats.fields import Converted, Record, list_of, text_of
from smolalign.data.formats.schemas import from_seal_tool, with_json_schema
from smolalign.data.strict_json import JsonProblem, parse, shorten
from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Role, Skip, ToolCall

_GLAIVE_TURN = re.compile(r"(?:\A|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_GLAIVE_CALL = re.compile(
    r"\A\s*\{\s*\"name\"\s*:\s*\"(?P<name>[^\"]+)\"\s*(?:,\s*\"arguments\"\s*:\s*(?P<arguments>.*?))?\s*\}\s*\Z",
    re.DOTALL,
)
_END_OF_TEXT = "<|endoftext|>"


def is_apigen(record: Record) -> bool:
    has_question = isinstance(record.get("query"), str) or isinstance(record.get("question"), str)
    return has_question and record.get("answers") is not None and "tools" in record


def from_apigen(record: Record) -> Converted:
    """Salesforce/xlam-function-calling-60k and argilla/Synth-APIGen-v0.1: `query`, `tools` and `answers` as JSON text.

    Answers "[]" say that no tool fits. Synth-APIGen also has answers in plain words ("The given question lacks …"),
    which become ordinary answers. Flat parameters become JSON schema. Raises UserError.
    """
    user = Message("user", text_of(record, "query", "question"))
    tools = tuple(with_json_schema(tool) for tool in parse_tools(record.get("tools")))
    answers = record["answers"]
    if isinstance(answers, str) and not answers.lstrip().startswith(("[", "{")):
        if not tools:
            # Such rows answer that there are no tools, which without a word of tools would be learnt as a refusal.
            return Skip("no tools and no calls")
        return Chat((user, Message("assistant", answers)), tools) if answers.strip() else Skip("empty answer")
    calls = parse_calls(answers, "answers")
    if not calls and not tools:
        return Skip("no tools and no calls")
    return Chat((user, Message("assistant", "", calls)), tools)


def is_seal_tools(record: Record) -> bool:
    return isinstance(record.get("query"), str) and isinstance(record.get("calling"), list)


def from_seal_tools(record: Record) -> Converted:
    """Seal-Tools: `query` and `calling` [{`api`, `parameters`, `responses`}], with the schemas in `tools` if the record
    has them. The published set has them in another file, which a source may name. Raises UserError."""
    calls = []
    for index, call in enumerate(list_of(record, "calling")):
        if not isinstance(call, dict) or not isinstance(call.get("api"), str):
            raise UserError(f"calling[{index}] must be an object with api and parameters, not {shorten(call)}")
        calls.append(ToolCall(call["api"], parse_arguments(call.get("parameters"), f"calling[{index}]: parameters")))
    if not calls:
        return Skip("no calls")
    tools = [from_seal_tool(tool) for tool in list_of(record, "tools")] if record.get("tools") else None
    return Chat((Message("user", text_of(record, "query")), Message("assistant", "", tuple(calls))), parse_tools(tools))


def is_glaive(record: Record) -> bool:
    return isinstance(record.get("chat"), str) and isinstance(record.get("system"), str)


def from_glaive(record: Record) -> Converted:
    """glaiveai/glaive-function-calling-v2: `system` (instructions and tool schemas) and `chat` as one transcript.

    The instruction that introduces the tools is left out, since the chat template introduces them; one without tools
    stays as the system turn. The published set has calls that are not valid JSON and transcripts out of order; they
    are skipped and counted.
    Raises UserError when there is no transcript at all.
    """
    system, tools = _glaive_system(text_of(record, "system"))
    before, *parts = _GLAIVE_TURN.split(text_of(record, "chat"))
    if before.strip() or not parts:
        raise UserError(f"chat does not start with USER: {shorten(record['chat'])}")
    if tools is None:
        return Skip("tool schemas are not JSON")
    messages = [Message("system", system)] if system and not tools else []
    roles: dict[str, Role] = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        text = text.replace(_END_OF_TEXT, "").strip()
        content, mark, call_text = text.partition("<functioncall>")
        if speaker != "ASSISTANT" or not mark:
            messages.append(Message(roles[speaker], text))
            continue
        call = _glaive_call(call_text)
        if call is None:
            return Skip("function call is not JSON")
        messages.append(Message("assistant", content.strip(), (call,)))
    if reason := _glaive_flaw(messages, tools):
        return Skip(reason)
    return Chat(tuple(messages), tools)


def _glaive_system(text: str) -> tuple[str, tuple[dict[str, Any], ...] | None]:
    """The instruction, and the tool schemas: JSON objects one after the other. `None` when they are broken."""
    text = text.strip().removeprefix("SYSTEM:").strip()
    start = text.find("{")
    if start < 0:
        return text, ()
    instruction, rest = text[:start].strip(), text[start:]
    tools = []
    decoder = json.JSONDecoder()
    while rest:
        try:
            _, end = decoder.raw_decode(rest)
            tools.append(parse(rest[:end]))
        except (json.JSONDecodeError, JsonProblem):
            return instruction, None
        rest = rest[end:].lstrip(" \n\t,-")
    return instruction, parse_tools(tools, "system")


def _glaive_call(text: str) -> ToolCall | None:
    """`{"name": "f", "arguments": '{"a": 1}'}`: JSON but for the single quotes around the arguments."""
    found = _GLAIVE_CALL.match(text)
    if not found:
        return None
    arguments = found["arguments"] or ""
    if len(arguments) >= 2 and arguments[0] == arguments[-1] == "'":
        # Inside these quotes an apostrophe is written \', which JSON does not know.
        arguments = arguments[1:-1].replace("\\'", "'")
    try:
        value = parse(arguments) if arguments.strip() else {}
        value = parse(value) if isinstance(value, str) else value
    except JsonProblem:
        return None
    return ToolCall(found["name"], value) if isinstance(value, dict) else None


def _glaive_flaw(messages: list[Message], tools: tuple[dict[str, Any], ...]) -> str:
    """Why a transcript cannot be used, or an empty string."""
    if messages[-1].role != "assistant":
        return "does not end with an assistant turn"
    offered = {tool["name"] for tool in tools}
    for message, after in zip(messages, [*messages[1:], None], strict=True):
        if not message.content and not message.tool_calls and message.role != "tool":
            return "empty turn"
        if any(call.name not in offered for call in message.tool_calls or ()):
            return "calls a tool that is not offered"
        follows = {"system": ("user",), "user": ("assistant",), "tool": ("tool", "assistant")}
        allowed = follows.get(message.role, ("user", "tool") if message.tool_calls else ("user",))
        if after is not None and after.role not in allowed:
            return "turns do not alternate"
    return ""
