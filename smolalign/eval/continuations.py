"""Log-probabilities of continuations of contexts, each token computed once that several of them share.

The sequences are sorted, so that those with the same beginning follow one another, and laid into one row in which each
gives only the tokens that the one before it does not have. Its keys are those of the shared beginning and its own, as
`train/attention.py` takes them. So the four endings of a question compute its context once, the questions of a set
compute their common examples once a batch, and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from smolalign.eval.generate import LOGITS_AT_ONCE
from smolalign.train.attention import attending_per_document, needs_masks
from smolalign.train.compute import NARROW
from smolalign.train.probe import measured

# Tokens of a row: more would only take more memory.
TOKENS_AT_ONCE = 2048
# Keys of all sequences of a row; they are gathered in each layer.
KEYS_AT_ONCE = 2**16


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens to score behind tokens to read: each at least one."""

    context: Sequence[int]
    tokens: Sequence[int]

    def inputs(self, longest: int) -> list[int]:
        """What the model reads, at most `longest` tokens: the last one is only predicted, the first ones are cut."""
        return [*self.context, *self.tokens][-(longest + 1) : -1]


@dataclass(slots=True)
class Row:
    """Sequences in one row, as `per_document_attention` reads them, and the places to score.

    Attributes:
        ids, positions: `[tokens]`, each with its position in its sequence.
        queries: tokens of each stretch of the row that continues a sequence.
        keys: for each stretch the places in the row of all that it sees, itself at the end.
        members: index of each continuation, and the places that predict its tokens.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    keys: list[list[int]] = field(default_factory=list)
    members: list[tuple[int, list[int]]] = field(default_factory=list)
    seen: int = 0

    def layout(self, device: Any) -> dict[str, Any]:
        """What the attention is told."""
        lengths = [len(keys) for keys in self.keys]

        def ends(sizes: list[int]) -> torch.Tensor:
            return torch.tensor([0, *sizes], device=device).cumsum(0).to(torch.int32)

        return {
            "cu_seq_lens_q": ends(self.queries),
            "cu_seq_lens_k": ends(lengths),
            "max_length_q": max(self.queries),
            "max_length_k": max(lengths),
            "key_index": torch.tensor([place for keys in self.keys for place in keys], device=device),
        }


def score(
    model: Any,
    continuations: Sequence[Continuation],
    longest: int,
    done: Callable[[int], None] = lambda _: None,
    scored: Callable[[int, tuple[float, bool]], None] = lambda index, result: None,
    known: Mapping[int, tuple[float, bool]] | None = None,
) -> list[tuple[float, bool]]:
    """Log-probability in nats of each continuation, and whether the model would write it, decoding greedily.

    Args:
        model: a causal language model.
        continuations: what to score, none longer than `longest`.
        longest: tokens that the model can read.
        done: told how many are scored, after each batch.
        scored: told the index of each continuation and its result, batch by batch.
        known: results by index that an earlier run found; batches that they fill are not computed again.
    """
    inputs = [one.inputs(longest) for one in continuations]
    found = dict(known or {})
    tokens_at_once = min(TOKENS_AT_ONCE, max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size))
    with _fast_products(model), torch.inference_mode(), _scoring(model, inputs, continuations, tokens_at_once) as parts:
        for members, compute in parts:
            # The batches stay those of a run that was not cut off, so that their results are the same to the bit.
            if not all(index in found for index in members):
                for index, result in compute():
                    found[index] = result
                    scored(index, result)
            done(len(found))
    return [found[index] for index in range(len(continuations))]


Part = tuple[Sequence[int], Callable[[], Iterator[tuple[int, tuple[float, bool]]]]]
"""The indexes of a batch's continuations, and what computes their results."""


@contextmanager
def _scoring(
    model: Any, inputs: Sequence[list[int]], continuations: Sequence[Continuation], tokens_at_once: int
) -> Iterator[Iterator[Part]]:
    """All continuations in batches, with the attention that they need while it lasts."""
    if not shares_beginnings(model):
        batches = _padded_batches(inputs, tokens_at_once)
        yield ((batch, partial(_score_padded, model, batch, inputs, continuations)) for batch in batches)
        return
    with attending_per_document(model, _kernel(model)):
        found = rows(inputs, [len(one.tokens) for one in continuations], tokens_at_once)
        yield (([index for index, _ in row.members], partial(_score_row, model, row, continuations)) for row in found)


def shares_beginnings(model: Any) -> bool:
    """Whether the model's attention can be told of sequences with a shared beginning."""
    return bool(model._supports_attention_backend) and not needs_masks(model.config)


