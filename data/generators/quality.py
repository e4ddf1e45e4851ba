"""Annotated documents: text, mathematics and code whose educational value, 0 to 5, is known since they are built so.

5 explains from the ground up, in order, with an example, an exercise and its answer. 4 lacks the exercise, 3 the
example or the reasons, and strays. 2 has bits of it out of order between other things. 1 only touches on the matter.
0 is spam, boilerplate, or code and numbers that nobody can read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data.generators.functions import COMMENT, FUNCTIONS
from data.generators.lessons import PROBLEMS, TOPICS, Function, Problem, Topic
from data.generators.world import Draw, Pool, Split, upper_first

OPENINGS = Pool(
    train=("What is {}?", "Understanding {}", "Lesson: {}", "How {} works", "{}, explained"),
    dev=("A first look at {}", "All about {}", "{} step by step"),
    heldout=("An introduction to {}", "{}: the basics", "Getting to know {}"),
)
ORDERED = Pool(
    train=("First, {}. Then {}. Finally, {}.", "Step 1: {}. Step 2: {}. Step 3: {}.", "1. {}\n2. {}\n3. {}"),
    dev=("To begin with, {}. After that {}. At last {}.",),
    heldout=("In the beginning {}. Next {}. In the end {}.",),
)
EXAMPLES = Pool(
    train=("For example: {}", "Here is an example. {}", "You can see it yourself: {}"),
    dev=("An everyday example: {}", "To see it at work: {}"),
    heldout=("Think of this case: {}", "Picture it like this. {}"),
)
EXERCISES = Pool(
    train=("Exercise: {}\nAnswer: {}", "Question: {}\nSolution: {}", "Check yourself. {}\n{}"),
    dev=("Try it: {}\nIt is so: {}",),
    heldout=("Now you: {}\nThe answer: {}",),
)
SUMMARIES = Pool(
    train=("In short: {}", "To sum up: {}", "Remember: {}"),
    dev=("What to keep in mind: {}",),
    heldout=("The main point again: {}",),
)
ASIDES = Pool(
    train=(
        "By the way, {n} from {p} told me so last {d}.",
        "Our site has a new look since {d}.",
        "I wrote this on the train to {p}, so forgive my typos.",
        "Share this page with {n} if you like it.",
    ),
    dev=("{n} asked me about this on {d}, and I forgot to answer.", "More on this after my trip to {p}."),
    heldout=("This post was first sent to {n} in {p}.", "I will add pictures next {d}, says {n}."),
)
ADVERTS = Pool(
    train=(
        "Get a {t} for only ${v}! Order by {d}!",
        "{n} Travel: cheap trips to {p} from ${v}.",
        "Sign up for our newsletter and win a {t}.",
        "Top {v} deals of the week at {n} Store.",
        "Click here to see what {n} did with a {t}!",
    ),
    dev=("Sale at {n} Market: {t}, now ${v}.", "Win a trip to {p} with {n} Club!"),
    heldout=("Only until {d}: {t} at {n} Shop, ${v} off.", "{n} Hotels {p}: book now, pay ${v}."),
)
CHATTER = Pool(
    train=(
        "Yesterday {n} and I went to {p} and talked about {x} for a minute, then we looked for a {t}.",
        "Does anybody know a good film about {x}? {n} says there is one, but I fell asleep on {d}.",
        "{n} Museum in {p} opens its hall on {x} on {d}. Tickets are ${v}, children free.",
        "Posted by {n} on {d}: lol my homework on {x} is late again, whatever.",
    ),
    dev=("{n} lost a {t} in the hall on {x} in {p}. Please call on {d}.",),
    heldout=("We met {n} at a talk on {x} in {p}. The coffee was ${v} and cold.",),
)
NOTICES = Pool(
    train=(
        "We use cookies to improve your experience. By using this site you accept our cookie policy. Accept all.",
        "Home | About | Contact | Login | Cart (0) | Help | Privacy",
        "Copyright {n} Ltd. All rights reserved. Terms of service apply. Ref {c}.",
        "404 Not Found. The page you asked for could not be found. Error {c}.",
        "Loading... Please enable JavaScript to view this page. Session {c}.",
    ),
    dev=(
        "This website stores cookies on your computer. Manage settings. Id {c}.",
        "Menu Search Sign in Basket {v} items",
    ),
    heldout=(
        "Your privacy matters to us and our {v} partners. Reject. Accept. {c}",
        "Skip to content. Back to top. Page {v}.",
    ),
)
SPAM = Pool(
    train=(
        "BUY {t} CHEAP {t} BEST {t} ONLINE NO PRESCRIPTION CALL NOW {v}{v}",
        "$$$ EARN ${v}000 A WEEK FROM HOME!!! {n} DID IT!!! CLICK {c}",
        "casino bonus {c} free spins {c} {n} jackpot {v} casino bonus {c}",
        "{t} {t} {t} {n} {t} wholesale {t} discount {t} outlet {t}",
    ),
    dev=("HOT {t} DEALS!!! {v}% OFF {v}% OFF {n} {c} {c}",),
    heldout=("{n}{c} followers likes cheap followers {v}k followers {t} followers",),
)
SIGNED = Pool(
    train=("Written by {n} on {d}.", "{n}, exercise {v}", "From the notes of {n}, page {v}."),
    dev=("Collected by {n}, part {v}.",),
    heldout=("By {n}, sheet {v}.",),
)
LICENCES = Pool(
    train=(
        "Copyright (c) {n}. Provided as is, without any warranty.",
        "Auto-generated for {n} by build {c}. Do not edit.",
    ),
    dev=("Generated file of {n}, revision {c}.",),
    heldout=("(c) {n}. Created by export {c}, changes will be lost.",),
)


def _filled(draw: Draw, pool: Pool, **slots: object) -> str:
    known = {
        "n": draw.name(),
        "p": draw.place(),
        "d": draw.day(),
        "t": draw.thing(),
        "v": draw.value(),
        "c": draw.code(),
    }
    return draw.phrase(pool, **known, **slots)


# --- text -------------------------------------------------------------------------------------------------------------


def text_document(draw: Draw, level: int) -> str:
    """Prose on a topic."""
    topic = draw.one(TOPICS[draw.split])
    if level >= 3:
        return "\n".join(_lesson(draw, topic, level))
    if level == 2:
        bits = draw.shuffled([topic.example, topic.why, f"{upper_first(draw.one(topic.steps))}.", topic.answer])[:2]
        return "\n".join(draw.shuffled([*bits, _filled(draw, ADVERTS), _filled(draw, ASIDES), _filled(draw, ADVERTS)]))
    if level == 1:
        lines = [_filled(draw, CHATTER, x=topic.term), *(_filled(draw, ADVERTS) for _ in range(draw.number(1, 3)))]
        return "\n".join(draw.shuffled([*lines, _filled(draw, ASIDES)]))
    return _worthless(draw)


def _lesson(draw: Draw, topic: Topic, level: int) -> list[str]:
    lines = [topic.what, topic.why]
    if level == 3:
        lines = draw.one(([*lines, draw.one(topic.steps) + "."], [topic.what, topic.example], lines))
        return [*lines, _filled(draw, ASIDES), *([_filled(draw, ADVERTS)] if draw.chance(30) else [])]
    lines.append(upper_first(draw.phrase(ORDERED, *topic.steps)))
    lines.append(draw.phrase(EXAMPLES, topic.example))
    if level == 4:
        return [*lines[:3], *lines[3:], *([_filled(draw, ASIDES)] if draw.chance(20) else [])]
    title = upper_first(draw.phrase(OPENINGS, topic.term))
    return [title, "", *lines, draw.phrase(EXERCISES, topic.question, topic.answer), draw.phrase(SUMMARIES, topic.what)]


def _worthless(draw: Draw) -> str:
    pool = draw.one((NOTICES, SPAM))
    return draw.one(("\n", " ")).join(_filled(draw, pool) for _ in range(draw.number(2, 6)))


# --- mathematics ------------------------------------------------------------------------------------------------------


def math_document(draw: Draw, level: int) -> str:
    """A problem of arithmetic, or numbers."""
    kinds = PROBLEMS[draw.split]
    problem = draw.one(kinds)(draw)
    if level >= 3:
        return "\n".join(_worked(draw, problem, level))
    if level == 2:
        pile = [draw.one(kinds)(draw) for _ in range(draw.number(2, 4))]
        lines = [f"{one.question} {one.answer}" for one in pile]
        return "\n".join(draw.shuffled([*lines, _filled(draw, ADVERTS), _filled(draw, ASIDES)]))
    if level == 1:
        lines = [_filled(draw, CHATTER, x=problem.name) for _ in range(draw.number(1, 2))]
        return "\n".join(
            [*lines, f"Page {draw.value()}, numbers {draw.value()} and {draw.value()}.", _filled(draw, ADVERTS)]
        )
    return draw.one((_numbers, _formulas, _worthless))(draw)


def _worked(draw: Draw, problem: Problem, level: int) -> list[str]:
    steps = [f"{step}" for step, _ in problem.steps]
    if level == 3:
        lines = [problem.question, *steps, f"= {problem.answer}"]
        return [*lines, _filled(draw, ASIDES)] if draw.chance(60) else lines
    reasoned = [f"{step}, {reason}." for step, reason in problem.steps]
    lines = [f"Problem. {problem.question}", *reasoned, f"So the answer is {problem.answer}."]
    if level == 4:
        return [problem.rule, *lines] if draw.chance(50) else [*lines, f"Check: {problem.check}"]
    again = draw.one(PROBLEMS[draw.split])(draw)
    title = upper_first(draw.phrase(OPENINGS, problem.name))
    exercise = draw.phrase(EXERCISES, again.question, f"{again.answer}. {again.check}")
    return [title, "", problem.rule, *lines, f"Check: {problem.check}", exercise, draw.phrase(SUMMARIES, problem.rule)]


def _numbers(draw: Draw) -> str:
    rows = range(draw.number(6, 14))
    joint = draw.one((" ", ",", "\t", ";"))
    return "\n".join(joint.join(str(draw.value() * draw.value()) for _ in range(8)) for _ in rows)


def _formulas(draw: Draw) -> str:
    signs = ("+", "-", "=", "\\frac", "{", "}", "^", "_", "\\sum", "x", "y", "(", ")", "\\alpha", "&", "\\\\")
    return " ".join(
        draw.one(signs) + (str(draw.value()) if draw.chance(20) else "") for _ in range(draw.number(60, 160))
    )


# --- code -------------------------------------------------------------------------------------------------------------


def code_document(draw: Draw, level: int) -> str:
    """A function or two in one of three languages, or what looks like code."""
    function = draw.one(FUNCTIONS[draw.split])
    if level >= 3:
        alike = [other for other in FUNCTIONS[draw.split] if other.language == function.language]
        chosen = [function, *(other for other in draw.shuffled(alike)[: draw.number(0, 1)] if other != function)]
        parts = ["\n".join(_taught(draw, each, level)) for each in chosen]
        signed = [f"{COMMENT[function.language]} {_filled(draw, SIGNED)}"] if draw.chance(70) else []
        return "\n\n\n".join([*signed, *parts])
    code = [line for line, _ in function.code]
    if level == 2:
        hurried = [*_shortened(function, code), *_unused(draw, function)]
        return "\n".join([f"{COMMENT[function.language]} TODO {draw.name()}", *hurried])
    if level == 1:
        return "\n".join(_settings(draw, function.language))
    return draw.one((_minified, _dumped, _conflict))(draw, function)


def _taught(draw: Draw, function: Function, level: int) -> list[str]:
    mark = COMMENT[function.language]
    bare = [line for line, _ in function.code]
    call, result = function.use
    if level == 3:
        return [f"{mark} {function.does}", *bare] if draw.chance(50) else [*bare, "", f"{mark} {call} gives {result}"]
    commented = [
        line
        for code, comment in function.code
        for line in ([f"{_indent(code)}{mark} {upper_first(comment)}."] if comment else []) + [code]
    ]
    if level == 4:
        return [f"{mark} {function.does}", *commented, "", f"{mark} Example: {call} gives {result}"]
    title = upper_first(draw.phrase(OPENINGS, function.name))
    head = [f"{mark} {line}".rstrip() for line in (title, "", function.does, f"The idea: {function.idea}")]
    foot = draw.phrase(EXERCISES, f"what does {call} give?", f"{result}, as the steps above show.").split("\n")
    summary = draw.phrase(SUMMARIES, function.idea)
    return [*head, "", *commented, "", *(f"{mark} {line}" for line in (*foot, summary))]


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _shortened(function: Function, code: list[str]) -> list[str]:
    """The code with its own names cut to single letters."""
    letters = dict(zip(function.names, "fxabcdeg", strict=False))
    return [re.sub(r"\w+", lambda match: letters.get(match[0], match[0]), line) for line in code]


def _unused(draw: Draw, function: Function) -> list[str]:
    mark = COMMENT[function.language]
    lines = (
        f"{mark} tmp{draw.value()} = {draw.value()}",
        f"{mark} print(x, {draw.value()})",
        f"{mark} fixme {draw.code()}",
    )
    return ["", *draw.shuffled(lines)[: draw.number(1, 3)]]


def _settings(draw: Draw, language: str) -> list[str]:
    """A licence, imports and settings: code that runs and teaches nothing."""
    mark = COMMENT[language]
    names = draw.several(draw.number(5, 9), lambda: f"{draw.name()}_{draw.code()}")
    form = {"python": "{} = {}", "javascript": "export const {} = {};", "c": "#define {} {}"}[language]
    use = {"python": "import {}", "javascript": 'import "./{}";', "c": '#include "{}.h"'}[language]
    imports = [use.format(draw.name().lower()) for _ in range(draw.number(2, 5))]
    return [f"{mark} {_filled(draw, LICENCES)}", *imports, *(form.format(name.upper(), draw.value()) for name in names)]


def _minified(draw: Draw, function: Function) -> str:
    code = "".join(
        re.sub(r"\s+", " ", line.strip()) + ";" for line in _shortened(function, [c for c, _ in function.code])
    )
    junk = "".join(f"var {draw.one('abcdefgh')}{draw.value()}={draw.value()},_{draw.code()}=!0;" for _ in range(10))
    return f"!function(e,t){{{junk}{code}}}(this,{draw.value()});" * draw.number(1, 2)


def _dumped(draw: Draw, function: Function) -> str:
    if draw.chance(50):
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        return "data:image/png;base64," + "".join(draw.one(alphabet) for _ in range(draw.number(300, 600)))
    rows = [", ".join(f"0x{draw.number(0, 255):02x}" for _ in range(12)) for _ in range(draw.number(5, 9))]
    return "unsigned char blob[] = {\n" + ",\n".join(rows) + "\n};"


def _conflict(draw: Draw, function: Function) -> str:
    code = [line for line, _ in function.code]
    torn = [line for line in _shortened(function, code) if draw.chance(60)]
    frames = [f"  at {draw.name()}.{draw.code()}({draw.name()}:{draw.value()})" for _ in range(draw.number(5, 9))]
    return "\n".join(["<<<<<<< HEAD", *torn, "=======", *frames, f">>>>>>> {draw.code()}"])


KINDS: Mapping[str, Callable[[Draw, int], str]] = {
    "text": text_document,
    "math": math_document,
    "code": code_document,
}


def rows(draw: Draw, each: int) -> Iterator[dict[str, Any]]:
    """So many different documents of each kind at each value, all mixed."""
    made = [
        {"text": text, "score": level, "kind": kind}
        for kind, write in KINDS.items()
        for level in range(6)
        for text in draw.several(each, lambda write=write, level=level: write(draw, level))  # type: ignore[misc]
    ]
    yield from draw.shuffled(made)


def topics_of(split: Split) -> tuple[str, ...]:
    """What a split's documents teach, by name."""
    return tuple(topic.term for topic in TOPICS[split]) + tuple(function.name for function in FUNCTIONS[split])
