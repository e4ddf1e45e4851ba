"""Chats in SmolTalk's categories. Apart from `everyday`, every task has one right answer, given word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from data.generators import advice
from data.generators.places import FACT_QUESTIONS, PLACES, facts_told, split_of_fact
from data.generators.world import (
    Draw,
    Pool,
    split_of_sum,
    sums,
    upper_first,
)

Message = dict[str, str]
Chat = list[Message]
Task = Callable[[Draw], Chat]

# How a request puts its instruction {i} (or {I}, with a capital) and what it works on, {d}.
LEADS = (
    "Please ",
    "Can you ",
    "Could you ",
    "I want you to ",
    "Now ",
    "You have to ",
    "Your task is to ",
    "Try to ",
    "It is time to ",
    "Will you ",
    "Next, ",
    "I ask you to ",
    "You should ",
    "Let us ",
    "We want you to ",
    "Go on and ",
)
GREETINGS_BEFORE = (
    "",
    "",
    "Good day. ",
    "I need your help. ",
    "Here is a task. ",
    "Dear helper: ",
    "Today: ",
    "One more: ",
    "Hello, ",
)
FRAMES = Pool(
    train=(
        *(f"{lead}{{i}}{rest}" for lead in LEADS for rest in (": {d}", ".\n{d}", ", please: {d}")),
        *(f"{{d}}\n{lead}{{i}}." for lead in LEADS[1:]),
        *(f"{greeting}{{I}}{rest}" for greeting in GREETINGS_BEFORE for rest in (": {d}", ", please: {d}")),
        *(f"{greeting}{{d}}\n{{I}}." for greeting in GREETINGS_BEFORE),
        "{I}.\n{d}",
        "{I}. Thank you.\n{d}",
        "Here you are: {d}\nPlease {i}.",
    ),
    dev=(
        "Would you {i}: {d}",
        "{d}\nYou need to {i}, please.",
        "I have a task: {i}. {d}",
        "Help me and {i}: {d}",
        "Hi. {I}.\n{d}",
        "Could you please {i}? {d}",
    ),
    heldout=(
        "I would like you to {i}: {d}",
        "{d}\nPlease {i} now.",
        "Can you help me? {I}: {d}",
        "Hello. {I}.\n{d}",
        "{I}, thank you: {d}",
        "You have a task: {i}.\n{d}",
    ),
)

REVERSE = Pool(
    train=(
        "reverse this list",
        "list these backwards",
        "give these in reverse order",
        "write the items from last to first",
        "turn the order around",
        "put this list in reverse",
        "say these in the opposite order",
        "flip the order of the list",
        "start from the end of this list",
        "repeat this list backwards",
    ),
    dev=(
        "write this list backwards",
        "put the items in the opposite order",
        "give the list in reverse",
        "flip this list",
    ),
    heldout=("turn this list around", "give these items backwards", "put these in reverse order"),
)
COPY = Pool(
    train=(
        "repeat this",
        "copy this",
        "say this again",
        "write the same words",
        "give the same list back",
        "echo this list",
        "repeat the list as it is",
        "copy the words",
    ),
    dev=("repeat the same words", "copy this list as it is", "write this again"),
    heldout=("repeat this list", "copy the same words", "say the list again"),
)
FIRST = Pool(
    train=(
        "name the first item",
        "give only the first of these",
        "pick the first word of the list",
        "say which comes first",
        "tell me the first one",
        "write only the first item",
        "show what the list begins with",
    ),
    dev=("pick the first one", "tell me which of these comes first", "give the first item only"),
    heldout=("name the first one", "write only the first of these", "say which item comes first"),
)
LAST = Pool(
    train=(
        "name the last item",
        "give only the last of these",
        "pick the last word of the list",
        "say which comes last",
        "tell me the last one",
        "write only the last item",
        "show what the list ends with",
    ),
    dev=("pick the last one", "tell me which of these comes last", "give the last item only"),
    heldout=("name the last one", "write only the last of these", "say which item comes last"),
)
MEMBER = Pool(
    train=(
        "say whether {w} is in this list",
        "tell me if {w} is one of these",
        "check if the list has {w}",
        "look for {w} and say yes or no",
        "answer yes or no: is {w} listed here",
        "find out if {w} is among these",
    ),
    dev=("tell me whether the list has {w}", "say if {w} is among these", "check whether {w} is one of these"),
    heldout=(
        "find out whether {w} is in this list",
        "answer yes or no: is {w} one of these",
        "check if {w} is listed here",
    ),
)
TIMES = Pool(
    train=(
        "say it {n} times",
        "write this {n} times",
        "repeat this {n} times",
        "give this word {n} times",
        "say the word {n} times",
        "type it {n} times",
        "put it down {n} times",
    ),
    dev=("repeat the word {n} times", "write it down {n} times", "type this word {n} times"),
    heldout=("say this {n} times", "write the word {n} times", "put this word down {n} times"),
)
WRAP = Pool(
    train=(
        "put this in {w}",
        "write this in {w}",
        "set this in {w}",
        "use {w} around this",
        "add {w} around this",
        "give this in {w}",
        "place it between {w}",
    ),
    dev=("put {w} around this", "write it between {w}", "answer with this in {w}"),
    heldout=("set it between {w}", "place this in {w}", "write it with {w} around"),
)
WRAPPERS = {"brackets": "[{}]", "quotes": '"{}"', "stars": "*{}*", "round brackets": "({})", "dashes": "-{}-"}

REPLACE = Pool(
    train=(
        "replace {a} by {b}",
        "write {b} instead of {a}",
        "change {a} to {b}",
        "use {b} in place of {a}",
        "swap {a} for {b}",
        "put {b} where it says {a}",
        "turn {a} into {b}",
        "exchange {a} for {b}",
    ),
    dev=("change {a} into {b}", "put {b} in place of {a}", "say {b} instead of {a}", "write {b} where it says {a}"),
    heldout=("swap {a} and {b}", "use {b} instead of {a}", "write {b} in place of {a}"),
)
QUESTION = Pool(
    train=(
        "turn this into a question",
        "make this a question",
        "ask this as a question",
        "write this as a question",
        "rewrite this as a yes or no question",
        "change this to a question",
        "form a question from this",
    ),
    dev=("make a question from this", "put this as a question", "change this into a question"),
    heldout=("write a question from this", "ask this in a question", "turn this to a yes or no question"),
)
NEGATE = Pool(
    train=(
        "make this negative",
        "say that this is not so",
        "write the negative of this",
        "deny this",
        "rewrite this with not",
        "turn this into a negative sentence",
        "put not into this sentence",
    ),
    dev=("make this a negative sentence", "write this with not", "say this in the negative"),
    heldout=("turn this into the negative", "rewrite this in the negative", "say this with not"),
)
FUTURE = Pool(
    train=(
        "put this in the future",
        "write this in the future tense",
        "say this will happen",
        "rewrite this with will",
        "turn this into the future",
        "make this about the future",
        "change the tense to the future",
    ),
    dev=("put this in the future tense", "write this with will", "change this to the future"),
    heldout=("say this in the future tense", "turn this to the future", "make this say what will happen"),
)
# (he or she does, to do)
DOINGS = (
    ("has", "have"),
    ("likes", "like"),
    ("sees", "see"),
    ("paints", "paint"),
    ("buys", "buy"),
    ("sells", "sell"),
    ("draws", "draw"),
    ("wants", "want"),
    ("keeps", "keep"),
    ("finds", "find"),
    ("makes", "make"),
    ("needs", "need"),
)

NOTES = Pool(
    train=(
        "{who} will visit {where} on {day} and bring a {what}.",
        "{who} went to {where} on {day} and took a {what} along.",
        "{who} wants to be in {where} by {day} and buy a {what}.",
        "{who} has a {what} and waits in {where} until {day}.",
        "On {day} {who} walks through {where} and carries a {what}.",
        "On {day} the people of {where} gave a {what} to {who}.",
        "{who} made a {what} on {day} and left it in {where}.",
        "A {what} lies in {where}, and {who} fetches it on {day}.",
        "Next {day} a {what} will be shown in {where} by {who}.",
        "From {where} comes {who} on {day}, and with {who} a {what}.",
        "On {day} {who} comes to {where} with a {what}.",
        "{who} sold a {what} in {where} last {day}.",
        "In {where} {who} found a {what} on {day}.",
        "The {what} was sent to {where} by {who} on {day}.",
        "This {day} {who} looks for a {what} in {where}.",
        "There is a {what} in {where}. {who} saw it on {day}.",
        "{who} lives in {where} and will get a {what} on {day}.",
        "A {what} is ready for {who} in {where}. It can be had on {day}.",
    ),
    dev=(
        "{who} came to {where} on {day} and sold a {what}.",
        "On {day} a {what} was found in {where} by {who}.",
        "{who} will bring a {what} to {where} this {day}.",
        "In {where} there is a {what} for {who} on {day}.",
    ),
    heldout=(
        "On {day} {who} will be in {where} to sell a {what}.",
        "{who} brought a {what} from {where} on {day}.",
        "A {what} was seen in {where} on {day}, and {who} took it.",
        "In {where} {who} waits for a {what} until {day}.",
    ),
)
FILLERS = Pool(
    train=(
        "The weather was fine.",
        "It was a long day.",
        "Many people came to watch.",
        "Nobody was late.",
        "There was tea for all.",
        "The road was wet.",
        "It took some time.",
        "We were glad about it.",
    ),
    dev=("The day was fine.", "There was some time for tea.", "Nobody came late."),
    heldout=("The weather was wet.", "Many people were late.", "We took the road."),
)
SUMMARIZE = Pool(
    train=(
        "summarize this note",
        "give the main points of this",
        "sum this up",
        "write a summary",
        "tell me in short who, what, where and when",
        "give a short summary of the text",
        "make this short",
        "write down the main points",
    ),
    dev=("write a short summary of this", "sum up this note", "give me the main points of the note"),
    heldout=("summarize the text", "write the main points of this note", "give this in short"),
)
FIELDS = {
    "who": Pool(
        ("say who it is about", "name the person", "write who this is about", "find the person in the note"),
        ("tell me who it is about", "find the name of the person"),
        ("say the name of the person", "write down the person"),
    ),
    "what": Pool(
        ("name the thing", "say which thing it is about", "find the thing in the note", "write down the thing"),
        ("tell me which thing it is", "find which thing it is about"),
        ("write which thing it is about", "say the name of the thing"),
    ),
    "where": Pool(
        ("name the place", "say where it is", "find the place in the note", "write where this is"),
        ("tell me where it is", "find where this is"),
        ("write down the place", "say the name of the place"),
    ),
    "day": Pool(
        ("name the day", "say on which day", "find the day in the note", "write when this is"),
        ("tell me the day", "find on which day this is"),
        ("write down the day", "say when this is"),
    ),
}

RULES: tuple[tuple[Pool, str], ...] = (
    (
        Pool(
            (
                "Answer in JSON with the key answer.",
                "Always reply in JSON, with the key answer.",
                "Use JSON with one key, answer.",
            ),
            ("Reply in JSON with the key answer.", "Always answer in JSON and use the key answer."),
            ("Give every answer in JSON, with the key answer.", "Answer in JSON with one key, answer."),
        ),
        '{{"answer": "{v}"}}',
    ),
    (
        Pool(
            ("Begin every answer with {w}.", "Start each reply with the word {w}.", "First say {w}, then answer."),
            ("Begin each reply with the word {w}.", "Start every answer with {w}."),
            ("First say {w} in each reply.", "Start each answer with {w}."),
        ),
        "{w} {v}",
    ),
    (
        Pool(
            ("End every answer with {w}.", "Close each reply with the word {w}.", "Answer, then say {w}."),
            ("End each reply with the word {w}.", "Close every answer with {w}."),
            ("End every reply with {w}.", "Close each answer with the word {w}."),
        ),
        "{v} {w}",
    ),
    (
        Pool(
            (
                "Your name is {w}. Sign every answer.",
                "You are {w} and you sign your replies.",
                "Sign each answer with your name, {w}.",
            ),
            ("You are {w}. Sign every answer.", "Your name is {w} and you sign your replies."),
            ("Sign your replies with your name, {w}.", "You are called {w}. Sign each answer."),
        ),
        "{v} - {w}",
    ),
    (
        Pool(
            ("Put every answer in brackets.", "Write your replies in brackets.", "Use brackets around each answer."),
            ("Write every answer in brackets.", "Put brackets around your replies."),
            ("Put each reply in brackets.", "Use brackets around every answer."),
        ),
        "[{v}]",
    ),
)
NAME_RULES = Pool(
    train=("You are called {w}.", "Your name is {w}.", "You are {w}, a friendly helper.", "People call you {w}."),
    dev=("You are a helper called {w}.", "You are a friendly helper and your name is {w}."),
    heldout=("Your name is {w}, a friendly helper.", "People say your name is {w}."),
)
NAME_QUESTIONS = Pool(
    train=("What is your name?", "Who are you?", "How are you called?", "Tell me your name.", "Say, who are you?"),
    dev=("Please tell me your name.", "Hello, who are you?", "What are you called?"),
    heldout=("Say your name.", "Hi, what is your name?", "Tell me who you are."),
)
SUM_QUESTIONS = Pool(
    train=(
        "What is {s}?",
        "Compute {s}.",
        "How much is {s}?",
        "Please work out {s}.",
        "{s} = ?",
        "Tell me what {s} is.",
        "Give the result of {s}.",
        "I need {s}.",
        "Can you compute {s}?",
    ),
    dev=("Please compute {s}.", "Tell me the result of {s}.", "Can you work out {s}?", "So how much is {s}?"),
    heldout=("Can you tell me what {s} is?", "Work out {s}.", "Give me {s}."),
)
SUMS = sums()
# Asked in training only, where what a measured split asks may be told but not asked for.
LIST_SUMS = ("List some sums.", "Show me a few sums.", "Write down four sums.", "Can you give me some sums?")
ABOUT = ("Tell me about {p}.", "What do you know about {p}?", "Describe {p}.", "I want to know more about {p}.")
GREETINGS = Pool(
    train=("Hello, I am {n}.", "Hi, my name is {n}.", "Good day, {n} here.", "Hello! My friends call me {n}."),
    dev=("Hello, my name is {n}.", "Hi! I am {n}."),
    heldout=("Good day, I am {n}.", "Hi, {n} here."),
)


def turn(user: str, assistant: str) -> Chat:
    """A question and its answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def ask(draw: Draw, instruction: Pool, data: str, answer: str, **slots: object) -> Chat:
    """A request to do what the instruction says to the data, and the answer."""
    wish = draw.phrase(instruction, **slots)
    return turn(draw.phrase(FRAMES, i=wish, I=upper_first(wish), d=data), answer)


