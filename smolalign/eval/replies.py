"""Replies of a model under measurement, each kept as soon as it is finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smolalign.eval.generate import Generated, generate


def reply_to(
    loaded: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sample_seed: int | None = None,
    temperature: float = 1.0,
) -> list[Generated]:
    """One reply a prompt, in the prompts' order; those of a run that was cut off are taken from its journal.

    Args:
        loaded: the model, as `eval/tasks.py` has it.
        prompts, max_new_tokens, sample_seed, temperature: as `generate` has them.
    """
    how = [max_new_tokens, sample_seed, *([temperature] if sample_seed is not None else [])]
    recalled = loaded.journal.of("reply", [[list(ids), *how] for ids in prompts])
    replies = {place: Generated(*reply) for place, reply in recalled.known.items()}
    left = [place for place in range(len(prompts)) if place not in replies]

    def answered(index: int, reply: Generated) -> None:
        replies[left[index]] = reply
        recalled.keep(left[index], [reply.text, reply.stopped, reply.unread])
        loaded.progress(len(replies), len(prompts))

    found = generate(
        loaded.model,
        loaded.tokenizer,
        [prompts[place] for place in left],
        max_new_tokens=max_new_tokens,
        batch_size=loaded.batch_size,
        sample_seed=sample_seed,
        temperature=temperature,
        numbers=left,
        answered=answered,
    )
    replies |= dict(zip(left, found, strict=True))
    return [replies[place] for place in range(len(prompts))]
