"""Preference pairs out of records with several rated answers, as raw UltraFeedback has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from smolalign.data.formats.conversations import with_system
from smolalign.data.formats.fields import Converted, Record, list_of, number_of, text_of
from smolalign.data.formats.preference import pair_or_skip
from smolalign.data.strict_json import shorten
from smolalign.errors import UserError
from smolalign.recipe.data import PairChoice
from smolalign.rows import Message, Pair, Skip

TIE, BELOW_MARGIN = Skip("tie"), Skip("margin below min_margin")
# Means of thirds and quarters are not exact, and a margin met on paper counts as met.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Rated:
    rating: float
    text: str


def is_ultrafeedback_raw(record: Record) -> bool:
    return isinstance(record.get("instruction"), str) and isinstance(record.get("completions"), list)


def from_ultrafeedback_raw(record: Record) -> Converted:
    """openbmb/UltraFeedback: `instruction` and rated `completions`; the best is chosen, the worst rejected."""
    return rated_pair(record, PairChoice(), seed=0)


def rated_pair(record: Record, choice: PairChoice, seed: int) -> Pair | Skip:
    """The best answer of a record in openbmb/UltraFeedback's layout, against a worse one.

    A completion has a `response`, GPT-4's `overall_score` of 1 to 10, and `annotations` with a `Rating` of 1 to 5, as
    text or "N/A", for helpfulness, honesty, instruction following and truthfulness; `fine-grained_score` is their mean.
    Overall scores are wrong in places: of the 2628 tens in the set's first version many were ones, and those of
    fine-grained scores between 2 and 4 were rated anew in December 2023. The published sets of pairs chose so:
    HuggingFaceH4/ultrafeedback_binarized took the best by overall score against a random other, of the mended scores;
    argilla/ultrafeedback-binarized-preferences-cleaned the best by mean rating against a random other, without ties.

    Args:
        choice: which score counts, and which worse answer is rejected. A random one is any that is worse by at least
            `min_margin`, each as likely. Scores of different scales are never compared.
        seed: of a random choice, which depends on it, the instruction and the answers' texts, and on nothing else.

    Returns:
        The pair with its scores; Skip where fewer than two answers are rated, all are rated alike, or none is worse by
        `min_margin`, and for pairs that teach nothing. Of equally good or bad answers the first counts.

    Raises:
        UserError: the record is broken.
    """
    instruction, rated = text_of(record, "instruction"), _rated(record, choice)
    if len(rated) < 2:
        return Skip("fewer than two rated answers")
    best = max(rated, key=lambda answer: answer.rating)
    worse = [answer for answer in rated if answer.rating < best.rating]
    if not worse:
        return TIE
    apart = [answer for answer in worse if _apart(best.rating, answer.rating, choice)]
    if not apart:
        return BELOW_MARGIN
    if choice.rejected == "random":
        # The least of equally distributed hashes: an answer's lot is its own, whatever others the margin leaves.
        rejected = min(apart, key=lambda answer: _lot(seed, instruction, answer.text))
    else:
        rejected = min(apart, key=lambda answer: answer.rating)
    prompt = with_system(record, (Message("user", instruction),))
    chosen, other = (Message("assistant", answer.text) for answer in (best, rejected))
    return pair_or_skip(Pair(prompt, chosen, other, (), best.rating, rejected.rating))


def scored_pair(pair: Pair, choice: PairChoice) -> Pair | Skip:
    """A pair that was published as one, or Skip if its scores lie closer together than a `min_margin` above 0.

    Without a margin, and without scores, pairs stay as they were published.
    """
    if not choice.min_margin or pair.score_chosen is None or pair.score_rejected is None:
        return pair
    return pair if _apart(pair.score_chosen, pair.score_rejected, choice) else BELOW_MARGIN


def _apart(better: float, worse: float, choice: PairChoice) -> bool:
    return better - worse >= choice.min_margin - _ROUNDING


def _rated(record: Record, choice: PairChoice) -> list[_Rated]:
    """The answers that have a rating, by the choice's scale that rates most of them, the first if several do."""
    completions = list_of(record, "completions")
    for index, completion in enumerate(completions):
        if not isinstance(completion, Mapping):
            raise UserError(f"completions[{index}] must be an object, not {shorten(completion)}")
    best: list[tuple[float, Record]] = []
    for rate in _SCALES[choice.score]:
        rated = [(rating, completion) for completion in completions if (rating := rate(completion)) is not None]
        if len(rated) > len(best):
            best = rated
    return [_Rated(rating, text_of(completion, "response")) for rating, completion in best]


def _overall(completion: Record) -> float | None:
    return number_of(completion.get("overall_score"))


def _fine_grained(completion: Record) -> float | None:
    return number_of(completion.get("fine-grained_score"))


def _annotated(completion: Record) -> float | None:
    """Mean of the ratings that are numbers."""
    annotations = completion.get("annotations")
    if not isinstance(annotations, Mapping):
        return None
    marks = [number_of(a.get("Rating")) for a in annotations.values() if isinstance(a, Mapping)]
    ratings = [mark for mark in marks if mark is not None]
    return sum(ratings) / len(ratings) if ratings else None


_SCALES: dict[str, tuple[Callable[[Record], float | None], ...]] = {
    "auto": (_overall, _fine_grained, _annotated),
    "overall": (_overall,),
    "fine_grained": (_fine_grained, _annotated),
}


def _lot(seed: int, instruction: str, answer: str) -> bytes:
    """A hash of an answer to an instruction. Their lengths part the texts, so that no two divisions are the same."""
    text = f"{seed} {len(instruction)} {instruction}{answer}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
