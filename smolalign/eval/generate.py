"""Generation and scoring, the two things that every evaluation is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from smolalign.chat.detokenize import hidden_ids
from smolalign.chat.generation import positions
from smolalign.serve.offline import Answer, answer_all, seed_of
from smolalign.serve.row import Ask
from smolalign.serve.sampling import Sampling

# Logits held at once when scoring, 0.5 GiB in fp32; a large vocabulary times long rows would outgrow the memory.
LOGITS_AT_ONCE = 2**27


@dataclass(frozen=True, slots=True)
class Generated:
    """A reply as text, without special tokens, and whether the model ended it itself, within its limit.

    `unread` tells a prompt that is as long as all that the model reads, or longer: it is not asked, the reply is empty.
    """

    text: str
    stopped: bool
    unread: bool = False


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    sample_seed: int | None = None,
    temperature: float = 1.0,
    numbers: Sequence[int] | None = None,
    answered: Callable[[int, Generated], None] = lambda _index, _reply: None,
) -> list[Generated]:
    """Reply to each prompt by the engine that serves.

    Args:
        prompts: token ids, each `[length]`.
        max_new_tokens: longest reply, in tokens; less where the model's positions end before.
        batch_size: replies at once.
        sample_seed: None decodes greedily; a seed samples from the whole distribution. Each row draws by this seed and
            its number, so that it says the same in any company.
        temperature: at which it samples.
        numbers: of each prompt, where these are a part of more; by default 0, 1, 2, ….
        answered: called with each prompt's index as soon as its reply is finished.

    Returns:
        One reply a prompt, in the prompts' order.

    Raises:
        UserError: some replies could not be generated, as where memory does not suffice.
    """
    most = positions(model)
    replies = [Generated("", False, unread=True)] * len(prompts)
    asked = [index for index, prompt in enumerate(prompts) if len(prompt) < most]
    for index in sorted(set(range(len(prompts))).difference(asked)):
        answered(index, replies[index])

    def sampling(index: int) -> Sampling:
        if sample_seed is None:
            return Sampling(temperature=0.0)
        return Sampling(temperature, seed=seed_of(sample_seed, index if numbers is None else numbers[index]))

    hidden = hidden_ids(tokenizer)

    def take(place: int, answer: Answer) -> None:
        # All tokens at once: bytes that are no character read otherwise piece by piece.
        text = tokenizer.decode([token for token in answer.ids if token not in hidden])
        reply = replies[asked[place]] = Generated(text, answer.stopped)
        answered(asked[place], reply)

    asks = [
        Ask(tuple(prompts[index]), min(max_new_tokens, most - len(prompts[index])), sampling(index)) for index in asked
    ]
    answer_all(model, tokenizer, asks, max_batch=batch_size, answered=take)
    return replies


def log_probs(
    model: Any,
    rows: Sequence[tuple[Sequence[int], Sequence[bool]]],
    *,
    batch_size: int,
    scored: Callable[[int, tuple[float, int]], None] = lambda _index, _score: None,
    known: Mapping[int, tuple[float, int]] | None = None,
) -> list[tuple[float, int]]:
    """Summed log-probability of the marked tokens of each row, and their number.

    Args:
        rows: token ids `[length]` and marks `[length]`; a mark on the first token counts nothing.
        batch_size: rows at once, fewer where they are so long that their logits would not fit.
        scored: told the index of each row and its score, batch by batch.
        known: scores by index that an earlier run found; batches that they fill are not computed again, and the others
            are the same batches, so that their scores are those of a run that was not cut off, to the bit.
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
