"""Function calling: tools that differ in every row, requests, and the calls that serve them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data.generators import chats
from data.generators.world import Draw, Pool, Split, split_of, upper_first, words

VERBS = (
    "book",
    "order",
    "find",
    "open",
    "send",
    "move",
    "rent",
    "clean",
    "check",
    "plan",
    "start",
    "share",
    "save",
    "sell",
)
NOUNS = words(
    "room taxi song ticket letter parcel meal garden train report photo meeting market concert tent bicycle hotel "
    "recipe lesson file game flight picnic poster desk van story cake plant window bridge film camera guitar farm "
    "office piano shirt soup bus puzzle book truck poem boat message dinner field tour note movie museum harbor "
    "violin jacket"
)
OTHER_TASKS = (chats.everyday, chats.constraints, chats.rewrite, chats.summarize, chats.math)
PARAMETER_COUNTS = (1, 1, 1, 2, 2, 3)
JOINTS = (" and then ", " and also ", ", then ", " and after that ")
FRAMES = Pool(
    train=(
        "{}",
        "please {}",
        "can you {}?",
        "could you {}?",
        "I need you to {}",
        "I want to {}",
        "{}, please",
        "help me to {}",
        "we have to {}",
        "now {}",
        "I would like to {}",
        "{} for me",
        "will you {}?",
        "let us {}",
        "it is time to {}",
        "my plan is to {}",
        "try to {}",
        "could you {} now?",
        "next, {}",
        "hello, {}",
        "good day, please {}",
        "I ask you to {}",
        "you should {}",
        "we want to {} today",
        "go and {}",
        "{} today",
    ),
    dev=("would you please {}?", "you need to {} now", "I have to {}", "can you help and {}?"),
    heldout=("please can you {}?", "I would like you to {}", "could you help me to {}?", "{} now, please"),
)


Call = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of parameter: what it is called, its JSON type, how a request says it, and how to make a value."""

    name: str
    type: str
    says: Pool
    make: Callable[[Draw], str | int]


# What tells a value's kind stands before the value, as in "costing 28 coins": a model that reads from left to right
# then knows the kind when it comes to the value.
KINDS = (
    Kind(
        "city",
        "string",
        Pool(
            ('in "{}"', 'near "{}"', 'in the town "{}"', 'somewhere in "{}"', 'over in "{}"', 'close to "{}"'),
            ('somewhere near "{}"', 'right in "{}"'),
            ('over near "{}"', 'somewhere close to "{}"'),
        ),
        Draw.place,
    ),
    Kind(
        "person",
        "string",
        Pool(
            ('for "{}"', 'with "{}"', 'for my friend "{}"', 'with my guest "{}"', 'for our friend "{}"'),
            ('together with "{}"', 'for our guest "{}"'),
            ('for my guest "{}"', 'with our friend "{}"'),
        ),
        Draw.name,
    ),
    Kind(
        "count",
        "integer",
        Pool(
            ("with a count of {}", "counting {} parts", "in a group of {}", "with a count of {} parts"),
            ("with a group of {}", "counting all {} parts"),
            ("at a count of {}", "as a group of {}"),
        ),
        Draw.value,
    ),
    Kind(
        "minutes",
        "integer",
        Pool(
            ("lasting {} minutes", "taking {} minutes", "that takes {} minutes", "that lasts for {} minutes"),
            ("that lasts {} minutes", "taking about {} minutes"),
            ("lasting for {} minutes", "that takes about {} minutes"),
        ),
        Draw.value,
    ),
    Kind(
        "title",
        "string",
        Pool(
            ('called "{}"', 'named "{}"', 'with the title "{}"', 'under the title "{}"'),
            ('that is called "{}"', 'with title "{}"'),
            ('that is named "{}"', 'by the title "{}"'),
        ),
        Draw.thing,
    ),
    Kind(
        "code",
        "string",
        Pool(
            ("with code {}", "under the code {}", "by the code {}", "using the code {}"),
            ("by code {}", "with the code {}"),
            ("using code {}", "under code {}"),
        ),
        Draw.code,
    ),
    Kind(
        "day",
        "string",
        Pool(("on {}", "next {}", "by {}", "for {}"), ("this {}", "before {}"), ("by next {}", "on this {}")),
        Draw.day,
    ),
)


