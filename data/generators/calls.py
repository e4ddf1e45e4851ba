"""Function calling: tools that differ in every row, requests, and the calls that serve them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.generators.world import DAYS, Draw, Pool, Split, split_of, upper_first, words

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
        "price",
        "integer",
        Pool(
            ("costing {} coins", "at a price of {} coins", "that costs {} coins", "for a price of {}"),
            ("costing about {} coins", "with a price of {} coins"),
            ("that costs about {} coins", "at the price of {} coins"),
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
            ("with code {}", "under the code {}", "and code {}", "using the code {}"),
            ("by code {}", "with the code {}"),
            ("and the code {}", "under code {}"),
        ),
        Draw.code,
    ),
    Kind(
        "day",
        "string",
        Pool(("on {}", "next {}", "by {}", "for {}"), ("this {}", "before {}"), ("by next {}", "on this {}")),
        lambda draw: draw.one(DAYS),
    ),
    Kind(
        "text",
        "string",
        Pool(
            ('saying "{}"', 'with the text "{}"', 'that says "{}"', 'that reads "{}"'),
            ('with a text that says "{}"', 'and says "{}"'),
            ('with text "{}"', 'and reads "{}"'),
        ),
        Draw.thing,
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
            "description": f"{upper_first(self.verb)} a {self.noun}.",
            "parameters": {"type": "object", "properties": properties, "required": list(properties)},
        }

    def use(self, draw: Draw) -> tuple[str, dict[str, Any]]:
        """The words that ask for one use of it, and the call."""
        values = {kind.name: kind.make(draw) for kind in self.parameters}
        said = [draw.phrase(kind.says, values[kind.name]) for kind in self.parameters]
        said = draw.shuffled(said) if draw.chance(50) else said
        arguments: dict[str, Any] = dict(values)
        return " ".join([f"{self.verb} a {self.noun}", *said]), {
            "name": f"{self.verb}_{self.noun}",
            "arguments": arguments,
        }


@dataclass(frozen=True)
class Case:
    """A request, the tools on offer and the calls that serve it (none when nothing fits)."""

    query: str
    tools: tuple[Mapping[str, Any], ...]
    answers: tuple[Mapping[str, Any], ...]


def split_of_tool(verb: int, noun: int) -> Split:
    """Which split owns a verb and a noun together, and so a tool's name; every word of a name is in all."""
    return split_of(verb + noun, 7)


def new_tools(draw: Draw, count: int) -> list[Tool]:
    """Tools for different things; now and then two of them share the verb."""
    tools: list[Tool] = []
    while len(tools) < count:
        verb, noun = draw.rng.randrange(len(VERBS)), draw.rng.randrange(len(NOUNS))
        if draw.owns(split_of_tool(verb, noun)) and NOUNS[noun] not in [tool.noun for tool in tools]:
            tools.append(Tool(VERBS[verb], NOUNS[noun], parameters(draw)))
    return tools


def parameters(draw: Draw) -> tuple[Kind, ...]:
    """One to three parameters of different kinds."""
    return tuple(draw.shuffled(KINDS)[: draw.one((1, 1, 1, 2, 2, 3))])


def case(draw: Draw) -> Case:
    """One request: mostly one call, at times two, and at times nothing that fits."""
    offered = new_tools(draw, draw.one((1, 1, 2, 2, 3)))
    wish = draw.number(1, 100)
    if wish <= 30:
        (missing,) = new_tools(draw, 1)
        used = [missing] if missing.noun not in [tool.noun for tool in offered] else []
        served = False
    else:
        used = draw.shuffled(offered)[: 2 if wish > 89 else 1]
        if wish > 96:
            used = [used[0], used[0]]
        served = True
    if not used:
        return case(draw)
    asked = [tool.use(draw) for tool in used]
    query = draw.phrase(FRAMES, " and ".join(said for said, _ in asked))
    answers = tuple(call for _, call in asked) if served else ()
    return Case(upper_first(query), tuple(tool.schema() for tool in offered), answers)


def apigen_rows(draw: Draw, count: int) -> Iterator[dict[str, Any]]:
    """Rows in APIGen's layout, whose tools and answers are JSON in a string."""
    for index in range(count):
        one = case(draw)
        yield {
            "id": f"{draw.split}-{index}",
            "query": one.query,
            "tools": json.dumps(one.tools),
            "answers": json.dumps(one.answers),
        }


def chat_rows(draw: Draw, count: int) -> Iterator[dict[str, Any]]:
    """The same in SmolTalk's chat layout."""
    for _ in range(count):
        one = case(draw)
        made = [
            {"type": "function", "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])}}
            for call in one.answers
        ]
        yield {
            "messages": [
                {"role": "user", "content": one.query},
                {"role": "assistant", "content": "", "tool_calls": made},
            ],
            "tools": [{"type": "function", "function": tool} for tool in one.tools],
        }
