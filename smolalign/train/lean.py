"""Norms and gates of Llama-like models that keep only their inputs for the backward pass.

Written out operation by operation, as Transformers does, autograd keeps every intermediate: a fifth of all activations.
What is computed is the same, to the bit in the forward pass.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch.nn.functional import silu

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


def make_lean(model: Any) -> None:
    """Replace, in place, the forward passes of the norms and gates that are Llama's; others stay as they are."""
    for module in model.modules():
        name = type(module).__name__
        if name in [f"{family}RMSNorm" for family in FAMILIES]:
            module.forward = types.MethodType(_norm, module)
        elif name in [f"{family}MLP" for family in FAMILIES] and module.config.hidden_act == "silu":
            module.forward = types.MethodType(_feed_forward, module)


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return Norm.apply(hidden_states, self.weight, self.variance_epsilon)


def _feed_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.down_proj(Gate.apply(self.gate_proj(x), self.up_proj(x)))
