"""Plain texts, and single exchanges: Alpaca's layout and prompt-completion pairs."""

from __future__ import annotations

import re

from smolalign.data.formats.conversations import record_tools, with_system
from smolalign.data.formats.fields import Converted, Record, first_key, list_of, optional_text, stored_origin, text_of
from smolalign.data.formats.turns import parse_turns
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Message, Row, Skip

PROMPTS = ("prompt", "question", "query")
COMPLETIONS = ("completion", "response", "answer", "output")
_ALPACA_PROMPT = re.compile(
    r"\A(?:Below is an instruction[^\n]*\n\n)?### Instruction:\n(?P<instruction>.*?)"
    r"(?:\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*\Z",
    re.DOTALL,
)


def is_text(record: Record) -> bool:
    code = isinstance(record.get("content"), str) and "role" not in record
    return isinstance(record.get("text"), str) or code


def from_text(record: Record) -> Converted:
    """`{"text"}`, or `{"content"}` as sets of code call it: one document. A blank text is skipped."""
    text = text_of(record, "text", "content")
    return Document(text, stored_origin(record)) if text.strip() else Skip("empty text")


def is_alpaca(record: Record) -> bool:
    outputs = ("output", "response", "instances")
    return isinstance(record.get("instruction"), str) and first_key(record, outputs) is not None


def from_alpaca(record: Record) -> Converted:
    """Alpaca: `instruction`, `input`, `output`, with `system` and `history` [[user, assistant], …].

    Also Dolly's names (`context`, `response`) and Self-Instruct's `instances` [{`input`, `output`}], which gives a
    chat for each instance. An empty output is skipped, as the published sets have some. Raises UserError.
    """
    if record.get("instances") is None:
        return _alpaca(record, record)
    rows: list[Row | Skip] = []
    for index, instance in enumerate(list_of(record, "instances")):
        if not isinstance(instance, dict):
            raise UserError(f"instances[{index}] must be an object, not {shorten(instance)}")
        rows.append(_alpaca(record, instance))
    return rows or Skip("no instances")


def _alpaca(record: Record, exchange: Record) -> Chat | Skip:
    instruction, given = text_of(record, "instruction"), optional_text(exchange, "input", "context")
    output = text_of(exchange, "output", "response")
    if not output.strip():
        return Skip("empty output")
    messages: list[Message] = []
    for index, turn in enumerate(record.get("history") or ()):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
            raise UserError(f"history[{index}] must be [user text, assistant text], not {shorten(turn)}")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    messages += [Message("user", _joined(instruction, given)), Message("assistant", output)]
    return Chat(with_system(record, tuple(messages)))


def is_prompt_completion(record: Record) -> bool:
    prompt, completion = first_key(record, PROMPTS), first_key(record, COMPLETIONS)
    return prompt is not None and completion is not None and isinstance(record[prompt], str | list)


def from_prompt_completion(record: Record) -> Converted:
    """`prompt` and `completion` (or `response`, `answer`, `output`), each a string or a list of turns.

    A prompt in Alpaca's wrapping ("### Instruction: … ### Response:", as in dolly_hhrlhf) is unwrapped: the chat
    template will say whose turn it is. An empty completion is skipped. Raises UserError.
    """
    prompt_key, key = first_key(record, PROMPTS), first_key(record, COMPLETIONS)
    if prompt_key is None or key is None:
        text_of(record, *(PROMPTS if prompt_key is None else COMPLETIONS))
        raise AssertionError("text_of raises for a missing key")
    tools = record_tools(record)
    prompt = prompt_turns(record, prompt_key, has_tools=bool(tools))
    if isinstance(record[key], list):
        completion = parse_turns(record[key], key, has_tools=bool(tools))
        empty = not completion
    else:
        completion = (Message("assistant", text_of(record, key)),)
        empty = not completion[0].content.strip()
    return Skip(f"empty {key}") if empty else Chat(with_system(record, (*prompt, *completion)), tools)


def prompt_turns(record: Record, key: str, *, has_tools: bool = False) -> tuple[Message, ...]:
    """The turns of a prompt that is a string (one user turn, Alpaca's wrapping removed) or a list of turns."""
    if isinstance(record[key], list):
        return parse_turns(record[key], key, has_tools=has_tools)
    return (Message("user", unwrap_alpaca(text_of(record, key))),)


def unwrap_alpaca(prompt: str) -> str:
    """The bare instruction (and input) of a prompt in Alpaca's wrapping; any other prompt as it is."""
    found = _ALPACA_PROMPT.match(prompt)
    return _joined(found["instruction"], found["input"] or "") if found else prompt


def _joined(instruction: str, given: str) -> str:
    return f"{instruction}\n\n{given}" if given.strip() else instruction
