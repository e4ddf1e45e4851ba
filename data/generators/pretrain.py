"""Pretraining texts: facts, sums, stories and advice, and much that repeats itself, from which copying is learned;
records and calls; and long ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from data.generators import advice, calls, chats
from data.generators.places import ANIMALS, FACT_QUESTIONS, FRUITS, PLACES, facts_told
from data.generators.world import Draw, Pool, sums

Writer = Callable[[Draw], str]


LINKS = Pool(
    train=("Again: {}", "Once more: {}", "That is {}", "And then {}", "{}", "So {}", '"{}"', "[{}]"),
    dev=("A second time: {}", "In other words {}"),
    heldout=("Then again {}", "That is once more {}"),
)
STORIES = Pool(
    train=(
        "{a} lived near the {t}. One day {a} met {b}. {b} had lost a {u}. {a} found the {u}, and {b} thanked {a}.",
        "On {d} {a} and {b} went to {p}. {a} carried a {t} and {b} carried a {u}. In {p} they sold the {t}.",
        "{b} asked {a} for a {t}. {a} gave {b} the {t}. The next day {b} gave the {t} back to {a}.",
        "There was a {n} called {a}. The {n} lived in {p} with {b}. Every {d} {a} the {n} ate a {f} with {b}.",
        "{a} has a {t}. {b} has a {u}. They trade. Now {a} has the {u} and {b} has the {t}.",
    ),
    dev=(
        "In {p} {a} and {b} share a {t}. On {d} {a} keeps the {t}, and then {b} keeps the {t}.",
        "{a} wanted a {u}. {b} of {p} sold {a} a {u}, and a {f} too.",
    ),
    heldout=(
        "{a} found a {t} in {p}. On {d} {a} sold the {t} to {b}, and {b} was glad about the {t}.",
        "{b} has a {u}, and {a} has a {t} from {p}. {b} gave {a} the {u} for the {t}.",
    ),
)
RECORD_FIELDS = ("name", "city", "day", "count", "item", "guest", "code", "minutes", "owner", "price", "title", "text")


def facts_of_a_place(draw: Draw) -> str:
    """What is to know about one of the fixed places, told or asked."""
    place = draw.one(PLACES)
    if draw.chance(60):
        return " ".join(facts_told(draw, place))
    questions = [(draw.one(FACT_QUESTIONS[kind].train), value) for kind, value in draw.shuffled(place.facts)]
    return "\n".join(f"{question.format(p=place.name)} {value}" for question, value in questions)


def record(draw: Draw) -> str:
    """One record, written in two or three forms."""
    fields = draw.shuffled(RECORD_FIELDS)[: draw.number(2, 4)]
    values = {field: draw.anything() for field in fields}
    forms = (
        json.dumps(values),
        "\n".join(f"{field}: {value}" for field, value in values.items()),
        "\n".join(f"- {value}" for value in values.values()),
        " ".join(f"The {field} is {value}." for field, value in values.items()),
        ", ".join(str(value) for value in values.values()),
    )
    return "\n".join(draw.shuffled(forms)[: draw.number(2, 3)])


def echo(draw: Draw) -> str:
    """A list of words that comes back several times, now and then between other words."""
    make = draw.one((draw.name, draw.name, draw.anything, draw.anything))
    words = draw.several(draw.number(4, 10), make)
    joint = draw.one((" ", " ", " ", " ", ", ", "; ", "\n", " and "))
    lines = [joint.join(words)]
    lines += [draw.phrase(LINKS, joint.join(words)) for _ in range(draw.number(1, 3))]
    return "\n".join(lines)


def pairs_recalled(draw: Draw, fewest: int = 2, most: int = 5) -> str:
    """Pairs of names, then the same pairs in another order: to recall is to look back."""
    joint = draw.one((" has ", ": ", " is ", " = ", " and "))
    pairs = [f"{draw.anything()}{joint}{draw.anything()}" for _ in range(draw.number(fewest, most))]
    return ". ".join(pairs + draw.shuffled(pairs)) + "."


def list_turned(draw: Draw) -> str:
    """A list with its ends named, or turned around."""
    words = draw.several(draw.number(2, 4), draw.anything)
    shown = ", ".join(words)
    views = (
        f"In reverse: {', '.join(reversed(words))}.",
        f"The first is {words[0]}.",
        f"The last is {words[-1]}.",
        f"The second is {words[1]}.",
        f"There are {len(words)}.",
    )
    return " ".join([f"The list is {shown}.", *draw.shuffled(views)[:3]])


def sum_lines(draw: Draw) -> str:
    """Some sums, as equations or as questions."""
    form = draw.one(("{} = {}", "{} is {}.", "What is {}? {}", "Compute {}. {}"))
    return "\n".join(form.format(question, answer) for question, answer in draw.shuffled(SUMS)[:12])


SUMS = sums()


def story(draw: Draw) -> str:
    """A short story of two people and two things."""
    a, b, p = draw.several(3, draw.name)
    t, u = draw.several(2, draw.thing)
    return draw.phrase(STORIES, a=a, b=b, p=p, t=t, u=u, d=draw.day(), n=draw.one(ANIMALS), f=draw.one(FRUITS))


def advice_text(draw: Draw) -> str:
    """How to do something, as the everyday chats explain it."""
    task, core = advice.question_and_core(draw)
    return f"How to {task}: {core}"


def call_text(draw: Draw, fewest: int = 2, most: int = 5) -> str:
    """Tools, some requests and the calls that serve each, in JSON as the later stages write it."""
    offered = calls.offer(draw)
    lines = [json.dumps([{"type": "function", "function": tool.schema()} for tool in offered])]
    for _ in range(draw.number(fewest, most)):
        query, answers = calls.request(draw, offered)
        lines += [query, json.dumps(answers)]
    return "\n".join(lines)


def sentence_forms(draw: Draw) -> str:
    """Two sentences, each also as a question, in the negative and in the future."""
    forms = []
    for _ in range(2):
        who, (does, do), what = draw.name(), draw.one(chats.DOINGS), draw.thing()
        forms.append(
            f"{who} {does} a {what}. Does {who} {do} a {what}? {who} does not {do} a {what}. {who} will {do} a {what}."
        )
    return " ".join(forms)


# How often each writer writes, and for which source.
KINDS: tuple[tuple[int, str, Writer], ...] = (
    (12, "text", echo),
    (18, "records", record),
    (10, "text", pairs_recalled),
    (8, "text", list_turned),
    (10, "records", call_text),
    (8, "text", sentence_forms),
    (14, "text", facts_of_a_place),
    (10, "text", sum_lines),
    (6, "text", story),
    (4, "text", advice_text),
)


def documents(draw: Draw, count: int, only: str | None = None) -> Iterator[dict[str, str]]:
    """So many rows of all sources, or of one."""
    writers = [writer for weight, source, writer in KINDS if only in (None, source) for _ in range(weight)]
    for _ in range(count):
        yield {"text": draw.one(writers)(draw)}


def long_documents(draw: Draw, count: int) -> Iterator[dict[str, str]]:
    """So many rows of some hundred tokens, in which what is asked for stands far back."""
    for index in range(count):
        yield {"text": pairs_recalled(draw, 20, 40) if index % 2 else call_text(draw, 8, 16)}
