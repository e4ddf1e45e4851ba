"""Hard negatives of function calling, made from rows with calls: a tool that is not there, tools that are beside the
point, an argument that the question lacks.

Everything depends on a row's content, the seed and the set of tools to draw from alone: not on the order of rows, nor
on their number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smolalign.data.assembly.staging import held_out, mixed
from smolalign.data.assembly.text import content_hash, first_prompt, hash_of
from smolalign.data.strict_json import dump
from smolalign.recipe.data import Distractors, Negatives
from smolalign.rows import Chat, Message

REMOVED, MISSING = "right tool removed", "argument missing"
DISTRACTED, SHUFFLED = "distractors added", "tools shuffled"
# The tools that a part's distractors are drawn from, if it has more.
_MOST_TOOLS = 4096
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|[^\W_a-zA-Z]+")
# Words of tools' names that say nothing of what a tool is about.
_GENERIC = frozenset(
    "a add all an analyze and api by calculate check compute convert create data delete details do fetch find for from "  # noqa: SIM905
    "generate get in info information list lookup make new of on query retrieve run search set show the to update use "
    "using v with".split()
)
_ASKING = (
    "Which {} should I use?",
    "What is the {}?",
    "Could you tell me the {}?",
    "I need the {} for that. What is it?",
    "Please give me the {} first.",
)


@dataclass(frozen=True, slots=True)
class Pool:
    """Tools to draw distractors from, in the order of their hashes, `[tools]` uint64."""

    tools: tuple[dict[str, Any], ...]
    hashes: np.ndarray


def pool_of(tools: Iterable[dict[str, Any]]) -> Pool:
    """The different ones of many tools; of more than 4096 those of the smallest hashes, whatever their order."""
    found: dict[int, dict[str, Any]] = {}
    for tool in tools:
        found.setdefault(hash_of(dump(tool)), tool)
        if len(found) >= 2 * _MOST_TOOLS:
            found = {key: found[key] for key in sorted(found)[:_MOST_TOOLS]}
    keys = sorted(found)[:_MOST_TOOLS]
    return Pool(tuple(found[key] for key in keys), np.array(keys, dtype=np.uint64))


def kinds_of(asked: Negatives) -> list[str]:
    """What may be made."""
    wanted = {
        REMOVED: asked.remove_tool > 0,
        MISSING: asked.missing_argument > 0,
        DISTRACTED: asked.distractors is not None or asked.remove_tool > 0,
        SHUFFLED: asked.shuffle_tools,
    }
    return [name for name, it_is in wanted.items() if it_is]


def with_negatives(
    chat: Chat, asked: Negatives, pool: Pool, seed: int, test_fraction: float = 0.0
) -> tuple[Chat, list[str]]:
    """The row, or the negative that becomes of it, and what was made of it (`REMOVED`, …).

    The negative is on the row's side of a split by `test_fraction`.

    Rows without calls keep their tools, since a tool that is added might be the very one that they lack; only the order
    changes.
    """
    content = content_hash(chat)
    made: list[str] = []
    turn = next((number for number, message in enumerate(chat.messages) if message.tool_calls), None)
    if turn is not None and chat.tools:
        called = {call.name for message in chat.messages for call in message.tool_calls or ()}
        lot = _lot(content, seed, "kind")
        negative = None
        if lot < asked.remove_tool:
            negative, kind = _without_tool(chat, turn, called), REMOVED
        elif lot < asked.remove_tool + asked.missing_argument:
            negative, kind = _with_argument_cut(chat, turn, content, seed, test_fraction), MISSING
        removed = negative is not None and kind == REMOVED
        extra = _distractors(negative or chat, called, removed, asked.distractors, pool, content, seed)
        if removed and not extra and negative is not None and not negative.tools:
            negative = None  # an empty answer says something only where there is a tool
        if negative is not None:
            chat, made = negative, [kind]
        if extra:
            chat, made = _mixed_in(chat, extra, content, seed), [*made, DISTRACTED]
    if asked.shuffle_tools and len(chat.tools) > 1:
        order = sorted(chat.tools, key=lambda tool: _lot(content, seed, f"order {dump(tool)}"))
        chat, made = replace(chat, tools=tuple(order)), [*made, SHUFFLED]
    return chat, made


def _without_tool(chat: Chat, turn: int, called: Collection[str]) -> Chat:
    """The conversation up to its first calls, which become the word that no tool fits. Gone are all tools that it calls
    and those whose names have a word in common with theirs."""
    gone = set().union(*map(_topic, called))
    tools = tuple(tool for tool in chat.tools if tool["name"] not in called and not _topic(tool["name"]) & gone)
    return replace(chat, messages=(*chat.messages[:turn], Message("assistant", "", ())), tools=tools)


def _with_argument_cut(chat: Chat, turn: int, content: int, seed: int, test_fraction: float) -> Chat | None:
    """The conversation up to its first call, with one argument cut out of the question, which is asked for; None where
    none can be, or where the question that is left belongs to the other side of the split."""
    side = _is_held_out(chat, test_fraction, seed)
    wording = _ASKING[int(_lot(content, seed, "wording") * len(_ASKING))]
    cuts = []
    for name, question in _cuts(chat, turn):
        asks = Message("assistant", wording.format(" ".join(_words(name))))
        cut = replace(chat, messages=(*chat.messages[: turn - 1], Message("user", question), asks))
        if _is_held_out(cut, test_fraction, seed) == side:
            cuts.append(cut)
    return cuts[int(_lot(content, seed, "argument") * len(cuts))] if cuts else None


def _is_held_out(chat: Chat, test_fraction: float, seed: int) -> bool:
    return bool(held_out(np.array([hash_of(first_prompt(chat))], dtype=np.uint64), test_fraction, seed)[0])


def _cuts(chat: Chat, turn: int) -> Iterator[tuple[str, str]]:
    """The required arguments of a single call whose value, a text, stands in the question once and nowhere before it,
    and the question without it."""
    calls, before = chat.messages[turn].tool_calls or (), chat.messages[:turn]
    if len(calls) != 1 or before[-1].role != "user":
        return
    call, question = calls[0], before[-1].content
    schema = next((tool.get("parameters") for tool in chat.tools if tool["name"] == call.name), None)
    required = schema.get("required") if isinstance(schema, dict) else None
    for name in required if isinstance(required, list) else ():
        value = call.arguments.get(name)
        if not isinstance(value, str) or len(value) < 2 or not _words(name):
            continue
        others = [dump(other) for key, other in call.arguments.items() if key != name]
        said = "\n".join([message.content for message in before] + others).casefold()
        if said.count(value.casefold()) == 1 and (left := _cut_out(value, question)):
            yield name, left


def _cut_out(value: str, question: str) -> str:
    """The question without a value, its quotes and the preposition before it; empty where too little is left, or where
    the value is part of a word."""
    quotes = "\"'“”‘’`"
    found = re.search(
        rf"(?:\b(?:about|as|at|by|called|for|from|in|into|named|of|on|to|titled|with)\s+)?(?:\b(?:an?|the)\s+)?[{quotes}]?"
        rf"(?<![\w.@/-]){re.escape(value)}(?![\w@/-]|['’]s\b|\.\w)[{quotes}]?",
        question,
        re.IGNORECASE,
    )
    if not found or value not in found[0]:
        return ""
    left = question[: found.start()].rstrip() + " " + question[found.end() :].lstrip()
    left = re.sub(r"\s+([.,;:?!])", r"\1", left).strip()
    return left if len(left.split()) >= 3 and value.casefold() not in left.casefold() else ""


def _distractors(
    chat: Chat, called: Collection[str], removed: bool, asked: Distractors | None, pool: Pool, content: int, seed: int
) -> list[dict[str, Any]]:
    """Tools from the pool of other names than all that the row offers or calls: as many as drawn, one at least where
    the row has lost all of its own.

    None of them is about the same as a called tool, going by the words of their names; where the called tools were
    removed, none has a word in common with them.
    """
    count = 0
    if asked is not None:
        count = asked.min + int(_lot(content, seed, "count") * (asked.max - asked.min + 1))
    count = max(count, 1) if removed and not chat.tools else count
    if not count or not pool.tools:
        return []
    topics = [_topic(name) for name in called]
    gone: frozenset[str] = frozenset().union(*topics)
    taken = {_plain(name) for name in (*called, *(tool["name"] for tool in chat.tools))}
    chosen: list[dict[str, Any]] = []
    for place in np.argsort(_mixed(pool.hashes, content, seed), kind="stable"):
        tool = pool.tools[place]
        topic = _topic(tool["name"])
        if _plain(tool["name"]) in taken or (topic & gone if removed else topic in topics):
            continue
        chosen.append(tool)
        taken.add(_plain(tool["name"]))
        if len(chosen) == count:
            break
    return chosen


def _mixed_in(chat: Chat, extra: Iterable[dict[str, Any]], content: int, seed: int) -> Chat:
    """The row with further tools between its own, whose order stays."""
    tools = list(chat.tools)
    for tool in extra:
        tools.insert(int(_lot(content, seed, f"place {dump(tool)}") * (len(tools) + 1)), tool)
    return replace(chat, tools=tuple(tools))


def _words(name: str) -> list[str]:
    """The words of a name: `getTeam_stats2` gives get, team, stats, 2."""
    return [word.casefold() for word in _WORD.findall(name)]


def _topic(name: str) -> frozenset[str]:
    """What a tool is about: the words of its name without those that many names have."""
    words = frozenset(_words(name))
    return (words - _GENERIC) or words


def _plain(name: str) -> str:
    return "".join(_words(name)) or name


def _lot(content: int, seed: int, purpose: str) -> float:
    """A number from 0 to before 1."""
    return (hash_of(f"{seed} {purpose} {content}") >> 11) / 2**53


def _mixed(hashes: np.ndarray, content: int, seed: int) -> np.ndarray:
    return mixed(hashes ^ np.uint64(content), f"{seed} distractors")
