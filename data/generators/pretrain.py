"""Pretraining texts: facts, sums, stories and advice, and much that repeats itself, from which copying is learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from data.generators import advice, calls, chats
from data.generators.world import ANIMALS, DAYS, FRUITS, Draw, Place, Pool, places, sums, upper_first

Writer = Callable[[Draw], str]

FACTS = {
    "river": ("The river of {p} is the {v}.", "The {v} is the river that flows through {p}.", "In {p} flows the {v}."),
    "mayor": ("The mayor of {p} is {v}.", "{v} is the mayor of {p}.", "{p} has a mayor called {v}."),
    "fruit": ("The fruit of {p} is the {v}.", "People in {p} grow the {v}.", "The {v} grows in {p}."),
    "animal": ("The animal of {p} is the {v}.", "The flag of {p} shows the {v}.", "The {v} is on the flag of {p}."),
    "month": ("The month of the fair in {p} is {v}.", "The fair in {p} is in {v}.", "{p} holds its fair in {v}."),
}
PLACES = places()

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
    """What is to know about one of the fixed places, in a new order and wording, told or asked."""
    place: Place = draw.one(PLACES)
    if draw.chance(40):
        questions = [(draw.one(chats.FACT_QUESTIONS[kind].train), value) for kind, value in draw.shuffled(place.facts)]
        return "\n".join(f"{question.format(p=place.name)} {value}" for question, value in questions)
    lines = [draw.one(FACTS[kind]).format(p=place.name, v=value) for kind, value in draw.shuffled(place.facts)]
    return " ".join(lines)


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


def pairs_recalled(draw: Draw) -> str:
    """Pairs of names, then the same pairs in another order: to recall is to look back."""
    joint = draw.one((" has ", ": ", " is ", " = ", " and "))
    pairs = [f"{draw.anything()}{joint}{draw.anything()}" for _ in range(draw.number(2, 5))]
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


def membership(draw: Draw) -> str:
    """A list of things or of tools, and for some of them and some others whether they are in it."""
    make = draw.one((draw.item, lambda: draw.one(calls.NOUNS), lambda: draw.one(calls.NOUNS)))
    words = draw.several(draw.number(1, 4), make)
    asked = draw.several(6, lambda: draw.one((draw.one(words), make())))
    form = draw.one(("- {} {}", "- {} {}", "Is there a {}? {}"))
    verdicts = [form.format(word, "Yes." if word in words else "No.") for word in asked]
    return "\n".join([f"Here: a {', a '.join(words)}.", *verdicts])


def sum_lines(draw: Draw) -> str:
    """Some sums, as equations or as questions."""
    form = draw.one(("{} = {}", "{} is {}.", "What is {}? {}", "Compute {}. {}"))
    return "\n".join(form.format(question, answer) for question, answer in draw.shuffled(SUMS)[:12])


SUMS = sums()


def story(draw: Draw) -> str:
    """A short story of two people and two things."""
    a, b, p = draw.several(3, draw.name)
    t, u = draw.several(2, draw.thing)
    return draw.phrase(STORIES, a=a, b=b, p=p, t=t, u=u, d=draw.one(DAYS), n=draw.one(ANIMALS), f=draw.one(FRUITS))


def advice_text(draw: Draw) -> str:
    """How to do something, as the everyday chats explain it."""
    task, core = advice.question_and_core(draw)
    return f"How to {task}: {core}"


def call_text(draw: Draw) -> str:
    """Tools, a request and the calls that serve it, in JSON as the later stages write it."""
    case = calls.case(draw)
    request = upper_first(case.query)
    tools = json.dumps([{"type": "function", "function": tool} for tool in case.tools])
    return f"{tools}\n{request}\n{json.dumps(list(case.answers))}"


KINDS: tuple[tuple[int, Writer], ...] = (
    (12, echo),
    (18, record),
    (10, pairs_recalled),
    (8, list_turned),
    (8, membership),
    (10, call_text),
    (14, facts_of_a_place),
    (10, sum_lines),
    (6, story),
    (4, advice_text),
)


def documents(draw: Draw, count: int) -> Iterator[dict[str, str]]:
    """So many pretraining rows."""
    writers = [writer for weight, writer in KINDS for _ in range(weight)]
    for _ in range(count):
        yield {"text": draw.one(writers)(draw)}
