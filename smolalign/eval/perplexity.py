"""How well a model predicts held-out documents: bits per byte, which compare across tokenizers, and perplexities.

A document is read in windows. Each predicts `stride` tokens more than the one before it, behind as many of those before
as make `max_length` in all; so every token is predicted from all that stands before it, or from at least
`max_length - stride` tokens. By default that is half of what the model reads. With a stride of `max_length` the windows
are disjoint, and those of lm-evaluation-harness's `loglikelihood_rolling`. The first token is predicted behind the
tokenizer's beginning of sequence, or its end where it has none, as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from smolalign.chat.generation import positions
from smolalign.errors import UserError
from smolalign.eval.continuations import Continuation, score
from smolalign.eval.generate import LOGITS_AT_ONCE
from smolalign.eval.uncertainty import clusters, error_of_ratio
from smolalign.recipe.measure import Perplexity
from smolalign.rows import Document

# The window of a model whose configuration does not say what it reads.
UNBOUNDED = 2048
# Characters of a document that its sample shows.
SHOWN = 200


def measure_perplexity(
    loaded: Any, task: Perplexity, documents: Sequence[Document]
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]:
    """Bits per byte (of UTF-8), perplexity of bytes and of tokens, over all documents; samples; and details.

    Args:
        loaded: the model, as `eval/tasks.py` has it.
        task: the recipe's.
        documents: what is predicted.

    Raises:
        UserError: a window is more than the model reads, or the tokenizer has nothing to begin a text with.
    """
    max_length, stride = window_of(loaded.model, task)
    prefix = prefix_of(loaded.tokenizer)
    ids = [_ids(loaded.tokenizer, document.text) for document in documents]
    asked = [(number, one) for number, own in enumerate(ids) for one in windows(own, prefix, max_length, stride)]
    nats = [0.0] * len(documents)
    for (number, _), log_prob in zip(asked, _scores(loaded, [one for _, one in asked], max_length), strict=True):
        nats[number] -= log_prob
    samples = [_sample(document, len(own), lost) for document, own, lost in zip(documents, ids, nats, strict=True)]
    metrics, errors = _figures(samples)
    details = {
        "decoding": None,
        "template": None,
        "prefix": loaded.tokenizer.convert_ids_to_tokens(prefix),
        "max_length": max_length,
        "stride": stride,
        "windows": len(asked),
        **{name: sum(sample[name] for sample in samples) for name in ("tokens", "bytes")},
        "plain": list(metrics),
        "stderr": errors,
    }
    return metrics, samples, details


def window_of(model: Any, task: Perplexity) -> tuple[int, int]:
    """Tokens of a window, and how many of them it predicts: of the task, or by default all that the model reads and the
    half of it, less where the logits of so many would not fit.

    Raises:
        UserError: the window is more than the model reads.
    """
    reads = positions(model)
    max_length = task.max_length or (reads if reads < 2**31 else UNBOUNDED)
    if max_length > reads:
        raise UserError(f"max_length: {max_length} tokens are more than the model reads", mend=f"{reads} at most")
    fit = LOGITS_AT_ONCE // model.config.get_text_config().vocab_size
    stride = task.stride or max(1, min(max_length // 2, fit))
    if stride > max_length:
        raise UserError(f"stride: {stride} tokens are more than the window of {max_length} has")
    return max_length, stride


def prefix_of(tokenizer: Any) -> int:
    """The token behind which a document begins.

    Raises:
        UserError: there is none.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError("the tokenizer has neither a beginning nor an end of sequence, behind which a document could begin")


def windows(ids: Sequence[int], prefix: int, max_length: int, stride: int) -> list[Continuation]:
    """A document in pieces of `stride` tokens, each with what it is predicted from.

    Args:
        ids: `[length]`, without special tokens.
        prefix: the token behind which the document begins.
        max_length: tokens that the model reads at once.
        stride: at most `max_length`.
    """
    row = [prefix, *ids]
    found = []
    for start in range(1, len(row), stride):
        end = min(start + stride, len(row))
        # The last token is only predicted.
        found.append(Continuation(row[max(0, end - max_length - 1) : start], row[start:end]))
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _scores(loaded: Any, asked: Sequence[Continuation], max_length: int) -> list[float]:
    """Log-probability of each window, in nats; those of a run that was cut off are taken from its journal."""
    recalled = loaded.journal.of("window", [[list(one.context), list(one.tokens)] for one in asked])
    known = {place: (float(log_prob), bool(greedy)) for place, (log_prob, greedy) in recalled.known.items()}
    found = score(
        loaded.model,
        asked,
        max_length,
        lambda done: loaded.progress(done, len(asked)),
        scored=lambda place, result: recalled.keep(place, list(result)),
        known=known,
    )
    return [log_prob for log_prob, _ in found]


def _sample(document: Document, tokens: int, nats: float) -> dict[str, Any]:
    size = len(document.text.encode())
    return {
        "prompt": document.text[:SHOWN],
        "origin": document.origin,
        "tokens": tokens,
        "bytes": size,
        "bits_per_byte": [nats / math.log(2), size],
        "nats_per_token": [nats, tokens],
    }


def _figures(samples: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures over all documents, and their standard errors. A document is one cluster; the error of a perplexity
    is that of its logarithm, times its slope there."""
    rates, errors = {}, {}
    for name in ("bits_per_byte", "nats_per_token"):
        of = clusters(samples, name)
        rates[name] = math.fsum(total for total, _ in of.values()) / max(1, sum(count for _, count in of.values()))
        errors[name] = error_of_ratio(of)
    bits, nats = rates.values()
    metrics = {"bits_per_byte": bits, "byte_perplexity": 2**bits, "token_perplexity": math.exp(nats)}
    slopes = {"bits_per_byte": 1.0, "byte_perplexity": math.log(2) * 2**bits, "token_perplexity": math.exp(nats)}
    of_rates = dict(
        zip(metrics, (errors["bits_per_byte"], errors["bits_per_byte"], errors["nats_per_token"]), strict=True)
    )
    return metrics, {name: round(slopes[name] * of_rates[name], 6) for name in metrics}
