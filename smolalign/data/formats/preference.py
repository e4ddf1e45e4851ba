"""Preference pairs that were published as such: UltraFeedback binarized, its likes, and HH-RLHF."""

from __future__ import annotations

import re
from collections.abc import Mapping

from smolalign.data.formats.conversations import record_tools, turns_column, with_system
from smolalign.data.formats.fields import Converted, Record, first_key, number_of, stored_origin, text_of
from smolalign.data.formats.instruct import prompt_turns
from smolalign.data.formats.turns import parse_turn, parse_turns
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.rows import Message, Pair, Role, Skip

PROMPTS = ("prompt", "question", "instruction", "query")
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_DIFFERENT_PROMPTS = Skip("chosen and rejected differ before the last turn")


def is_ultrafeedback(record: Record) -> bool:
    if record.get("chosen") is None or record.get("rejected") is None:
        return False
    has_prompt = first_key(record, PROMPTS) is not None or turns_column(record) is not None
    return has_prompt or isinstance(record["chosen"], list)


def from_ultrafeedback(record: Record) -> Converted:
    """A prompt with `chosen` and `rejected`, each a string, one turn, or a list of turns.

    Covers UltraFeedback binarized, TRL's conversational layout, Orca's `system`/`question`, and LLaMA-Factory's
    ShareGPT pairs (`conversations` with `chosen`/`rejected` turns). Lists may repeat the prompt's turns or not. Scores
    come from `score_chosen`/`score_rejected`, of the record or its `metadata`, or Argilla's `chosen-rating` and
    `rejected-rating`. Raises UserError.
    """
    tools = record_tools(record)
    base = _base(record, has_tools=bool(tools))
    chosen_prompt, chosen = _answer(record, "chosen", base, has_tools=bool(tools))
    rejected_prompt, rejected = _answer(record, "rejected", base, has_tools=bool(tools))
    if chosen_prompt != rejected_prompt:
        return _DIFFERENT_PROMPTS
    scores = (_score(record, "score_chosen", "chosen-rating"), _score(record, "score_rejected", "rejected-rating"))
    return pair_or_skip(
        Pair(with_system(record, chosen_prompt), chosen, rejected, tools, *scores, stored_origin(record))
    )


def _base(record: Record, *, has_tools: bool) -> tuple[Message, ...]:
    """The prompt's turns as the record gives them outside its answers; empty if only the answers have them."""
    if (key := first_key(record, PROMPTS)) is not None:
        return prompt_turns(record, key, has_tools=has_tools)
    if (column := turns_column(record)) is not None:
        return parse_turns(record[column], column, has_tools=has_tools)
    return ()


def _answer(
    record: Record, key: str, base: tuple[Message, ...], *, has_tools: bool
) -> tuple[tuple[Message, ...], Message]:
    """The prompt of one answer, and the answer."""
    value = record.get(key)
    if isinstance(value, Mapping):
        turns: tuple[Message, ...] = (parse_turn(value, has_tools=has_tools),)
    elif isinstance(value, list):
        turns = parse_turns(value, key, has_tools=has_tools)
    else:
        turns = (Message("assistant", text_of(record, key)),)
    if not turns:
        raise UserError(f"{key} has no turns", mend="remove the row")
    head, answer = turns[:-1], turns[-1]
    if answer.role != "assistant":
        raise UserError(f"{key} ends with a {answer.role} turn", mend="its last turn must be the assistant's answer")
    if any(message.role == "user" for message in head):
        # The answer carries the conversation; only a system turn that it leaves out is taken from the prompt.
        system = base[:1] if base and base[0].role == "system" and head[0].role != "system" else ()
        return (*system, *head), answer
    return (*base, *head), answer


def _score(record: Record, *keys: str) -> float | None:
    """The number in the first of `keys` with a value, of the record or else its metadata."""
    metadata = record.get("metadata")
    for holder in (record, metadata if isinstance(metadata, Mapping) else {}):
        if (key := first_key(holder, keys)) is not None:
            if (number := number_of(holder[key])) is None:
                raise UserError(f"{key} must be a number, not {shorten(holder[key])}")
            return number
    return None


def pair_or_skip(pair: Pair) -> Pair | Skip:
    """The pair, or why it teaches nothing."""
    answers = (pair.chosen, pair.rejected)
    if any(answer.tool_calls is None and not answer.content.strip() for answer in answers):
        return Skip("empty answer")
    if pair.chosen == pair.rejected:
        return Skip("chosen equals rejected")
    return pair


def is_hh_rlhf(record: Record) -> bool:
    return isinstance(record.get("chosen"), str) and isinstance(record.get("rejected"), str)


def from_hh_rlhf(record: Record) -> Converted:
    """Anthropic/hh-rlhf: `chosen` and `rejected` hold whole transcripts, "\\n\\nHuman: …\\n\\nAssistant: …".

    They are skipped where they differ before the last answer. Raises UserError.
    """
    chosen, rejected = _hh_turns(record, "chosen"), _hh_turns(record, "rejected")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return Skip("does not end with an assistant turn")
    if chosen[:-1] != rejected[:-1]:
        return _DIFFERENT_PROMPTS
    prompt = chosen[:-1]
    if any(message.role != ("user", "assistant")[index % 2] for index, message in enumerate(chosen)):
        return Skip("turns do not alternate")
    if any(not message.content for message in prompt):
        return Skip("empty turn in the prompt")
    return pair_or_skip(Pair(prompt, chosen[-1], rejected[-1]))


def _hh_turns(record: Record, field: str) -> tuple[Message, ...]:
    transcript = text_of(record, field)
    before, *parts = _HH_TURN.split(transcript)
    if before.strip() or not parts:
        raise UserError(
            f"{field} does not start with a Human: turn: {shorten(transcript)}",
            mend="hh_rlhf texts read \\n\\nHuman: … \\n\\nAssistant: …; other pairs need a prompt column",
        )
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    names, texts = parts[::2], parts[1::2]
    return tuple(Message(roles[name], text.strip()) for name, text in zip(names, texts, strict=True))
