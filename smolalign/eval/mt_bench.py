"""MT-Bench (Zheng et al. 2023, arXiv:2306.05685): replies to questions of two turns, each graded by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smolalign.chat.render import render_prompt
from smolalign.eval.generate import Generated
from smolalign.eval.harness import template_hash
from smolalign.eval.judge import Judgement, ask
from smolalign.eval.judge_prompts import RATING_PROMPTS, JudgePrompts, judge_prompts, rating
from smolalign.eval.judged import judge_details
from smolalign.eval.mt_bench_questions import TURNS, Question
from smolalign.eval.replies import reply_to
from smolalign.recipe.measure import MtBench
from smolalign.rows import Message, message_to_openai

# The original's temperatures; other categories are answered greedily.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}


def measure_mt_bench(
    loaded: Any, task: MtBench, questions: Sequence[Question]
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]:
    """Mean grades, 1 to 10, of all replies, of each turn's and of each category's; a record a question; details.

    Args:
        loaded: the model, as `eval/tasks.py` has it.
        task: the recipe's.
        questions: of `read_questions`.

    Replies without a grade are left out of the means, as in the original, and counted: `unrated` is their share.
    A record has under the name of each metric its own values, from which standard errors come.
    """
    replies = _dialogues(loaded, task, questions)
    prompts = judge_prompts(task.judge_prompts, RATING_PROMPTS)
    asked = [
        (index, turn, *_conversation(prompts, question, [reply.text for reply in replies[index]], turn))
        for index, question in enumerate(questions)
        for turn in range(len(question.turns))
    ]
    judgements = ask(task.judge, [turns for _, _, _, turns in asked], loaded.folder, loaded.progress)
    judged: list[list[tuple[str, Judgement]]] = [[] for _ in questions]
    for (index, _, name, _), judgement in zip(asked, judgements, strict=True):
        judged[index].append((name, judgement))
    samples = [_sample(*one) for one in zip(questions, replies, judged, strict=True)]
    metrics = _means(questions, samples)
    details = {
        "plain": [metric for metric in metrics if metric != "unrated"],
        "decoding": {
            "max_new_tokens": task.max_new_tokens,
            "temperature": {**TEMPERATURES, "others": 0},
            "seed": loaded.seed,
        },
        "template": template_hash(loaded.tokenizer),
        "with_reference": sum("math" in name for _, _, name, _ in asked),
        **judge_details(task.judge, prompts, judgements, unrated=sum(s["unrated"][0] for s in samples)),
    }
    return metrics, samples, details


def _dialogues(loaded: Any, task: MtBench, questions: Sequence[Question]) -> list[list[Generated]]:
    """The model's replies to each question's turns, the second in view of the first."""
    replies: list[list[Generated]] = [[] for _ in questions]
    for turn in range(len(TURNS)):
        for temperature in sorted({TEMPERATURES.get(question.category, 0.0) for question in questions}):
            group = [
                index
                for index, question in enumerate(questions)
                if turn < len(question.turns) and TEMPERATURES.get(question.category, 0.0) == temperature
            ]
            found = reply_to(
                loaded,
                [render_prompt(loaded.tokenizer, _messages(questions[i], replies[i])) for i in group],
                max_new_tokens=task.max_new_tokens,
                # Another seed for each turn, so that a question's second reply is not drawn as its first was.
                sample_seed=loaded.seed + turn if temperature else None,
                temperature=temperature or 1.0,
            )
            for index, reply in zip(group, found, strict=True):
                replies[index].append(reply)
    return replies


def _messages(question: Question, replies: Sequence[Generated]) -> list[Message]:
    """The conversation up to the first turn without a reply, or up to its last turn."""
    messages: list[Message] = []
    for turn, text in enumerate(question.turns[: len(replies) + 1]):
        messages += [Message("assistant", replies[turn - 1].text)] if turn else []
        messages.append(Message("user", text))
    return messages


def _conversation(
    prompts: JudgePrompts, question: Question, replies: Sequence[str], turn: int
) -> tuple[str, list[dict[str, str]]]:
    """Name of the judge's prompt for a turn, and the conversation with it; with references where all are known."""
    known = len(question.references) > turn
    name = f"single{'-math' if known else ''}-v1{'-multi-turn' if turn else ''}"
    numbered = {f"ref_answer_{number}": text for number, text in enumerate(question.references, 1)} if known else {}
    if turn:
        numbered |= {f"question_{number}": text for number, text in enumerate(question.turns, 1)}
        numbered |= {f"answer_{number}": text for number, text in enumerate(replies, 1)}
    return name, prompts.by_name[name].turns(question=question.turns[0], answer=replies[0], **numbered)


def _sample(
    question: Question, replies: Sequence[Generated], judged: Sequence[tuple[str, Judgement]]
) -> dict[str, Any]:
    """What was asked, said and judged; under the names of metrics the sum of grades and their number, since the two
    replies to a question are one cluster."""
    ratings = [rating(judgement.text) for _, judgement in judged]
    rated = [value for value in ratings if value is not None]
    values = {f"turn_{turn}": value for turn, value in enumerate(ratings, 1) if value is not None}
    both = {name: [sum(rated), len(rated)] for name in ("score", question.category) if rated}
    return {
        "item": question.id,
        "category": question.category,
        "prompt": [message_to_openai(message) for message in _messages(question, replies)],
        "reply": replies[-1].text,
        "stopped": [reply.stopped for reply in replies],
        "unread": any(reply.unread for reply in replies),
        "ratings": ratings,
        "judge_prompts": [name for name, _ in judged],
        "judgements": [judgement.text or judgement.error for _, judgement in judged],
        "unrated": [ratings.count(None), len(ratings)],
        **values,
        **both,
    }


def _means(questions: Sequence[Question], samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean grades by metric, where there are any, and the share of replies without one, where there are any."""
    names = ["score", *TURNS, *dict.fromkeys(question.category for question in questions), "unrated"]
    metrics = {}
    for name in names:
        found = [sample[name] for sample in samples if name in sample]
        sums = [value if isinstance(value, list) else [value, 1] for value in found]
        if found:
            metrics[name] = sum(total for total, _ in sums) / sum(count for _, count in sums)
    return metrics if metrics["unrated"] else {name: value for name, value in metrics.items() if name != "unrated"}
