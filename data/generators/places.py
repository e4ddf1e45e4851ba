"""The fixed places of the world, what is to know about them, and how it is told and asked."""

from __future__ import annotations

from dataclasses import dataclass

from data.generators.world import MONTHS, Draw, Pool, Split, split_of, words

FRUITS = words("quince pear plum cherry lemon melon fig grape peach berry")
ANIMALS = words("fox seal hare goat duck horse bear wolf crane frog")

FACT_STATEMENTS = {
    "river": ("The river of {p} is the {v}.", "The {v} is the river that flows through {p}.", "In {p} flows the {v}."),
    "mayor": ("The mayor of {p} is {v}.", "{v} is the mayor of {p}.", "{p} has a mayor called {v}."),
    "fruit": ("The fruit of {p} is the {v}.", "People in {p} grow the {v}.", "The {v} grows in {p}."),
    "animal": ("The animal of {p} is the {v}.", "The flag of {p} shows the {v}.", "The {v} is on the flag of {p}."),
    "month": ("The month of the fair in {p} is {v}.", "The fair in {p} is in {v}.", "{p} holds its fair in {v}."),
}
FACT_QUESTIONS = {
    "river": Pool(
        (
            "What is the river of {p}?",
            "Which river flows through {p}?",
            "Name the river of {p}.",
            "Which river is in {p}?",
        ),
        ("Tell me the river of {p}.", "What river flows through {p}?"),
        ("Can you name the river of {p}?", "Which river is the river of {p}?"),
    ),
    "mayor": Pool(
        (
            "Who is the mayor of {p}?",
            "Name the mayor of {p}.",
            "What is the mayor of {p} called?",
            "Which mayor is in {p}?",
        ),
        ("Tell me the mayor of {p}.", "Who is mayor in {p}?"),
        ("Can you name the mayor of {p}?", "Say who is the mayor of {p}."),
    ),
    "fruit": Pool(
        (
            "What is the fruit of {p}?",
            "Which fruit grows in {p}?",
            "Name the fruit of {p}.",
            "What do people grow in {p}?",
        ),
        ("Tell me the fruit of {p}.", "What fruit grows in {p}?"),
        ("Can you name the fruit of {p}?", "Which fruit do people grow in {p}?"),
    ),
    "animal": Pool(
        (
            "What is the animal of {p}?",
            "Which animal is on the flag of {p}?",
            "Name the animal of {p}.",
            "What does the flag of {p} show?",
        ),
        ("Tell me the animal of {p}.", "What animal is on the flag of {p}?"),
        ("Can you name the animal of {p}?", "Which animal does the flag of {p} show?"),
    ),
    "month": Pool(
        (
            "When is the fair in {p}?",
            "Name the month of the fair in {p}.",
            "In which month is the fair in {p}?",
            "When does {p} hold its fair?",
        ),
        ("Tell me the month of the fair in {p}.", "In what month does {p} hold its fair?"),
        ("Can you name the month of the fair in {p}?", "In which month does {p} hold its fair?"),
    ),
}


@dataclass(frozen=True)
class Place:
    """One of the fixed places that pretraining tells about."""

    name: str
    facts: tuple[tuple[str, str], ...]


def places(count: int = 12) -> list[Place]:
    """The fixed places with their facts; the same list on every call."""
    draw = Draw("places", "pretrain")
    out = []
    for name in draw.several(count, draw.name):
        facts = (
            ("river", draw.name()),
            ("mayor", draw.name()),
            ("fruit", draw.one(FRUITS)),
            ("animal", draw.one(ANIMALS)),
            ("month", draw.one(MONTHS)),
        )
        out.append(Place(name, facts))
    return out


PLACES = places()


def facts_told(draw: Draw, place: Place) -> list[str]:
    """All facts of a place, a sentence each, in a new order and wording."""
    return [draw.one(FACT_STATEMENTS[kind]).format(p=place.name, v=value) for kind, value in draw.shuffled(place.facts)]


def split_of_fact(place: int, fact: int) -> Split:
    """Which split may ask for a fact of a place in a chat; pretraining tells them all."""
    return split_of(place + fact, 7)