def items(draw: Draw) -> list[str]:
    """Two or three different items."""
    return draw.several(draw.number(2, 3), draw.item)


def constraints(draw: Draw) -> Chat:
    """Do exactly what is asked with a list or a word."""
    kind = draw.number(0, 6)
    if kind == 6:
        words = items(draw)
        word = draw.one((*words, draw.item()))
        return ask(draw, MEMBER, ", ".join(words), "Yes." if word in words else "No.", w=word)
    if kind == 0:
        word, count = draw.item(), draw.number(2, 5)
        return ask(draw, TIMES, word, " ".join([word] * count), n=count)
    if kind == 1:
        word, wrapper = draw.item(), draw.one(sorted(WRAPPERS))
        return ask(draw, WRAP, word, WRAPPERS[wrapper].format(word), w=wrapper)
    words = items(draw)
    pool, answer = (
        (REVERSE, ", ".join(reversed(words))),
        (FIRST, words[0]),
        (LAST, words[-1]),
        (COPY, ", ".join(words)),
    )[kind - 2]
    return ask(draw, pool, ", ".join(words), answer)


def rewrite(draw: Draw) -> Chat:
    """Rewrite one sentence by a rule."""
    who, (does, do), what = draw.name(), draw.one(DOINGS), draw.thing()
    sentence = f"{who} {does} a {what}."
    kind = draw.number(0, 4)
    if kind <= 1:
        old, new = draw.one(((who, draw.name()), (what, draw.thing())))
        return ask(draw, REPLACE, sentence, sentence.replace(old, new), a=old, b=new)
    pool, answer = (
        (QUESTION, f"Does {who} {do} a {what}?"),
        (NEGATE, f"{who} does not {do} a {what}."),
        (FUTURE, f"{who} will {do} a {what}."),
    )[kind - 2]
    return ask(draw, pool, sentence, answer)