def rows(inputs: Sequence[list[int]], scored: Sequence[int], tokens_at_once: int) -> Iterator[Row]:
    """All sequences in rows of at most so many tokens, unless one alone is longer.

    Args:
        inputs: token ids of each sequence.
        scored: how many places at its end are scored.
        tokens_at_once: tokens of a row.
    """
    row, path = Row(), list[int]()
    before: list[int] = []
    for index in sorted(range(len(inputs)), key=lambda i: inputs[i]):
        sequence = inputs[index]
        shared = _shared(before, sequence)
        full = len(row.ids) + len(sequence) - shared > tokens_at_once or row.seen + len(sequence) > KEYS_AT_ONCE
        if full and row.members:
            yield row
            row, path, shared = Row(), [], 0
        path = [*path[:shared], *range(len(row.ids), len(row.ids) + len(sequence) - shared)]
        if shared < len(sequence):
            row.ids += sequence[shared:]
            row.positions += range(shared, len(sequence))
            row.queries.append(len(sequence) - shared)
            row.keys.append(path)
            row.seen += len(path)
        row.members.append((index, path[len(path) - scored[index] :]))
        before = sequence
    if row.members:
        yield row


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    shortest = min(len(one), len(other))
    return next((place for place in range(shortest) if one[place] != other[place]), shortest)


def _score_row(model: Any, row: Row, continuations: Sequence[Continuation]) -> Iterator[tuple[int, tuple[float, bool]]]:
    places = sorted({place for _, scored in row.members for place in scored})
    number = {place: index for index, place in enumerate(places)}
    logits = model(
        input_ids=torch.tensor([row.ids], device=model.device),
        position_ids=torch.tensor([row.positions], device=model.device),
        use_cache=False,
        logits_to_keep=torch.tensor(places, device=model.device),
        **row.layout(model.device),
    ).logits[0]
    asked = [[number[place] for place in scored] for _, scored in row.members]
    results = _results(logits, asked, [continuations[index].tokens for index, _ in row.members])
    yield from zip((index for index, _ in row.members), results, strict=True)


def _results(
    logits: torch.Tensor, places: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[tuple[float, bool]]:
    """Log-probability of each list of targets at its list of places, and whether each target is the likeliest there.

    Args:
        logits: `[places, vocabulary]`.
        places: for each continuation, the places that predict its tokens.
        targets: its tokens.
    """
    logits = logits.float()
    normalizers, likeliest = logits.logsumexp(-1), logits.argmax(-1)
    flat = torch.tensor([place for one in places for place in one], device=logits.device)
    wanted = torch.tensor([token for one in targets for token in one], device=logits.device)
    log_probs = (logits[flat, wanted] - normalizers[flat]).double().cpu()
    greedy = (likeliest[flat] == wanted).cpu()
    sizes = [len(one) for one in places]
    parts = zip(log_probs.split(sizes), greedy.split(sizes), strict=True)
    return [(float(part.sum()), bool(same.all())) for part, same in parts]


def _padded_batches(inputs: Sequence[Sequence[int]], tokens_at_once: int) -> Iterator[list[int]]:
    """Indexes of sequences of similar length, as many as fit when they are padded to the longest."""
    batch: list[int] = []
    for index in sorted(range(len(inputs)), key=lambda i: len(inputs[i])):
        if batch and (len(batch) + 1) * len(inputs[index]) > tokens_at_once:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score_padded(
    model: Any, batch: Sequence[int], inputs: Sequence[Sequence[int]], continuations: Sequence[Continuation]
) -> Iterator[tuple[int, tuple[float, bool]]]:
    """By the model's own attention; padding stands on the right, where causality keeps real tokens from seeing it."""
    width = max(len(inputs[index]) for index in batch)
    ids = [[*inputs[index], *[0] * (width - len(inputs[index]))] for index in batch]
    logits = model(input_ids=torch.tensor(ids, device=model.device), use_cache=False).logits
    for row, index in enumerate(batch):
        end, tokens = len(inputs[index]), continuations[index].tokens
        [result] = _results(logits[row, end - len(tokens) : end], [range(len(tokens))], [tokens])
        yield index, result


def _kernel(model: Any) -> str:
    """Which attention of `train/attention.py`: FlashAttention where the GPU and the weights allow it."""
    if model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16):
        return "varlen" if torch.cuda.get_device_capability(model.device) >= (8, 0) else "per_document"
    return "per_document"


@contextmanager
def _fast_products(model: Any) -> Iterator[None]:
    """On a CPU, the library that was measured to be faster at fp32 products, where it rounds them as finely."""
    config, before = model.config.get_text_config(), torch.get_float32_matmul_precision()
    if model.device.type != "cpu" or model.dtype != torch.float32 or config.hidden_size < NARROW:
        yield
        return
    speeds = measured(config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    if speeds.onednn_is_better:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
