"""Batched generation and scoring, the two things that every evaluation is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

# Logits held at once when scoring, 0.5 GiB in fp32; a large vocabulary times long rows would outgrow the memory.
LOGITS_AT_ONCE = 2**27


@dataclass(frozen=True, slots=True)
class Generated:
    """A reply as text, without special tokens, and whether the model ended it itself, within its limit."""

    text: str
    stopped: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    sample_seed: int | None = None,
    temperature: float = 1.0,
    answered: Callable[[int, Generated], None] = lambda index, reply: None,
    known: Mapping[int, Generated] | None = None,
) -> list[Generated]:
    """Reply to each prompt, in batches of similar length.

    Args:
        prompts: token ids, each `[length]`.
        max_new_tokens: longest reply, in tokens.
        batch_size: prompts at once.
        sample_seed: None decodes greedily; a seed samples from the whole distribution.
        temperature: at which it samples.
        answered: told the index of each prompt and its reply, as soon as it is finished.
        known: replies by index that an earlier run found, which are not generated again.

    Returns:
        One reply a prompt, in the prompts' order.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    # What was sampled depends on all that was sampled before it.
    found = dict(known or {}) if sample_seed is None else {}
    # Named one and all, since a model's own generation config counts where nothing is said.
    sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
    if sample_seed is not None:
        sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        torch.manual_seed(sample_seed)
    stop = tokenizer.eos_token_id
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        # The batches stay those of a run that was not cut off, so that their replies are the same to the bit.
        if all(index in found for index in batch):
            continue
        width = max(len(prompts[index]) for index in batch)
        ids = [[tokenizer.pad_token_id] * (width - len(prompts[i])) + list(prompts[i]) for i in batch]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=stop,
                pad_token_id=tokenizer.pad_token_id,
                **sampling,
            )
        for index, row in zip(batch, output[:, width:].tolist(), strict=True):
            stopped = stop in row
            kept = row[: row.index(stop)] if stopped else row
            found[index] = Generated(tokenizer.decode(kept, skip_special_tokens=True), stopped)
            answered(index, found[index])
    return [found[index] for index in range(len(prompts))]


def log_probs(
    model: Any,
    rows: Sequence[tuple[Sequence[int], Sequence[bool]]],
    *,
    batch_size: int,
    scored: Callable[[int, tuple[float, int]], None] = lambda index, score: None,
    known: Mapping[int, tuple[float, int]] | None = None,
) -> list[tuple[float, int]]:
    """Summed log-probability of the marked tokens of each row, and their number.

    Args:
        rows: token ids `[length]` and marks `[length]`; a mark on the first token counts nothing.
        batch_size: rows at once, fewer where they are so long that their logits would not fit.
        scored: told the index of each row and its score, batch by batch.
        known: scores by index that an earlier run found; batches that they fill are not computed again.
    """
    scores = dict(known or {})
    tokens_at_once = LOGITS_AT_ONCE // model.config.get_text_config().vocab_size
    for batch in _batches([len(ids) for ids, _ in rows], batch_size, tokens_at_once):
        if all(index in scores for index in batch):
            continue
        ids = pad_sequence([torch.tensor(rows[i][0]) for i in batch], batch_first=True).to(model.device)
        marks = pad_sequence([torch.tensor(rows[i][1]) for i in batch], batch_first=True).to(model.device)
        with torch.inference_mode():
            # Padding stands on the right, where causality keeps real tokens from seeing it.
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * marks[:, 1:]
        counts = marks[:, 1:].sum(1).tolist()
        for index, loss, count in zip(batch, losses.sum(1).tolist(), counts, strict=True):
            scores[index] = (-loss, count)
            scored(index, scores[index])
    return [scores[index] for index in range(len(rows))]


def _batches(lengths: Sequence[int], batch_size: int, tokens_at_once: int) -> Iterator[list[int]]:
    """Indexes of rows of similar length, at most `batch_size` and, unless it is one row, `tokens_at_once` padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[index] > tokens_at_once):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