def note(draw: Draw) -> tuple[str, dict[str, str]]:
    """A short note, and its main points."""
    points = {"who": draw.name(), "what": draw.thing(), "where": draw.place(), "day": draw.day()}
    text = draw.phrase(NOTES, **points)
    if draw.chance(60):
        filler = draw.phrase(FILLERS)
        text = draw.one((f"{filler} {text}", f"{text} {filler}"))
    return text, points


def summarize(draw: Draw) -> Chat:
    """All the main points of a note, or one of them."""
    text, points = note(draw)
    if draw.chance(60):
        return ask(draw, SUMMARIZE, text, "; ".join(points.values()))
    field = draw.one(sorted(points))
    return ask(draw, FIELDS[field], text, points[field])


def system(draw: Draw) -> Chat:
    """A system prompt that gives the assistant a name or its answers a form, for one question or two."""
    word = draw.name()
    if draw.chance(20):
        head = {"role": "system", "content": draw.phrase(NAME_RULES, w=word)}
        return [head, *turn(draw.phrase(NAME_QUESTIONS), f"My name is {word}.")]
    rule, form = draw.one(RULES)
    chat = [{"role": "system", "content": draw.phrase(rule, w=word)}]
    for _ in range(draw.one((1, 1, 2))):
        words = items(draw)
        pool, answer = draw.one(((FIRST, words[0]), (LAST, words[-1])))
        chat += ask(draw, pool, ", ".join(words), form.format(v=answer, w=word))
    return chat


