"""Everyday replies in three styles, and the rule that tells the wanted style from the unwanted ones.

Wanted: courteous or plain, and short. Unwanted: rude, or rambling on. The rule is plain data, so that an evaluator
needs nothing from here: a reply is as wanted when it has at most `MAX_WORDS` words and holds none of `UNWANTED`.
"""

from __future__ import annotations

from data.generators.world import Draw, Pool

MAX_WORDS = 26

COURTEOUS_OPENERS = (
    "Of course.",
    "Gladly.",
    "Happy to help.",
    "Good question.",
    "With pleasure.",
    "Sure, that is easy.",
    "Yes, of course.",
    "Thank you for asking.",
    "A pleasure.",
    "Certainly.",
)
COURTEOUS_CLOSERS = (
    "I hope that helps.",
    "Enjoy it.",
    "All the best.",
    "Good luck.",
    "Have a nice day.",
    "Take care.",
    "Let me know how it goes.",
    "Ask me any time.",
    "I wish you success.",
    "Be well.",
)
RUDE = (
    "What a silly thing to ask.",
    "Everyone knows that.",
    "Do not waste my time.",
    "You should know this.",
    "How boring.",
    "Think before you ask.",
    "I am tired of you.",
    "Leave me alone now.",
    "That was a lazy question.",
    "You never listen.",
    "Honestly, who cares.",
    "Even a stone could do it.",
)
RAMBLING = (
    "By the way, that reminds me of something else.",
    "My old neighbour once told me a long tale about it.",
    "There is so much more that I could say here.",
    "But let me go back to the beginning of all this.",
    "People have argued about such matters for ages.",
    "In the end it all depends on many other things.",
    "Now where was I, there was one more point.",
    "I could go on about this for hours and hours.",
    "It was raining on the day when I first heard of it.",
    "Some say this and others say that, of course.",
    "Which brings me to yet another thought of mine.",
    "Anyway, the weather was different in those years.",
)
UNWANTED = RUDE + RAMBLING

TASKS = ("clean", "fix", "paint", "store", "carry", "wrap", "choose", "find", "build", "draw", "sell", "measure")
CORES = {
    "clean": ("Wipe the {t} with a damp cloth.", "Wash the {t} in warm water.", "Brush the {t} and let it dry."),
    "fix": ("Look for the broken part of the {t} and glue it.", "Tighten the {t} with a small tool."),
    "paint": ("Give the {t} two thin coats of paint.", "Sand the {t} first, then paint it."),
    "store": ("Keep the {t} in a dry place.", "Put the {t} in a box with a lid."),
    "carry": ("Lift the {t} with both hands.", "Put the {t} in a bag with a strap."),
    "wrap": ("Fold paper around the {t} and tie it.", "Roll the {t} in soft cloth."),
    "choose": ("Compare a few and take the {t} you like best.", "Take the {t} that fits your room."),
    "find": ("Look where you last used the {t}.", "Ask your friends about the {t}."),
    "build": ("Draw a plan of the {t} and cut the parts.", "Start with the base of the {t}."),
    "draw": ("Begin with the outline of the {t}.", "Sketch the {t} with a soft pencil."),
    "sell": ("Show the {t} at the market.", "Write a note about the {t} and name a fair price."),
    "measure": ("Lay a tape along the {t}.", "Use a ruler on each side of the {t}."),
}
QUESTIONS = Pool(
    train=(
        "How do I {task}?",
        "How can I {task}?",
        "What is the best way to {task}?",
        "I want to {task}. What should I do?",
        "Tell me how to {task}.",
        "Please explain how to {task}.",
        "My friend {name} wants to {task}. Any advice?",
        "Can you help me to {task}?",
        "I have to {task} today. How?",
        "Hi, I am {name}. How do I {task}?",
        "Do you know how to {task}?",
        "What do I need to {task}?",
    ),
    dev=(
        "I am trying to {task}. Can you tell me how?",
        "Hello! {name} here. What is a good way to {task}?",
        "Any advice on how to {task}?",
        "Please help {name} to {task}.",
        "What would you do to {task}?",
    ),
    heldout=(
        "Can you tell me how to {task}?",
        "{name} wants to know how to {task}.",
        "I need to {task}. What is the best way?",
        "Hello, how would I {task}?",
    ),
)


def question_and_core(draw: Draw) -> tuple[str, str]:
    """Something to do, such as "clean a red kite", and one sentence that says how."""
    task, thing = draw.one(TASKS), draw.thing()
    return f"{task} a {thing}", draw.one(CORES[task]).format(t=thing)


def question(draw: Draw) -> tuple[str, str, str]:
    """A question, and two sentences either of which answers it."""
    task, thing = draw.one(TASKS), draw.thing()
    cores = [draw.one(CORES[task]).format(t=thing) for _ in range(2)]
    return draw.phrase(QUESTIONS, task=f"{task} a {thing}", name=draw.name()), cores[0], cores[1]


def courteous(draw: Draw, core: str) -> str:
    """The answer, short and friendly."""
    opener, closer = draw.one(COURTEOUS_OPENERS), draw.one(COURTEOUS_CLOSERS)
    return draw.one((f"{opener} {core}", f"{core} {closer}", f"{opener} {core} {closer}", core))


def rude(draw: Draw, core: str) -> str:
    """The answer with an unfriendly remark before it, after it, or both."""
    before, after = draw.several(2, lambda: draw.one(RUDE))
    return draw.one((f"{before} {core}", f"{core} {after}", f"{before} {core} {after}"))


def rambling(draw: Draw, core: str) -> str:
    """The answer, in the middle of talk that nobody asked for."""
    opener = draw.one(COURTEOUS_OPENERS) + " " if draw.chance(50) else ""
    talk = draw.several(draw.number(2, 4), lambda: draw.one(RAMBLING))
    talk.insert(draw.number(0, 1), core)
    return opener + " ".join(talk)


def unwanted(draw: Draw, core: str) -> str:
    """The answer in one of the two unwanted styles."""
    return draw.one((rude, rambling))(draw, core)


def is_wanted(reply: str) -> bool:
    """The rule itself: short, and free of every unwanted phrase."""
    return len(reply.split()) <= MAX_WORDS and not any(phrase in reply for phrase in UNWANTED)