@dataclass(frozen=True)
class Tool:
    """A function on offer, with the kinds of its parameters."""

    verb: str
    noun: str
    parameters: tuple[Kind, ...]

    def schema(self) -> dict[str, Any]:
        """Its JSON schema, as offered."""
        properties = {kind.name: {"type": kind.type} for kind in self.parameters}
        return {
            "name": f"{self.verb}_{self.noun}",
            "description": f"{upper_first(self.verb)} the {self.noun}.",
            "parameters": {"type": "object", "properties": properties, "required": list(properties)},
        }

    def use(self, draw: Draw) -> tuple[str, Call]:
        """The words that ask for one use of it, and the call."""
        values = {kind.name: kind.make(draw) for kind in self.parameters}
        said = [draw.phrase(kind.says, values[kind.name]) for kind in self.parameters]
        said = draw.shuffled(said) if draw.chance(25) else said
        arguments: dict[str, Any] = dict(values)
        return " ".join([f"{self.verb} a {self.noun}", *said]), {
            "name": f"{self.verb}_{self.noun}",
            "arguments": arguments,
        }


def split_of_tool(verb: int, noun: int) -> Split:
    """Which split owns a verb and a noun together, and so a tool's name; every word of a name is in all."""
    return split_of(verb + noun, 7)


def new_tools(draw: Draw, count: int) -> list[Tool]:
    """Tools for different things, with different parameters; now and then two of them share the verb."""
    tools: list[Tool] = []
    kinds = draw.shuffled(KINDS)
    while len(tools) < count:
        verb, noun = draw.rng.randrange(len(VERBS)), draw.rng.randrange(len(NOUNS))
        if draw.owns(split_of_tool(verb, noun)) and NOUNS[noun] not in [tool.noun for tool in tools]:
            taken = draw.one(PARAMETER_COUNTS)
            tools.append(Tool(VERBS[verb], NOUNS[noun], tuple(kinds[:taken])))
            kinds = kinds[taken:]
    return tools


def missing_tool(draw: Draw, offered: list[Tool]) -> Tool:
    """A tool for another thing and in another verb than those on offer."""
    near = {word for tool in offered for word in (tool.verb, tool.noun)}
    while True:
        (tool,) = new_tools(draw, 1)
        if not near & {tool.verb, tool.noun}:
            return tool


def request(draw: Draw, offered: list[Tool]) -> tuple[str, list[Call]]:
    """Something to ask where these tools are on offer, and the calls that serve it: one, at times two, or none."""
    if draw.chance(28):
        return unserved(draw, offered), []
    used = draw.shuffled(offered)[: 2 if draw.chance(25) else 1]
    if draw.chance(5):
        used = [used[0], used[0]]
    asked = [tool.use(draw) for tool in used]
    query = draw.phrase(FRAMES, draw.one(JOINTS).join(said for said, _ in asked))
    return upper_first(query), [call for _, call in asked]


def unserved(draw: Draw, offered: list[Tool]) -> str:
    """What no tool on offer is for: mostly a question or a task as in other chats, or a request for another tool."""
    if draw.chance(90):
        return draw.one(OTHER_TASKS)(draw)[-2]["content"]
    wish, _ = missing_tool(draw, offered).use(draw)
    return upper_first(draw.phrase(FRAMES, wish))


def offer(draw: Draw) -> list[Tool]:
    """The tools that a row has."""
    return new_tools(draw, draw.one((1, 1, 2, 2, 3)))


def apigen_rows(draw: Draw, count: int) -> Iterator[dict[str, Any]]:
    """Rows in APIGen's layout: tools and answers are JSON in a string, parameters stand flat, all of them required."""
    for index in range(count):
        offered = offer(draw)
        query, answers = request(draw, offered)
        flat = [{**tool.schema(), "parameters": tool.schema()["parameters"]["properties"]} for tool in offered]
        yield {"id": f"{draw.split}-{index}", "query": query, "tools": json.dumps(flat), "answers": json.dumps(answers)}


def chat_rows(draw: Draw, count: int) -> Iterator[dict[str, Any]]:
    """Chats in SmolTalk's layout with several requests to the same tools."""
    for _ in range(count):
        offered = offer(draw)
        messages: list[dict[str, Any]] = []
        for _ in range(draw.number(2, 5)):
            query, answers = request(draw, offered)
            made = [
                {"type": "function", "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
                for call in answers
            ]
            messages += [
                {"role": "user", "content": query},
                {"role": "assistant", "content": "", "tool_calls": made},
            ]
        yield {"messages": messages, "tools": [{"type": "function", "function": tool.schema()} for tool in offered]}
