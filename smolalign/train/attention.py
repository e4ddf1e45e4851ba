"""Attention for training: each document of a packed row attends to itself alone, on any device.

Registered with Transformers' AttentionInterface under a name of its own and without a mask function, so that no mask
is built. That is exact in training because batches are either packed (TRL's padding-free collator, which passes
`cu_seq_lens_q`) or padded on the right, where causality already keeps real tokens from seeing padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "per_document"


def per_document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    Args:
        module: the attention layer; unused.
        query: `[batch, heads, tokens, head_dim]`.
        key: `[batch, key_value_heads, tokens, head_dim]`; heads may be fewer than the query's (grouped queries).
        value: as `key`.
        attention_mask: always None, since no mask function is registered.
        scaling: factor on the scores; None is `head_dim ** -0.5`.
        dropout: probability of dropping an attention weight.
        cu_seq_lens_q: `[documents + 1]`, where each document of a packed row starts, and the row's end; None where
            each row of the batch is one document.

    Returns:
        `[batch, tokens, heads, head_dim]`, and None in place of the weights.
    """
    options: dict[str, Any] = {
        "is_causal": True,
        "scale": scaling,
        "dropout_p": dropout,
        "enable_gqa": key.shape[1] != query.shape[1],
    }
    if cu_seq_lens_q is None:
        return scaled_dot_product_attention(query, key, value, **options).transpose(1, 2), None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    outputs = [scaled_dot_product_attention(q, k, v, **options) for q, k, v in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, per_document_attention)


@contextmanager
def attending_per_document(model: PreTrainedModel) -> Iterator[None]:
    """Switch a model to per-document attention, and back at the end, since generation needs masks and a cache."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
