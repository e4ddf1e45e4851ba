"""A needle in a haystack: whether a model finds one sentence in a long text, by the text's length and its place in it.

The method is Kamradt's (2023, "Needle in a haystack: pressure testing LLMs", gkamradt/LLMTest_NeedleInAHaystack): a
fact that nothing else in the text resembles is put at several depths into texts of several lengths, and asked for at
the end. Here each item has a fact of its own, a made-up name and six random digits, so that a reply is right or wrong
without a judge, and nothing is known from training. A prompt is as long as it says, template and question included.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.chat.generation import positions
from smolalign.chat.render import render_prompt
from smolalign.errors import UserError
from smolalign.eval.harness import template_hash
from smolalign.eval.haystack import hide, made_up_words, words_of
from smolalign.eval.replies import reply_to
from smolalign.recipe.measure import Needle
from smolalign.rows import Document, Message, message_to_openai

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of the series of lengths, each half of the one before, the shortest.
SHORTEST = 256
# The longest length of a model whose configuration does not say what it reads.
UNBOUNDED = 8192

_METALS = ["copper", "silver", "tin", "golden", "iron", "bronze", "pewter", "nickel", "zinc", "cobalt", "steel", "lead"]
_THINGS = [
    "lantern",
    "compass",
    "anchor",
    "falcon",
    "harp",
    "key",
    "crown",
    "dagger",
    "chalice",
    "whistle",
    "gong",
    "helmet",
]
_FACT = "The access code of the {key} is {value}."
_QUESTION = "What is the access code of the {key}? Answer with the code alone."


@dataclass(frozen=True, slots=True)
class Item:
    """A needle in its haystack.

    Attributes:
        length: tokens that the prompt may have.
        depth: share of the text before the needle.
        value: what the reply must hold.
    """

    length: int
    depth: float
    value: str
    messages: tuple[Message, ...]
    ids: Sequence[int]


def measure_needle(
    loaded: Any, task: Needle, documents: Sequence[Document]
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]:
    """Share of needles found, in all, by length and by depth; samples; and details, with the grid of both.

    Args:
        loaded: the model, as `eval/tasks.py` has it.
        task: the recipe's.
        documents: what haystacks are made of; without any, sentences of our own.

    Raises:
        UserError: a length is more than the model reads, or too short for the question, or the documents are too short.
    """
    items = make_items(loaded, task, documents)
    replies = reply_to(loaded, [item.ids for item in items], max_new_tokens=task.max_new_tokens)
    samples: list[dict[str, Any]] = []
    for item, reply in zip(items, replies, strict=True):
        found = holds(reply.text, item.value)
        asked = {"prompt": [message_to_openai(message) for message in item.messages], "tokens": len(item.ids)}
        cell = {"length": item.length, "depth": item.depth, "expected": item.value}
        names = ("accuracy", f"at_{item.length}", f"depth_{_percent(item.depth)}")
        samples.append({**asked, **cell, "reply": reply.text, "stopped": reply.stopped, **dict.fromkeys(names, found)})
    lengths, depths = _lengths(loaded, task), _depths(task)
    columns = ["accuracy", *(f"at_{one}" for one in lengths), *(f"depth_{_percent(one)}" for one in depths)]
    verdicts = {name: [sample[name] for sample in samples if name in sample] for name in columns}
    metrics = {name: _share(found) for name, found in verdicts.items() if found}
    details = {
        "decoding": {"do_sample": False, "max_new_tokens": task.max_new_tokens},
        "template": template_hash(loaded.tokenizer),
        "haystack": "documents" if documents else "made up",
        "lengths": lengths,
        "depths": depths,
        "grid": [_cell(samples, length, depth) for length in lengths for depth in depths],
    }
    return metrics, samples, details


def make_items(loaded: Any, task: Needle, documents: Sequence[Document]) -> list[Item]:
    """All items, lengths ascending; a sample of `max_rows` of them by the seed where there are more.

    They depend on the seed, the tokenizer and the documents alone, so models of one tokenizer get the same.
    """
    cells = [(length, depth) for length in _lengths(loaded, task) for depth in _depths(task)]
    asked = [(*cell, number) for cell in cells for number in range(task.needles)]
    if task.max_rows is not None and task.max_rows < len(asked):
        asked = sorted(random.Random(loaded.seed).sample(asked, task.max_rows))
    return [_item(loaded, documents, *one) for one in asked]


def lengths_of(task: Needle, room: int, least: int) -> list[int]:
    """The lengths that are asked for, or all that the model reads, half of it, and so on.

    Args:
        task: the recipe's.
        room: the longest prompt that leaves room for a reply.
        least: tokens of a prompt without any haystack.

    Raises:
        UserError: a length does not fit.
    """
    if task.lengths is None:
        series = [room // 2**halved for halved in range(16)]
        found = sorted(one for one in series if one >= max(least, min(SHORTEST, room)))
        if not found:
            raise UserError(f"the question alone has {least} tokens, and the model reads {room} before its reply")
        return found
    for length in task.lengths:
        if length > room:
            left = f"{room} and a reply of {task.max_new_tokens}"
            raise UserError(f"lengths: {length} tokens are more than the model reads: {left}", mend=f"{room} at most")
        if length < least:
            raise UserError(f"lengths: {length} tokens are too few: the question and the needle alone have {least}")
    return sorted(set(task.lengths))


def holds(reply: str, value: str) -> bool:
    """Whether a value stands in a reply, not as a part of a longer number; commas between digits count nothing."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", reply)
    return re.search(rf"(?<!\d){value}(?!\d)", plain) is not None


