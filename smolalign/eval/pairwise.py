"""Replies of a model beside those of a reference model, prompt by prompt, compared by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from smolalign.chat.render import render_prompt
from smolalign.eval.harness import template_hash
from smolalign.eval.judge import Judgement, ask
from smolalign.eval.judge_prompts import PAIR_PROMPTS, judge_prompts, preference
from smolalign.eval.judged import judge_details
from smolalign.eval.length_control import PRIOR_PRECISION, RESAMPLES, control_length
from smolalign.eval.openings import Opening
from smolalign.eval.replies import reply_to
from smolalign.recipe.measure import Pairwise
from smolalign.rows import message_to_openai

Result = tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]


def measure_pairwise(loaded: Any, task: Pairwise, openings: Sequence[Opening]) -> Result:
    """Win rate over the reference, raw and length-controlled; a record a prompt; details. Of the reference, replies.

    Each pair is judged in both orders, and its preference, 0 to 1, is the mean of both verdicts: what a judge gives to
    the place of a reply cancels out. Pairs without both verdicts are left out and counted: `unrated` is their share.
    Equal replies are a tie, which no judge is asked about.

    Args:
        loaded: the model, as `eval/tasks.py` has it.
        task: the recipe's.
        openings: of `read_openings`.
    """
    prompts = [render_prompt(loaded.tokenizer, opening.messages) for opening in openings]
    replies = reply_to(loaded, prompts, max_new_tokens=task.max_new_tokens)
    samples: list[dict[str, Any]] = [
        {
            "prompt": [message_to_openai(message) for message in opening.messages],
            "reply": r.text,
            "stopped": r.stopped,
            "unread": r.unread,
        }
        for opening, r in zip(openings, replies, strict=True)
    ]
    decoding = {"do_sample": False, "max_new_tokens": task.max_new_tokens}
    details: dict[str, Any] = {"decoding": decoding, "template": template_hash(loaded.tokenizer)}
    if loaded.reference is None:
        return {}, samples, details
    references = [one["reply"] for one in loaded.reference]
    return _compared(loaded, task, openings, samples, references, details)


def _compared(
    loaded: Any,
    task: Pairwise,
    openings: Sequence[Opening],
    samples: Sequence[dict[str, Any]],
    references: Sequence[str],
    details: dict[str, Any],
) -> Result:
    prompts = judge_prompts(task.judge_prompts, PAIR_PROMPTS)
    asked = [
        prompts.by_name["pair-v2"].turns(question=opening.question(), answer_a=first, answer_b=second)
        for opening, sample, other in zip(openings, samples, references, strict=True)
        if sample["reply"] != other
        for first, second in ((sample["reply"], other), (other, sample["reply"]))
    ]
    judgements = ask(task.judge, asked, loaded.folder, loaded.progress)
    answers = iter(zip(judgements[::2], judgements[1::2], strict=True))
    records = [
        {**sample, "reference_reply": other, **(_verdict(*next(answers)) if sample["reply"] != other else _tie())}
        for sample, other in zip(samples, references, strict=True)
    ]
    unrated = sum(one["judged_first"] is None for one in records) + sum(one["judged_second"] is None for one in records)
    metrics, found = _figures(records, loaded.seed)
    return metrics, records, {**details, **found, **judge_details(task.judge, prompts, judgements, unrated=unrated)}


def _tie() -> dict[str, Any]:
    return {"win_rate": 0.5, "judged_first": 0.5, "judged_second": 0.5, "judgements": [], "unrated": False}


def _verdict(first: Judgement, second: Judgement) -> dict[str, Any]:
    """What both verdicts come to, of which the first saw the model's reply as A and the second as B."""
    as_a, as_b = preference(first.text), preference(second.text)
    as_b = None if as_b is None else 1 - as_b
    rated = {} if as_a is None or as_b is None else {"win_rate": (as_a + as_b) / 2}
    texts = [one.text or one.error for one in (first, second)]
    return {**rated, "judged_first": as_a, "judged_second": as_b, "judgements": texts, "unrated": not rated}


def _figures(records: Sequence[dict[str, Any]], seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics, and what stands behind them."""
    rated = [one for one in records if "win_rate" in one]
    missing = len(records) - len(rated)
    unrated = {"unrated": missing / len(records)} if missing else {}
    details: dict[str, Any] = {"compared": len(rated)}
    if not rated:
        return unrated, details
    wins = [one["win_rate"] for one in rated]
    lengths = [len(one["reply"]) for one in rated]
    others = [len(one["reference_reply"]) for one in rated]
    control = control_length(wins, lengths, others, seed)
    judged = [one for one in rated if one["judgements"]]
    details |= {
        "stderr": {"lc_win_rate": round(control.standard_error, 6)},
        "length_control": {**asdict(control), "prior_precision": PRIOR_PRECISION, "resamples": RESAMPLES},
        "characters": {"model": sum(lengths) / len(rated), "reference": sum(others) / len(rated)},
        "longer": sum(own > other for own, other in zip(lengths, others, strict=True)) / len(rated),
        "equal_replies": len(rated) - len(judged),
    }
    if judged:
        agree = sum(one["judged_first"] == one["judged_second"] for one in judged)
        # As A the model's reply stands first; where it stands second, the judge's first is the reference's.
        first = sum(one["judged_first"] + 1 - one["judged_second"] for one in judged) / 2
        details["orders"] = {"agree": agree / len(judged), "first_preferred": first / len(judged)}
    metrics = {"win_rate": sum(wins) / len(rated), "lc_win_rate": control.win_rate, **unrated}
    return metrics, details
