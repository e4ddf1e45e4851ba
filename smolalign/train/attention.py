"""Attention for training: each document of a packed row attends to itself alone, on any device.

Registered with Transformers' AttentionInterface under names of their own and without a mask function, so that no mask
is built. That is exact in training because batches are flattened into one row whose documents are told by `cu_seq_lens`
(TRL's padding-free collator, and `pairs.py`, whose answers share a prompt), or padded on the right, where causality
alone keeps real tokens from seeing padding.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, PreTrainedModel

from smolalign.train.blocks import Blocked, Part, Shared, plan

# Names under which Transformers finds these; `flex` is Transformers' own, which reads documents off the positions.
IMPLEMENTATIONS = {"per_document": "per_document", "varlen": "per_document_varlen", "flex": "flex_attention"}
# Devices on which documents are attended to in blocks, by plain products; a dry run for the CPU adds the meta device.
BLOCKS_ON = ("cpu",)


def per_document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    key_index: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document, one document after the other.

    Args:
        module: the attention layer; unused.
        query: `[batch, heads, tokens, head_dim]`.
        key: `[batch, key_value_heads, tokens, head_dim]`; heads may be fewer than the query's (grouped queries).
        value: as `key`.
        attention_mask: always None, since no mask function is registered.
        scaling: factor on the scores; None is `head_dim ** -0.5`.
        dropout: probability of dropping an attention weight.
        cu_seq_lens_q: `[documents + 1]`, where the queries of each document of a packed row begin, and the row's end;
            None where each row of the batch is one document.
        cu_seq_lens_k: the same for keys; as the queries' unless `key_index` is given.
        key_index: `[keys]`, the tokens of the row that are keys, document by document; a document of more keys than
            queries is one whose beginning was a document before. None where keys are the tokens themselves.

    Returns:
        `[batch, tokens, heads, head_dim]`, and None in place of the weights.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if cu_seq_lens_q is None:
        return _attend(query, key, value, scaling, dropout).transpose(1, 2), None
    if key_index is None or cu_seq_lens_k is None:
        cu_seq_lens_k = cu_seq_lens_q
    else:
        key, value = key.index_select(2, key_index), value.index_select(2, key_index)
    if query.device.type in BLOCKS_ON and not dropout:
        blocks = _layout(cu_seq_lens_q, cu_seq_lens_k, query.device)
        return _attend_in_blocks(query, key, value, scaling, blocks), None
    queries, keys = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    parts = zip(query.split(queries, 2), key.split(keys, 2), value.split(keys, 2), strict=True)
    return torch.cat([_attend(q, k, v, scaling, dropout) for q, k, v in parts], dim=2).transpose(1, 2), None


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **layout: Any,
) -> tuple[torch.Tensor, None]:
    """As `per_document_attention`, all documents in one call of PyTorch's FlashAttention (CUDA, bf16 or fp16).

    Its causal mask is aligned at the last query and key, which is what documents with a shared beginning need.

    Args:
        layout: also `max_length_q` and `max_length_k`, the most queries and keys of a document.
    """
    if layout.get("cu_seq_lens_q") is None or dropout:
        return per_document_attention(module, query, key, value, attention_mask, scaling, dropout, **layout)
    key_index = layout.get("key_index")
    if key_index is not None:
        key, value = key.index_select(2, key_index), value.index_select(2, key_index)
    query, grouped = query[0].transpose(0, 1), key.shape[1] != query.shape[1]
    output = varlen_attn(
        query,
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        layout["cu_seq_lens_q"],
        layout["cu_seq_lens_k"],
        layout["max_length_q"],
        layout["max_length_k"],
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=grouped,
    )
    assert isinstance(output, torch.Tensor)
    return output[None], None


AttentionInterface.register(IMPLEMENTATIONS["per_document"], per_document_attention)
AttentionInterface.register(IMPLEMENTATIONS["varlen"], varlen_attention)


def needs_masks(config: Any) -> str:
    """What of a model's attention these functions do not compute, in a word; empty where they do all of it.

    Args:
        config: the model's configuration.
    """
    config = config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if types != {"full_attention"} or (
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    ):
        return "sliding windows"
    if getattr(config, "attn_logit_softcapping", None):
        return "capped scores"
    return "attention sinks" if config.model_type == "gpt_oss" else ""


@contextmanager
def attending_per_document(model: PreTrainedModel, kernel: str = "per_document") -> Iterator[None]:
    """Switch a model to an attention of `IMPLEMENTATIONS`, and back at the end, since generation needs masks and a
    cache."""
    before = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATIONS[kernel])
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    """Causal attention aligned at the last query and key, `[batch, heads, queries, head_dim]`."""
    queries, keys = query.shape[2], key.shape[2]
    later = None if queries == keys else _later(queries, keys, query.device).logical_not_()
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=later,
        is_causal=later is None,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, blocks: list[Shared | Part]
) -> torch.Tensor:
    """`[1, queries, heads, head_dim]`; in fp32, since scores rounded to bf16 would be wrong by percents."""
    with torch.autocast("cpu", enabled=False):
        output: torch.Tensor = Blocked.apply(query[0].float(), key[0].float(), value[0].float(), scaling, blocks)
    return output.transpose(0, 1)[None].to(query.dtype)


def _later(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """`[queries, keys]`, whether a key comes after a query; the last query is at the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu_(keys - queries + 1)


# The blocks of each row that is about, which all layers of a model attend to, beside what else they were planned from.
_blocks = WeakTensorKeyDictionary()


def _layout(cu_seq_lens_q: torch.Tensor, cu_seq_lens_k: torch.Tensor, device: torch.device) -> list[Shared | Part]:
    keys, known_device, blocks = _blocks.get(cu_seq_lens_q, (lambda: None, None, []))
    if keys() is not cu_seq_lens_k or known_device != device:
        blocks = plan(cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist(), device)
        _blocks[cu_seq_lens_q] = weakref.ref(cu_seq_lens_k), device, blocks
    found: list[Shared | Part] = blocks
    return found