def _lengths(loaded: Any, task: Needle) -> list[int]:
    reads = positions(loaded.model)
    # As far as the default series goes; what is asked for may be longer where nothing is known of the model.
    reads = UNBOUNDED if reads == 2**31 and task.lengths is None else reads
    return lengths_of(task, reads - task.max_new_tokens, _least(loaded.tokenizer))


def _depths(task: Needle) -> list[float]:
    return sorted(set(task.depths or DEPTHS))


def _least(tokenizer: Any) -> int:
    """Tokens of a prompt with the longest needle and nothing around it."""
    key = f"{max(_METALS, key=len)} {max(_THINGS, key=len)}"
    return 8 + len(render_prompt(tokenizer, _asking(_FACT.format(key=key, value="000000"), key)))


def _asking(text: str, key: str) -> tuple[Message, ...]:
    intro = "Read this text. A question about it follows at its end."
    return (Message("user", f"{intro}\n\n{text}\n\n{_QUESTION.format(key=key)}"),)


def _item(loaded: Any, documents: Sequence[Document], length: int, depth: float, number: int) -> Item:
    """The longest prompt of whole words within `length` tokens."""
    seed = f"{loaded.seed} {length} {depth} {number}"
    # A word has a token at least, so that so many words fill the prompt.
    words = words_of(documents, seed, length) if documents else made_up_words(seed, length)
    key, value = _fact(seed, "".join(words).lower())
    needle = _FACT.format(key=key, value=value)

    def prompt(count: int) -> tuple[tuple[Message, ...], list[int]]:
        messages = _asking(hide(words[:count], needle, depth), key)
        return messages, render_prompt(loaded.tokenizer, messages)

    count = _most(lambda count: len(prompt(count)[1]) <= length, len(words))
    messages, ids = prompt(count)
    if documents and count == len(words):
        raise UserError(
            f"the documents of data fill {len(ids)} tokens, and a haystack of {length} is asked for",
            mend="add documents, or ask for shorter lengths",
        )
    return Item(length, depth, value, messages, ids)


def _fact(seed: str, text: str) -> tuple[str, str]:
    """A name and a number that the text does not have."""
    chance = random.Random(f"{seed} needle")
    while True:
        key, value = f"{chance.choice(_METALS)} {chance.choice(_THINGS)}", f"{chance.randrange(100_000, 1_000_000)}"
        if key not in text and value not in text:
            return key, value


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest count up to `limit` that fits; 0 does, and what is larger than one that does not fit does not."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _cell(samples: Sequence[dict[str, Any]], length: int, depth: float) -> dict[str, Any]:
    """Needles found at a length and a depth, with the binomial standard error of their share."""
    found = [sample["accuracy"] for sample in samples if (sample["length"], sample["depth"]) == (length, depth)]
    share = _share(found)
    error = math.sqrt(share * (1 - share) / len(found)) if found else None
    return {"length": length, "depth": depth, "asked": len(found), "found": sum(found), "stderr": error}


def _percent(depth: float) -> str:
    return f"{100 * depth:g}"


def _share(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts) if verdicts else 0.0
