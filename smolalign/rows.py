"""The plain types that data takes through the program. Standard library only.

Every source format becomes one of three rows: a `Document` (pretraining text), a `Chat` (one conversation) or a
`Pair` (two answers to one prompt). Everything after `smolalign.data` knows only these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call of an assistant turn; `arguments` is a JSON object, already parsed."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    `tool_calls` is `None` for an ordinary turn. On an assistant turn it is a tuple of calls; the empty tuple says
    that the assistant looked at its tools and none fits, which SmolLM2's protocol writes as an empty list.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A text to pretrain on. `origin` says where it was read, such as `notes.jsonl:12`."""

    text: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, with the JSON schemas (`{"name", "description", "parameters"}`) of the tools it may call."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt (its last turn is not the assistant's) and a better and a worse assistant turn that answer it."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: tuple[dict[str, Any], ...] = ()
    score_chosen: float | None = None
    score_rejected: float | None = None
    origin: str = ""


Row = Document | Chat | Pair
RowKind = Literal["document", "chat", "pair"]


@dataclass(frozen=True, slots=True)
class Skip:
    """A well-formed record that cannot become a row, such as a tie between two answers. Counted by `reason`."""

    reason: str


def message_to_openai(message: Message) -> dict[str, Any]:
    """The turn as an OpenAI-style dict, which is what chat templates read; call arguments stay objects."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls is not None:
        out["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return out


def tool_to_openai(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The tool schema in OpenAI's wrapping, `{"type": "function", "function": schema}`."""
    return {"type": "function", "function": dict(schema)}
