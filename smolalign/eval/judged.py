"""What tasks with a judge have in common: what is looked at before anything is asked, and what is told of it after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smolalign.eval.judge import Judgement, api_key, require_reachable
from smolalign.eval.judge_prompts import PAIR_PROMPTS, RATING_PROMPTS, JudgePrompts, judge_prompts
from smolalign.eval.mt_bench_questions import Question, read_questions
from smolalign.eval.openings import Opening, read_openings
from smolalign.recipe.judge import Judge
from smolalign.recipe.measure import MtBench, Pairwise


def read_judged(task: MtBench | Pairwise, *, greet: bool) -> list[Question] | list[Opening]:
    """What a task with a judge asks, once all else that it needs has been found in order.

    Args:
        task: with its paths resolved.
        greet: ask whether the judge's endpoint answers, too.

    Raises:
        UserError: a file is broken, the key is not set, or nothing answers.
    """
    api_key(task.judge)
    judge_prompts(task.judge_prompts, RATING_PROMPTS if isinstance(task, MtBench) else PAIR_PROMPTS)
    if isinstance(task, MtBench):
        found: list[Question] | list[Opening] = read_questions(task.data, task.reference_answers)
    else:
        found = read_openings(task.data)
    if greet:
        require_reachable(task.judge)
    return found


def judge_details(
    judge: Judge, prompts: JudgePrompts, judgements: Sequence[Judgement], *, unrated: int
) -> dict[str, Any]:
    """Who judged, by which prompts, how often, how many judgements held no verdict, and the tokens that it took."""
    return {
        "judge": {
            "url": judge.url,
            "model": judge.model,
            "answered_by": sorted({one.model for one in judgements if one.model}),
            "prompts": prompts.origin,
            "decoding": {"temperature": 0, "max_tokens": judge.max_tokens, **judge.body},
            "judgements": len(judgements),
            "unrated": unrated,
            "too_long": sum(bool(one.error) for one in judgements),
            "prompt_tokens": sum(one.prompt_tokens for one in judgements),
            "completion_tokens": sum(one.completion_tokens for one in judgements),
        }
    }
