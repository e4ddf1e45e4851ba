"""IFEval's accuracies with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from smolalign.eval.ifeval.items import Prompt
from smolalign.eval.ifeval.verdict import Verdict


def accuracies(prompts: Sequence[Prompt], verdicts: Sequence[Verdict]) -> tuple[dict[str, float], dict[str, Any]]:
    """Shares of prompts with every instruction followed and of instructions followed, strict and loose.

    Returns:
        the four shares, and their details: `stderr` of each, the numbers of `prompts` and `instructions`, and
        `instruction_types`, a line for each type that was asked, with its number, shares and their errors.

    Verdicts on prompts are independent of each other, and the error of their share is binomial. Those on the
    instructions of one prompt are not: one empty reply fails them all. Errors of shares of instructions are therefore
    those of a ratio of sums over prompts (clusters), which is the binomial one where each prompt has one instruction.
    """
    shares: dict[str, float] = {}
    errors: dict[str, float] = {}
    for how in ("strict", "loose"):
        judged = [getattr(verdict, how) for verdict in verdicts]
        share, error = _clustered([[all(one)] for one in judged])
        shares[f"prompt_{how}"], errors[f"prompt_{how}"] = share, error
        shares[f"inst_{how}"], errors[f"inst_{how}"] = _clustered(judged)
    details = {
        "stderr": errors,
        "prompts": len(prompts),
        "instructions": sum(len(prompt.instruction_ids) for prompt in prompts),
        "instruction_types": _by_type(prompts, verdicts),
    }
    return shares, details


def values(verdict: Verdict) -> dict[str, Any]:
    """What one prompt adds to each of the four shares: whether all was followed; how many were, and of how many."""
    found: dict[str, Any] = {}
    for how in ("strict", "loose"):
        judged = getattr(verdict, how)
        found |= {f"prompt_{how}": all(judged), f"inst_{how}": [sum(judged), len(judged)]}
    return found


def _by_type(prompts: Sequence[Prompt], verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    names = sorted({name for prompt in prompts for name in prompt.instruction_ids})
    table: dict[str, dict[str, float]] = {}
    for name in names:
        line: dict[str, float] = {}
        for how in ("strict", "loose"):
            judged = [
                [one for one, asked in zip(getattr(verdict, how), prompt.instruction_ids, strict=True) if asked == name]
                for prompt, verdict in zip(prompts, verdicts, strict=True)
            ]
            line["count"] = sum(map(len, judged))
            line[how], line[f"{how}_stderr"] = _clustered(judged)
        table[name] = line
    return table


def _clustered(judged: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """The share that holds of all verdicts, and its standard error with the verdicts of a prompt as one cluster."""
    count = sum(map(len, judged))
    if not count:
        return 0.0, 0.0
    share = sum(map(sum, judged)) / count
    # With one verdict each this is share * (1 - share) / count, the binomial error squared.
    return share, math.sqrt(sum((sum(one) - share * len(one)) ** 2 for one in judged)) / count
