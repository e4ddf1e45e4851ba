"""`smolalign chat`: a conversation in the terminal, or through a pipe, one user turn a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolalign.adapters import is_adapter, merging
from smolalign.chat.calls import parse_reply
from smolalign.chat.render import render_prompt
from smolalign.data.formats.calls import parse_tools
from smolalign.errors import UserError
from smolalign.rows import Message

HELP = "/reset forgets the conversation, /exit leaves"


def talk(
    reference: str, *, tools_file: Path | None, system: str | None, max_new_tokens: int, temperature: float
) -> None:
    """Read user turns until the end of input and write the model's, as they are made.

    Args:
        reference: checkpoint folder, adapter folder, `.gguf` file or Hub id.
        tools_file: JSON list of tool schemas, bare or in OpenAI's wrapping.
        system: text of a system turn.
        max_new_tokens: longest reply, in tokens.
        temperature: 0 decodes greedily.

    Raises:
        UserError: the model or the tools cannot be read, or the model has no chat template.
    """
    tools = read_tools(tools_file) if tools_file else ()
    start = (Message("system", system),) if system else ()
    messages: tuple[Message, ...] = start
    from smolalign.model import load_model, load_tokenizer

    tokenizer = load_tokenizer(reference)
    if not tokenizer.chat_template:
        raise UserError(f"{reference} has no chat template", mend="chat with a model that a smolalign step made")
    if is_adapter(Path(reference)):
        print(f"({merging(Path(reference))})", file=sys.stderr)
    model = load_model(reference).eval()
    for line in _user_turns():
        if line == "/reset":
            messages = start
            continue
        messages = (*messages, Message("user", line))
        reply = _stream(model, tokenizer, render_prompt(tokenizer, messages, tools), max_new_tokens, temperature)
        read = parse_reply(reply, tools)
        if read.problem:
            print(f"({read.problem})", file=sys.stderr)
        messages = (
            *messages,
            Message("assistant", read.text, read.calls) if read.calls is not None else Message("assistant", reply),
        )


def read_tools(file: Path) -> tuple[dict[str, Any], ...]:
    """Tool schemas from a JSON file.

    Raises:
        UserError: it is missing, not JSON, or not a list of schemas with names.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=str(file)) from None
    try:
        return tuple(parse_tools(content))
    except UserError as error:
        raise UserError(error.what, where=str(file), mend=error.mend) from None


def _user_turns() -> Iterator[str]:
    """Lines of input, empty ones left out, until its end or /exit; with a prompt where a person types."""
    typed = sys.stdin.isatty()
    if typed:
        print(HELP)
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            return
        if line == "/exit":
            return
        if line:
            yield line


def _stream(model: Any, tokenizer: Any, prompt: list[int], max_new_tokens: int, temperature: float) -> str:
    """Write the reply as it is made, and give it back whole."""
    import torch
    from transformers import TextStreamer

    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    ids = torch.tensor([prompt], device=model.device)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **sampling,
        )
    return tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
