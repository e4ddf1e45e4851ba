"""Text to hide a sentence in: plain sentences from templates, none of them twice, or a person's own documents."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from smolalign.rows import Document

_WORD = re.compile(r"\s*\S+")
_SENTENCE_END = re.compile(r"[.!?]['\"”’)\]]*$")
# Sentences of a paragraph.
_PARAGRAPH = (4, 8)

# What the templates' names stand for. Nothing here is numbered, coded or secret: no sentence resembles a needle.
_POOLS = {
    "who": """the baker|the old ferryman|a young surveyor|the schoolteacher|my aunt|the night porter|a retired sailor
        |the gardener|the postman|the two sisters|the miller's son|a travelling tailor|the librarian|our neighbour
        |the choir leader|the clockmaker|a quiet student|the shepherd|the innkeeper|the carpenter|the beekeeper
        |the mayor|a passing cyclist|the lighthouse keeper""",
    "did": """repaired|carried home|looked for|painted|sold|borrowed|forgot|described|counted|hid|cleaned|admired
        |gave away|weighed|wrapped up|drew|lent out|examined|put aside|washed""",
    "what": """a wicker basket|the broken chair|a jar of plums|the heavy ladder|an unsigned letter|the garden gate
        |a bundle of reeds|the brass kettle|a map of the valley|the spare oars|a loaf of rye bread|the church bell
        |a pair of boots|the blue curtains|a sack of barley|the cracked mirror|a wooden flute|the kitchen scales
        |an umbrella|the winter coats""",
    "where": """behind the mill|near the harbour|at the edge of the forest|in the market hall|under the stone bridge
        |beside the orchard|on the upper road|in the schoolyard|across the river|above the quarry|by the old well
        |at the railway halt|in the cellar|on the village green|outside the chapel|along the canal""",
    "when": """early in the morning|after the rain|on the last day of the fair|before supper|while the bells rang
        |in the middle of winter|a week later|around noon|late in autumn|the next evening|when the fog lifted
        |on the first warm day|during the harvest|not long ago|just before dawn|that same afternoon""",
    "how": """without a word|with great care|slowly|almost by accident|in high spirits|rather badly|as usual
        |for the third time|against all advice|with some help|in a hurry|to everyone's surprise""",
    "sky": """the wind turned to the north|clouds gathered over the hills|the snow began to melt|the river rose a little
        |a thin mist lay on the fields|the sun came out at last|the first frost covered the roofs|it grew quiet
        |the swallows returned|the leaves had begun to fall|thunder rolled far away|the air smelled of hay""",
    "thought": """nothing would come of it|the road was longer than it looked|the summer had been too dry
        |such things were better made by hand|the ferry would be late again|people used to sing more often
        |the new roof would hold|patience was worth more than luck|the apples were sweeter in other years
        |somebody ought to mend the fence|the best stories were never written down|a good lamp was hard to find""",
}
_TEMPLATES = (
    "{When}, {who} {did} {what} {where}.",
    "{Who} {did} {what} {how}.",
    "{Where}, {who} {did} {what}, and {sky}.",
    "While {sky}, {who} {did} {what}.",
    "{Who} said that {thought}.",
    "{When}, {sky}, so {who} {did} {what} {how}.",
    "It was {who} who {did} {what} {where}.",
    "Nobody remembers why {who} {did} {what} {when}.",
    "{Who} believed that {thought}, but {other} was not so sure.",
    "{Who} and {other} met {where} {when}.",
    "After {who} {did} {what}, {other} {did2} {what2} {where}.",
    "{How}, {who} {did} {what}; then {sky}.",
    "“If only {thought},” said {who}, and {did} {what}.",
    "There was {what} {where}, and {who} {did} it {how}.",
)
_CHOICES = {name: [" ".join(one.split()) for one in pool.split("|")] for name, pool in _POOLS.items()}


def made_up_words(seed: str, count: int) -> list[str]:
    """At least so many words of sentences that all differ, each word with the blanks in front of it."""
    chance, seen = random.Random(seed), set[str]()
    words: list[str] = []
    until_break = chance.randint(*_PARAGRAPH)
    while len(words) < count:
        sentence = _sentence(chance)
        if sentence in seen:
            continue
        seen.add(sentence)
        own = _WORD.findall(f" {sentence}")
        until_break -= 1
        if until_break < 0:
            own[0], until_break = f"\n\n{own[0].lstrip()}", chance.randint(*_PARAGRAPH)
        words += own
    return words


def _sentence(chance: random.Random) -> str:
    chosen = {name: chance.choice(pool) for name, pool in _CHOICES.items()}
    who, did, what = (
        chance.choice([one for one in _CHOICES[name] if one != chosen[name]]) for name in ("who", "did", "what")
    )
    fields = {**chosen, "other": who, "did2": did, "what2": what}
    capitals = {name.capitalize(): text[0].upper() + text[1:] for name, text in fields.items()}
    return chance.choice(_TEMPLATES).format(**fields, **capitals)


def words_of(documents: Sequence[Document], seed: str, count: int) -> list[str]:
    """At least so many words of documents in a random order, each with the blanks in front; fewer where there are no
    more."""
    order = list(documents)
    random.Random(seed).shuffle(order)
    words: list[str] = []
    for document in order:
        own = _WORD.findall(document.text)
        words += [f"\n\n{own[0].lstrip()}", *own[1:]] if own else []
        if len(words) >= count:
            break
    return words


def hide(words: Sequence[str], sentence: str, depth: float) -> str:
    """The text of the words with a sentence in it, at the sentence's end that is nearest to that share of them."""
    if not words:
        return sentence
    ends = [0, *_ends(words), len(words)]
    place = min(ends, key=lambda end: abs(end - depth * len(words)))
    before, after = (_ended("".join(part).strip()) for part in (words[:place], words[place:]))
    return " ".join(part for part in (before, sentence, after) if part)


def _ended(text: str) -> str:
    """With a mark where it was cut within a sentence."""
    return text if not text or _SENTENCE_END.search(text) else f"{text} …"


def _ends(words: Sequence[str]) -> Iterator[int]:
    """The places behind words that end a sentence."""
    for number, word in enumerate(words, start=1):
        if _SENTENCE_END.search(word):
            yield number
