"""MT-Bench's files: questions of two turns, and reference answers to some of them.

Layouts of FastChat (Zheng et al. 2023, arXiv:2306.05685): `question.jsonl` of `question_id`, `category`, `turns` and
`reference`, and `reference_answer/MODEL.jsonl` of `question_id` and `choices`. On the Hub,
HuggingFaceH4/mt_bench_prompts has `prompt_id` and `prompt` in place of `question_id` and `turns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smolalign.data.records import read_records
from smolalign.data.strict_json import shorten
from smolalign.data.whole import read_whole
from smolalign.errors import UserError, require_no_wrong_rows
from smolalign.recipe.data import DataSource

# The categories in which the judge is shown a reference answer.
WITH_REFERENCE = ("math", "reasoning", "coding")
# The metrics of each turn; a question has no more turns.
TURNS = ("turn_1", "turn_2")
# Names in the records of questions, which no category may have.
_TAKEN = {"score", *TURNS, "unrated", "item", "of", "row", "category", "prompt", "reply", "stopped", "ratings"}
_TAKEN |= {"unread", "judge_prompts", "judgements", "model", "task"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question with one that follows on it.

    Attributes:
        id: the original's number of the question.
        category: such as `writing`.
        turns: what the user says, in one turn or two.
        references: correct replies, to the first turns or to all; empty where there are none, or none is shown.
        origin: where it was read.
    """

    id: Any
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...]
    origin: str


def read_questions(sources: Sequence[DataSource], reference_answers: str | None) -> list[Question]:
    """The questions of all sources.

    Args:
        sources: resolved.
        reference_answers: a file of them, which take the place of the questions' own.

    Raises:
        UserError: a row is broken, or a question that needs a reference answer has none in the file.
    """
    questions, errors = read_whole(sources, _question)
    require_no_wrong_rows(errors)
    if reference_answers is None:
        return questions
    answers = _answers(reference_answers)
    lacking = [q for q in questions if q.category in WITH_REFERENCE and len(answers.get(q.id, ())) < len(q.turns)]
    if lacking:
        more = f", nor for {len(lacking) - 1} more" if len(lacking) > 1 else ""
        what = f"no reference answer to every turn of question {lacking[0].id} of {lacking[0].origin}{more}"
        raise UserError(what, where=reference_answers)
    return [replace(q, references=answers[q.id]) if q.category in WITH_REFERENCE else q for q in questions]


def _question(record: Mapping[str, Any], origin: str) -> Question:
    number = record.get("question_id", record.get("prompt_id"))
    category, turns = record.get("category"), record.get("turns", record.get("prompt"))
    references = record.get("reference") or []
    if not isinstance(number, int | str):
        raise UserError(f"question_id must be a number, not {shorten(number)}")
    if not isinstance(category, str) or not category or category in _TAKEN:
        raise UserError(f"category must be a name that no metric or field of samples has, not {shorten(category)}")
    if not _texts(turns) or not 1 <= len(turns) <= len(TURNS):
        raise UserError(f"turns must be a list of one text or two, not {shorten(turns)}")
    if not _texts(references, empty=True):
        raise UserError(f"reference must be a list of texts, not {shorten(references)}")
    shown = references if category in WITH_REFERENCE else []
    known = next((place for place, text in enumerate(shown) if not (text or "").strip()), len(shown))
    return Question(number, category, tuple(turns), tuple(shown[:known]), origin)


def _texts(value: Any, *, empty: bool = False) -> bool:
    if not isinstance(value, list):
        return False
    return all((isinstance(one, str) and (empty or bool(one.strip()))) or (empty and one is None) for one in value)


def _answers(file: str) -> dict[Any, tuple[str, ...]]:
    """The turns of the first choice, by question."""
    answers = {}
    for origin, record in read_records(file):
        try:
            turns = record["choices"][0]["turns"]
        except (LookupError, TypeError):
            turns = None
        if not _texts(turns) or not isinstance(record.get("question_id"), int | str):
            what = "a reference answer must have question_id and choices [{turns: [texts]}]"
            raise UserError(what, where=origin)
        answers[record["question_id"]] = tuple(turns)
    return answers