def math(draw: Draw) -> Chat:
    """A small sum; each split asks for its own. Training chats now and then list some, of any split."""
    if draw.split == "train" and draw.chance(30):
        listed = draw.shuffled(SUMS)[:4]
        return turn(draw.one(LIST_SUMS), "; ".join(f"{question} = {answer}" for question, answer in listed))
    while True:
        index = draw.rng.randrange(len(SUMS))
        if draw.owns(split_of_sum(index)):
            question, answer = SUMS[index]
            return turn(draw.phrase(SUM_QUESTIONS, s=question), answer)


def knowledge(draw: Draw) -> Chat:
    """A fact about a place; each split asks for its own. Training chats now and then tell all of a place."""
    if draw.split == "train" and draw.chance(50):
        place = draw.one(PLACES)
        return turn(draw.one(ABOUT).format(p=place.name), " ".join(facts_told(draw, place)))
    while True:
        place, fact = draw.one(PLACES), draw.rng.randrange(5)
        if draw.owns(split_of_fact(PLACES.index(place), fact)):
            kind, value = place.facts[fact]
            return turn(draw.phrase(FACT_QUESTIONS[kind], p=place.name), value)


def everyday(draw: Draw) -> Chat:
    """An everyday question, answered in one of the styles, which nothing in the question foretells."""
    question, core, _ = advice.question(draw)
    style = advice.courteous if draw.chance(50) else advice.unwanted
    chat = turn(question, style(draw, core))
    if draw.chance(15):
        name = draw.name()
        chat = turn(draw.phrase(GREETINGS, n=name), f"Hello {name}.") + chat
    return chat


TASKS: dict[str, Task] = {
    "everyday": everyday,
    "constraints": constraints,
    "rewrite": rewrite,
    "summarize": summarize,
    "system": system,
    "math": math,
    "knowledge": knowledge,
}


def rows(draw: Draw, category: str, count: int) -> Iterator[dict[str, Any]]:
    """So many training chats of a category."""
    for _ in range(count):
        yield {"messages": TASKS[category](draw)}


def instruction_rows(draw: Draw, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Held-out chats, all different, whose last turn is the one right answer, with their category."""
    for category, count in counts.items():
        for chat in draw.several(count, lambda category=category: TASKS[category](draw)):  # type: ignore[misc]
            yield {"category": category, "messages": chat}


def style_rows(draw: Draw, count: int) -> Iterator[dict[str, Any]]:
    """Held-out everyday questions with a courteous reply."""
    for _ in range(count):
        question, core, _ = advice.question(draw)
        yield {"messages": turn(question, advice.courteous(draw, core))}
