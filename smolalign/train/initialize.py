"""Initial weights for base models that are too small, or trained too briefly, to find copying by themselves.

Copying from the context takes two attention heads in a row: one that looks at the token before, and one, an induction
head, that looks for what followed the present token earlier (Olsson et al. 2022, arXiv:2209.11895). Gradient descent
finds the pair only after a long plateau: two-layer models of this width showed no sign of it in a million tokens of
text made of repeated pairs, and copied 9 of 10 after a tenth of that when they began with the pair. Beginning with the
structure that training would find is mimetic initialization (Trockman and Kolter 2023, arXiv:2305.09828; for recall,
Trockman et al. 2024, arXiv:2410.11135). Everything stays trainable.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

# The embedding's first dimension is the same for every token, this many standard deviations of the others: without
# biases, it is what a head that attends by position alone can read.
CONSTANT = 4.0
# Weight on that constant in the queries and keys of the head that looks at the token before.
SHARPNESS = 1.5
# Rotary frequencies, in radians a token: above the first they tell neighbours apart, below the second they leave the
# comparison of contents alone over hundreds of tokens.
FAST, SLOW = 0.05, 0.01


@torch.no_grad()
def begin_with_induction_head(model: LlamaForCausalLM, seed: int) -> None:
    """Write a previous-token head into layer 0 and an induction head into layer 1, and start all else at rest.

    All other attention and feed-forward outputs begin at zero, so that the residual stream begins as the embedding.

    Args:
        model: with at least two layers, an even head size, and rotary embeddings; changed in place.
        seed: of the random directions in which the heads carry a token's identity.
    """
    layers: Any = model.model.layers
    embedding = model.model.embed_tokens.weight
    width, head_size = model.config.hidden_size, layers[0].self_attn.head_dim
    generator = torch.Generator().manual_seed(seed)
    scale = embedding.std().item()
    embedding[:, 0] = CONSTANT * scale
    for layer in layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    identity, carried, copied = (_directions(width, head_size, generator) for _ in range(3))
    rope: Any = model.config.rope_parameters
    frequencies = rope["rope_theta"] ** (-torch.arange(0, head_size, 2) / head_size)
    _look_at_token_before(layers[0].self_attn, frequencies)
    layers[0].self_attn.v_proj.weight[:head_size] = identity
    layers[0].self_attn.o_proj.weight[:, :head_size] = scale * carried.T
    slow = (frequencies < SLOW).float().repeat(2)[:, None]
    layers[1].self_attn.q_proj.weight[:head_size] = slow * identity
    layers[1].self_attn.k_proj.weight[:head_size] = slow * carried
    layers[1].self_attn.v_proj.weight[:head_size] = copied
    layers[1].self_attn.o_proj.weight[:, :head_size] = scale * copied.T


def _look_at_token_before(attention: Any, frequencies: torch.Tensor) -> None:
    """Query and key of the first head: both constant, the query turned so that they agree one token back."""
    half = len(frequencies)
    sharpness = SHARPNESS * (frequencies > FAST).float()
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[: 2 * half] = 0
    key[: 2 * half] = 0
    query[:half, 0] = sharpness * torch.cos(frequencies)
    query[half : 2 * half, 0] = -sharpness * torch.sin(frequencies)
    key[:half, 0] = sharpness


def _directions(width: int, head_size: int, generator: torch.Generator) -> torch.Tensor:
    """Orthonormal rows `[head_size, width]` that do not read or write the constant dimension."""
    rows = torch.linalg.qr(torch.randn(width, head_size, generator=generator))[0].T.contiguous()
    rows[:, 0] = 0
    return rows
