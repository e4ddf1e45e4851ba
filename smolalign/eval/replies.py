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
    done = len(recalled.known)

    def answered(place: int, reply: Generated) -> None:
        nonlocal done
        recalled.keep(place, [reply.text, reply.stopped])
        done += place not in recalled.known
        loaded.progress(done, len(prompts))

    return generate(
        loaded.model,
        loaded.tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=loaded.batch_size,
        sample_seed=sample_seed,
        temperature=temperature,
        answered=answered,
        known={place: Generated(*reply) for place, reply in recalled.known.items()},
    )
