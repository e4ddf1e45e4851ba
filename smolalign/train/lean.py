"""Norms, gates and rotations of Llama-like models that keep only their inputs, or nothing, for the backward pass.

Written out operation by operation, as Transformers does, autograd keeps every intermediate: a fifth of all activations.
What is computed is the same, to the bit in the forward pass.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch.nn.functional import silu
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import eager_attention_forward

# Classes of Transformers whose forward is Llama's own: `weight * x / rms(x)`, and `down(silu(gate(x)) * up(x))`.
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")


class Norm(torch.autograd.Function):
    """Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """`rows` is `[..., width]`, `weight` is `[width]`; the result is as `rows`."""
        inverse = torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(rows, weight, inverse)
        return weight * (rows * inverse)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, inverse = ctx.saved_tensors
        normed = rows * inverse
        of_weight = (gradient * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        inner = gradient * weight
        along = (inner * normed).mean(-1, keepdim=True)
        return inner.sub_(normed.mul_(along)).mul_(inverse), of_weight, None


class Gate(torch.autograd.Function):
    """`silu(gate) * up` (Shazeer 2020, arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Both are `[..., inner width]`, and so is the result."""
        ctx.save_for_backward(gate, up)
        return silu(gate) * up

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), gradient * silu(gate)


class Rotation(torch.autograd.Function):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves of a head's width being pairs."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        """`rows` is `[batch, heads, tokens, width]`, and so is the result; the others are `[batch, 1, tokens, width]`,
        their two halves alike."""
        ctx.save_for_backward(cosines, sines)
        return _rotate(rows, cosines, sines, -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return _rotate(gradient, cosines, sines, 1), None, None


def _rotate(rows: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, sign: int) -> torch.Tensor:
    """Rotate by the angles where `sign` is -1, back where it is 1."""
    half = rows.shape[-1] // 2
    rotated = rows * cosines
    rotated[..., :half].addcmul_(rows[..., half:], sines[..., :half], value=sign)
    rotated[..., half:].addcmul_(rows[..., :half], sines[..., half:], value=-sign)
    return rotated


def make_lean(model: Any) -> None:
    """Replace, in place, the forward passes of the parts that are Llama's; others stay as they are."""
    for module in model.modules():
        name = type(module).__name__
        if name in [f"{family}RMSNorm" for family in FAMILIES]:
            module.forward = types.MethodType(_norm, module)
        elif name in [f"{family}MLP" for family in FAMILIES] and module.config.hidden_act == "silu":
            module.forward = types.MethodType(_feed_forward, module)
        elif name == "LlamaAttention":
            module.forward = types.MethodType(_attention, module)


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return Norm.apply(hidden_states, self.weight, self.variance_epsilon)


def _feed_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.down_proj(Gate.apply(self.gate_proj(x), self.up_proj(x)))


def _attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As LlamaAttention's, but for the rotation."""
    shape = hidden_states.shape[:-1]
    query, key, value = (
        projection(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    cosines, sines = (part.unsqueeze(1) for part in position_embeddings)
    query, key = Rotation.apply(query, cosines, sines), Rotation.apply(key, cosines, sines)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, self.layer_idx)
    attend = AttentionInterface().get_interface(self.config._attn_implementation, eager_attention_forward)
    dropout = self.attention_dropout if self.training else 0.0
    output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
    return self.o_proj(output.reshape(*shape, -1)), weights
