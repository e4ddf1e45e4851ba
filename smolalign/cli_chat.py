"""`smolalign chat` and `smolalign serve` on the command line."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class ToolChoice(enum.StrEnum):
    """Whether a reply may be a call, or must be."""

    auto = "auto"
    required = "required"


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model or adapter folder, a .gguf file or a Hub id.")],
    tools: Annotated[
        Path | None, typer.Option("--tools", help="A Python file whose functions are tools, or JSON of tool schemas.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System turn.")] = None,
    schema: Annotated[
        Path | None, typer.Option("--json-schema", metavar="FILE", help="Hold replies to this JSON schema.")
    ] = None,
    constrain: Annotated[bool, typer.Option("--constrain", help="Hold calls to the tools' schemas.")] = False,
    tool_choice: Annotated[
        ToolChoice, typer.Option("--tool-choice", help="required: the first reply to a turn is a well-formed call.")
    ] = ToolChoice.auto,
    yes: Annotated[bool, typer.Option("--yes", help="Run tools without asking.")] = False,
    tool_seconds: Annotated[float, typer.Option("--tool-seconds", min=0.1, help="Longest run of a tool.")] = 30.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest reply, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 decodes greedily.")] = 0.0,
) -> None:
    """Talk to a model that may call tools; what is piped in is one user turn a line."""
    from smolalign.chat.session import Wishes, talk

    wishes = Wishes(
        tools=tools,
        system=system,
        schema=schema,
        constrain=constrain,
        required=tool_choice is ToolChoice.required,
        yes=yes,
        tool_seconds=tool_seconds,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    talk(model, wishes)


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model or adapter folder, a .gguf file or a Hub id.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option("--name", help="What clients call the model; by default MODEL.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="SMOLALIGN_API_KEY", help="Key that clients must show.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Answers computed at once.")] = 8,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Answers that may wait beyond these.")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 2048,
    max_body_mb: Annotated[float, typer.Option("--max-body-mb", min=0.001, help="Largest request, in MB.")] = 4.0,
) -> None:
    """Serve a model over an OpenAI-compatible API."""
    from smolalign.commands import serve_model

    limits = {"max_batch": max_batch, "max_queue": max_queue, "max_tokens": max_tokens}
    serve_model(model, host, port, name, api_key, max_body=int(max_body_mb * 1e6), **limits)
