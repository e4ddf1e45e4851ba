"""Rows to token ids, with a mark on each token that is trained on.

Everything goes through `tokenizer.apply_chat_template`, the same call that people make at inference, so that training
and inference cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.errors import UserError
from smolalign.rows import Chat, Message, Pair, message_to_openai, tool_to_openai


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of one row, `[length]`, and for each whether the loss falls on it, `[length]`."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """Token ids of a pair: the shared prompt `[prompt]`, and either answer with its stop token `[answer]`."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def template_inputs(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a chat template reads: the messages, and the tools in OpenAI's wrapping, or None where there are none."""
    return {
        "conversation": [message_to_openai(message) for message in messages],
        "tools": [tool_to_openai(tool) for tool in tools] or None,
    }


def render_text(tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
    """The text of a conversation, as the template writes it."""
    return tokenizer.apply_chat_template(**template_inputs(messages, tools), tokenize=False)


def render_chat(tokenizer: Any, chat: Chat) -> Rendered:
    """A conversation with the loss on every assistant turn and its stop token."""
    encoded = tokenizer.apply_chat_template(
        **template_inputs(chat.messages, chat.tools), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return Rendered(list(encoded["input_ids"]), [bool(mark) for mark in encoded["assistant_masks"]])


def render_prompt(tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
    """The ids that a model continues to answer: the conversation and the opening of an assistant turn."""
    encoded = tokenizer.apply_chat_template(
        **template_inputs(messages, tools), tokenize=True, return_dict=True, add_generation_prompt=True
    )
    return list(encoded["input_ids"])


def render_pair(tokenizer: Any, pair: Pair) -> RenderedPair:
    """A prompt and its two answers, each ending with the stop token, so that stopping is part of what is compared."""
    chosen, rejected = (
        render_chat(tokenizer, Chat((*pair.prompt, answer), pair.tools, pair.origin))
        for answer in (pair.chosen, pair.rejected)
    )
    # A tokenizer may join line breaks that an answer begins with to the one before it. The prompt ends where both
    # answers leave it whole.
    start = min(_last_turn(chosen).start, _last_turn(rejected).start)
    return RenderedPair(
        chosen.ids[:start],
        chosen.ids[start : _last_turn(chosen).stop],
        rejected.ids[start : _last_turn(rejected).stop],
    )


def _last_turn(row: Rendered) -> range:
    """The indexes of the last trained run of tokens."""
    end = len(row.trained) - row.trained[::-1].index(True)
    start = end
    while start and row.trained[start - 1]:
        start -= 1
    return range(start, end)


def require_trainable_template(tokenizer: Any) -> None:
    """Prove on a probe that the tokenizer's template marks the answer and its stop token, whatever its origin.

    Raises:
        UserError: the template is missing, marks nothing, or leaves the stop token untrained or unknown.
    """
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template", mend="set template: smollm2, chatml or hermes")
    if "{% generation" not in tokenizer.chat_template.replace("{%-", "{%"):
        raise UserError(
            "the model's own chat template has no {% generation %} markers, so the loss would have no place",
            mend="set template: smollm2, chatml or hermes",
        )
    probe = Chat((Message("user", "Are you there?"), Message("assistant", "Yes, I am.")))
    rendered = render_chat(tokenizer, probe)
    trained_ids = [token for token, mark in zip(rendered.ids, rendered.trained, strict=True) if mark]
    if not trained_ids:
        raise UserError("the chat template marks no assistant token as trained", mend="set template: smollm2")
    if tokenizer.eos_token_id is None or trained_ids[-1] != tokenizer.eos_token_id:
        last = tokenizer.decode(trained_ids[-1:])
        raise UserError(
            f"the stop token would not be learned: an answer ends with {last!r}, but the tokenizer's end of sequence "
            f"is {tokenizer.eos_token!r}",
            mend="choose the template that fits the model's tokenizer",
        )
