"""The invented world: names, values and phrasings, each divided among the splits at the source."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Split = Literal["pretrain", "train", "dev", "heldout"]
MEASURED: tuple[Split, ...] = ("dev", "heldout")
T = TypeVar("T")


def words(text: str) -> tuple[str, ...]:
    """The words of a line, so that long lists stay readable."""
    return tuple(text.split())


STARTS = words(
    "Bel Bor Bru Dam Din Dol Dra Fal Fen Fir Flo Gar Gil Gon Gre Hal Hem Hor Jas Jul Kal Kem Kor Kri Lam Lin Lor Mel "
    "Mor Nal Nim Pal Pes Pir Por Quo Ras Rin Sal Sef Sol Tal Tem Tir Tum Val Ves Vol Wen Zan"
)
ENDS = words(
    "bex bin bor dal dek dum fel fol gan gem gus hax hob jop kas kel kos lux mal mex mir nes nor pan pim puk ral rib "
    "ros sev tam tel tov vin von wak yam zef zil zor"
)
NAMES = tuple(start + end for start in STARTS for end in ENDS)

LETTERS = words("B D F G K L M N P R S T")
SITES = words("Port Lake Mount Cape")
ADJECTIVES = words("red blue green small big tall new round soft warm cold quiet bright dark plain light")
NOUNS = words(
    "kite drum lamp boat coat cup ring rope door chair basket ladder blanket bottle mirror pillow clock hat bell spoon "
    "table shelf wheel fence"
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October")


@dataclass(frozen=True)
class Pool:
    """Phrasings of one meaning: those for training, and others that only rows of a measured split use."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    heldout: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The phrasings that this split may use."""
        return {"dev": self.dev, "heldout": self.heldout}.get(split, self.train)


def split_of(number: int, parts: int) -> Split:
    """Which split owns a number: one of so many parts goes to each measured split, the others to training."""
    return {parts // 2: MEASURED[0], parts - 1: MEASURED[1]}.get(number % parts, "train")


def split_of_name(index: int) -> Split:
    """Which split owns a name, from its position in `NAMES`: every start and every end is in all, no pair of them."""
    return split_of(index // len(ENDS) + index, 7)


def split_of_number(number: int) -> Split:
    """Numbers of two or more digits are owned by one split; one-digit numbers are common to all."""
    return split_of(number, 6)


def split_of_thing(adjective: int, noun: int) -> Split:
    """Which split owns an adjective and noun together."""
    return split_of(adjective + noun, 7)


class Draw:
    """A seeded source of choices that can only reach what belongs to its split."""

    def __init__(self, seed: str, split: Split = "train") -> None:
        self.rng = random.Random(seed)
        self.split: Split = split

    def one(self, options: Sequence[T]) -> T:
        """Any one of the options."""
        return options[self.rng.randrange(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self.rng.randrange(100) < percent

    def number(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + self.rng.randrange(high - low + 1)

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in another order."""
        out = list(options)
        self.rng.shuffle(out)
        return out

    def several(self, count: int, make: Callable[[], T]) -> list[T]:
        """So many different results of `make`."""
        out: list[T] = []
        while len(out) < count:
            item = make()
            if item not in out:
                out.append(item)
        return out

    def phrase(self, pool: Pool, *values: object, **slots: object) -> str:
        """One of the pool's phrasings for this split, with its slots filled."""
        return self.one(pool.of(self.split)).format(*values, **slots)

    def owns(self, split: Split) -> bool:
        """Whether values of this split may be drawn: pretraining draws what training draws."""
        return split == (self.split if self.split in MEASURED else "train")

    def name(self) -> str:
        """An invented proper name."""
        while True:
            index = self.rng.randrange(len(NAMES))
            if self.owns(split_of_name(index)):
                return NAMES[index]

    def place(self) -> str:
        """Where something is: a name that says what it names, such as "Port Belmir"."""
        return f"{self.one(SITES)} {self.name()}"

    def value(self) -> int:
        """A two-digit number that belongs to this split."""
        while True:
            number = self.number(10, 99)
            if self.owns(split_of_number(number)):
                return number

    def thing(self) -> str:
        """A common object with its quality, such as "red kite"."""
        while True:
            adjective, noun = self.rng.randrange(len(ADJECTIVES)), self.rng.randrange(len(NOUNS))
            if self.owns(split_of_thing(adjective, noun)):
                return f"{ADJECTIVES[adjective]} {NOUNS[noun]}"

    def code(self) -> str:
        """A code of a letter and a number, such as "K47"."""
        return f"{self.one(LETTERS)}{self.value()}"

    def item(self) -> str:
        """Something for a list: a name or a thing."""
        return self.one((self.name, self.thing))()

    def day(self) -> str:
        """A day of the week."""
        return self.one(DAYS)

    def anything(self) -> str:
        """Something that can be copied: a name, a thing, a place, a number, a code or a day."""
        return str(self.one((self.name, self.thing, self.place, self.value, self.code, self.day))())


def upper_first(text: str) -> str:
    """The text with its first letter made a capital."""
    return text[:1].upper() + text[1:]


def sums() -> list[tuple[str, str]]:
    """The sums and differences of the small numbers, as ("3 + 4", "7")."""
    numbers = range(1, 10)
    plus = [(f"{a} + {b}", str(a + b)) for a in numbers for b in numbers]
    minus = [(f"{a} - {b}", str(a - b)) for a in range(2, 10) for b in range(1, a)]
    return plus + minus


def split_of_sum(index: int) -> Split:
    """Which split may ask for a sum in a chat; pretraining states them all."""
    return split_of(index, 8)
