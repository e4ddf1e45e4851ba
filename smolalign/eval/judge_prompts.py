"""What a judge is asked, in the layout of FastChat's `judge_prompts.jsonl`, and what is read out of its answers.

The names, the fields in braces and the marks of a verdict are those of Zheng et al. 2023 (arXiv:2306.05685), so that
a file of published prompts takes the place of ours. The wording here is this project's own.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smolalign.data.records import read_records
from smolalign.errors import UserError
from smolalign.store import digest_json

LOWEST, HIGHEST = 1.0, 10.0
# In the order in which they are looked for.
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_PREFERENCES = {"[[A]]": 1.0, "[[B]]": 0.0, "[[C]]": 0.5}
SINGLE, PAIR = "[[rating]]", "[[A]]"

# The fields that a prompt of each name is filled with, and how its verdict is written.
FIELDS: dict[str, tuple[tuple[str, ...], str]] = {
    "single-v1": (("question", "answer"), SINGLE),
    "single-math-v1": (("question", "ref_answer_1", "answer"), SINGLE),
    "single-v1-multi-turn": (("question_1", "answer_1", "question_2", "answer_2"), SINGLE),
    "single-math-v1-multi-turn": (
        ("question_1", "answer_1", "question_2", "answer_2", "ref_answer_1", "ref_answer_2"),
        SINGLE,
    ),
    "pair-v2": (("question", "answer_a", "answer_b"), PAIR),
}
RATING_PROMPTS, PAIR_PROMPTS = tuple(name for name in FIELDS if name.startswith("single")), ("pair-v2",)


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A system turn, empty for none, and the user's turn with fields in braces."""

    system: str
    template: str

    def turns(self, **fields: str) -> list[dict[str, str]]:
        """The conversation that a judge continues with its verdict."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.template.format(**fields)}]


@dataclass(frozen=True, slots=True)
class JudgePrompts:
    """Prompts by name, and where they come from: `own`, or `file`, with the beginning of a SHA-256 of their text."""

    by_name: Mapping[str, JudgePrompt]
    origin: str


_RATER = (
    "You grade the replies of an assistant. You are strict and fair: a long reply earns nothing by its length, and a "
    "confident one nothing by its tone."
)
_RATE = (
    "Weigh whether it does what was asked, whether what it says is correct, and whether it is clear, complete and to "
    "the point. First explain in a few sentences what is good and what is wrong. Then, on a line of its own, give a "
    "grade from 1 (useless) to 10 (could not be better) in double square brackets, for example: Rating: [[4]]"
)
_CORRECT = "A correct reply is given for comparison. Work out where the assistant's reply departs from it, and why. "
_DIALOGUE = (
    "Below is a conversation of two questions. Grade only the assistant's reply to the second question, read in the "
    "light of what came before. "
)
_FIRST = "<<< Question >>>\n{question}\n\n"
_REPLY = "<<< Reply of the assistant >>>\n{answer}\n<<< End of the reply >>>"
_TALK = (
    "<<< First question >>>\n{question_1}\n\n<<< First reply of the assistant >>>\n{answer_1}\n\n"
    "<<< Second question >>>\n{question_2}\n\n<<< Second reply of the assistant >>>\n{answer_2}\n"
    "<<< End of the reply >>>"
)
_KNOWN = (
    "<<< Correct reply to the first question >>>\n{ref_answer_1}\n\n"
    "<<< Correct reply to the second question >>>\n{ref_answer_2}\n\n"
)
OWN = {
    "single-v1": JudgePrompt(_RATER, f"Grade the assistant's reply to the question below. {_RATE}\n\n{_FIRST}{_REPLY}"),
    "single-math-v1": JudgePrompt(
        _RATER,
        f"Grade the assistant's reply to the question below. {_CORRECT}{_RATE}\n\n{_FIRST}"
        f"<<< Correct reply >>>\n{{ref_answer_1}}\n\n{_REPLY}",
    ),
    "single-v1-multi-turn": JudgePrompt(_RATER, f"{_DIALOGUE}{_RATE}\n\n{_TALK}"),
    "single-math-v1-multi-turn": JudgePrompt(_RATER, f"{_DIALOGUE}{_CORRECT}{_RATE}\n\n{_KNOWN}{_TALK}"),
    "pair-v2": JudgePrompt(
        "You compare the replies of two assistants. You are strict and fair: neither the order in which the replies "
        "stand nor their length counts, and a confident tone earns nothing.",
        "Which assistant answers the last question below better? Weigh whether the replies do what was asked, whether "
        "what they say is correct, and whether they are clear, complete and to the point. First compare them in a few "
        "sentences. Then, on a line of its own, write [[A]] if the reply of assistant A is better, [[B]] if that of "
        f"assistant B is, and [[C]] if they are equally good.\n\n{_FIRST}"
        "<<< Reply of assistant A >>>\n{answer_a}\n<<< End of the reply of assistant A >>>\n\n"
        "<<< Reply of assistant B >>>\n{answer_b}\n<<< End of the reply of assistant B >>>",
    ),
}


def judge_prompts(file: str | None, names: tuple[str, ...]) -> JudgePrompts:
    """The prompts of a task, ours or those of a file.

    Args:
        file: JSON lines of `name`, `system_prompt`, `prompt_template` and `output_format`; others than those asked for
            may stand there too.
        names: those that the task needs.

    Raises:
        UserError: the file lacks one of them, or one has a field that the task does not fill or leaves one out.
    """
    if file is None:
        return _named({name: OWN[name] for name in names}, "own")
    found: dict[str, JudgePrompt] = {}
    for origin, record in read_records(file):
        if record.get("name") in names:
            found[record["name"]] = _read(record, origin)
    if lacking := [name for name in names if name not in found]:
        raise UserError(
            f"no judge prompt named {', '.join(lacking)}", where=file, mend="add them, as FastChat has them"
        )
    return _named({name: found[name] for name in names}, "file")


def _named(prompts: Mapping[str, JudgePrompt], origin: str) -> JudgePrompts:
    text = digest_json({name: [prompt.system, prompt.template] for name, prompt in prompts.items()})
    return JudgePrompts(prompts, f"{origin} {text[:12]}")


def _read(record: Mapping[str, Any], origin: str) -> JudgePrompt:
    name = record["name"]
    fields, verdict = FIELDS[name]
    system, template = record.get("system_prompt") or "", record.get("prompt_template")
    if not isinstance(system, str) or not isinstance(template, str):
        raise UserError(f"{name}: system_prompt and prompt_template must be texts", where=origin)
    if record.get("output_format", verdict) != verdict:
        what = f"{name}: output_format is {record['output_format']!r}, and what is read is {verdict}"
        raise UserError(what, where=origin)
    try:
        parsed = [part for part in string.Formatter().parse(template) if part[1] is not None]
        used = [
            f"{field}!{conversion}" if conversion else f"{field}:{spec}" if spec else field
            for _, field, spec, conversion in parsed
        ]
    except ValueError as error:
        what = f"{name}: prompt_template cannot be filled: {error}"
        raise UserError(what, where=origin, mend="write braces that stand for themselves twice") from None
    if unknown := [field for field in used if field not in fields]:
        mend = f"it is filled with {', '.join(fields)}; write braces that stand for themselves twice"
        raise UserError(f"{name}: prompt_template has an unknown field {{{unknown[0]}}}", where=origin, mend=mend)
    if missing := [field for field in fields if field not in used]:
        raise UserError(f"{name}: prompt_template shows the judge no {{{missing[0]}}}", where=origin)
    return JudgePrompt(system, template)


def rating(text: str) -> float | None:
    """The grade in a judge's answer: the first number in double square brackets, else in single ones, as in the
    original. None where there is none from 1 to 10."""
    found = next((match for pattern in _RATINGS if (match := pattern.search(text))), None)
    value = float(found[1]) if found else None
    return value if value is not None and LOWEST <= value <= HIGHEST else None


def preference(text: str) -> float | None:
    """Whether a judge prefers A (1), B (0) or neither (0.5), looked for in the original's order; None where it does
    not say."""
    return next((value for mark, value in _PREFERENCES.items() if mark in text), None)
