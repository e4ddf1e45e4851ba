"""Next-token cross entropy without logits that stand whole, and with nothing computed that training does not need.

The gradients of the hidden states and of the head's weight are computed along with the loss, some tokens at a time, as
Liger's fused linear cross entropy does (Hsu et al. 2024, arXiv:2410.10989): the backward pass only scales them.
"""

from __future__ import annotations

import functools
import types
from itertools import pairwise
from typing import Any

import torch

# Logits that stand at a time: few enough for a CPU's caches, and enough for a GPU's cores.
CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}
# Fewer tokens at a time would spend more time on the weight's gradient than on theirs.
LEAST_TOKENS = 128
# Name of the forward method with this loss.
NAME = "forward_next_token_loss"


class NextTokenLoss(torch.autograd.Function):
    """Cross entropy, divided by a count, and with it the z-loss: the squared logarithm of the softmax's denominator
    (Chowdhery et al. 2022, arXiv:2204.02311, section 5), which keeps logits from drifting."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        count: torch.Tensor | float,
        z_loss: float,
        gradients: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden: `[tokens, width]`.
            weight: `[vocabulary, width]`.
            targets: `[tokens]`, the ids that came next.
            count: what the sums over the tokens are divided by.
            z_loss: weight of the z-loss.
            gradients: whether there will be a backward pass.

        Returns:
            The loss, z-loss included, and the z-loss in it, which has no gradient of its own; both in fp32 or finer.
        """
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        product_weight = weight.to(hidden.dtype)
        of_hidden = torch.empty_like(hidden) if gradients else None
        of_weight = torch.zeros_like(weight, dtype=dtype) if gradients else None
        cross_entropy = torch.zeros((), dtype=dtype, device=hidden.device)
        squares = torch.zeros_like(cross_entropy)
        for part in _parts(hidden, len(weight)):
            logits = (hidden[part] @ product_weight.T).to(dtype)
            at_target = logits.gather(1, targets[part, None])[:, 0]
            largest = logits.amax(1)
            probabilities = logits.softmax(1)
            # By the largest, whose probability is never too small for its logarithm.
            log_z = largest - probabilities.amax(1).log()
            cross_entropy += (log_z - at_target).sum()
            squares += log_z.square().sum()
            if of_hidden is None or of_weight is None:
                continue
            # The gradient of the sum in the logits, in place.
            if z_loss:
                probabilities *= (1 + 2 * z_loss * log_z)[:, None]
            probabilities[torch.arange(len(logits), device=logits.device), targets[part]] -= 1
            rounded = probabilities.to(hidden.dtype)
            of_hidden[part] = rounded @ product_weight
            if hidden.dtype == dtype:
                of_weight.addmm_(rounded.T, hidden[part])
            else:
                of_weight += rounded.T @ hidden[part]
        if of_hidden is not None and of_weight is not None:
            ctx.save_for_backward(of_hidden.div_(count), of_weight.div_(count).to(weight.dtype))
        of_z = z_loss * squares / count
        ctx.mark_non_differentiable(of_z)
        return cross_entropy / count + of_z, of_z

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        # Scaled in place: a second backward pass through the same loss would scale them twice, and PyTorch refuses it.
        of_hidden, of_weight = ctx.saved_tensors
        if gradient.device.type != "cpu" or gradient != 1:
            of_hidden, of_weight = of_hidden * gradient, of_weight * gradient
        return of_hidden, of_weight, None, None, None, None


def next_token_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    predicting: torch.Tensor,
    targets: torch.Tensor,
    count: torch.Tensor | float,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a row of packed documents.

    Args:
        hidden: `[tokens, width]`, what the model's layers made of the row.
        weight: `[vocabulary, width]`, the head's.
        predicting: `[predicted]`, the places in the row whose next token is trained on, ascending.
        targets: `[predicted]`, the ids of those next tokens.
        count: predicted tokens of the whole optimizer step, by whose number the loss is divided.
        z_loss: weight of the z-loss.

    Returns:
        The loss, z-loss included, and the z-loss in it. Without a predicted token both are zero, and so are gradients.
    """
    scored = hidden.index_select(0, predicting)
    if torch.is_autocast_enabled(hidden.device.type):
        # What the layers add up stays fp32 there; the head's product is made in the precision of the others.
        scored = scored.to(torch.get_autocast_dtype(hidden.device.type))
    with torch.autocast(hidden.device.type, enabled=False):
        loss, of_z = NextTokenLoss.apply(scored, weight, targets, count, z_loss, torch.is_grad_enabled())
    return loss, of_z


def add_next_token_loss(model: Any) -> None:
    """Replace, in place, the forward pass of a causal language model by one that gives `next_token_loss` where it is
    given `predicting`, and the plain one's logits where it is not. A second call changes nothing.

    Args:
        model: of Llama's kind: its logits are the product of its last hidden states with the head's weight.
    """
    if model.forward.__name__ == NAME:
        return
    plain = model.forward

    def forward(self: Any, *args: Any, predicting: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if predicting is None:
            return plain(*args, **kwargs)
        targets, count, z_loss = kwargs.pop("targets"), kwargs.pop("count"), kwargs.pop("z_loss", 0.0)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        weight = self.get_output_embeddings().weight
        return next_token_loss(hidden.flatten(0, 1), weight, predicting, targets, count, z_loss)

    forward = functools.wraps(type(model).forward)(forward)
    forward.__name__ = NAME
    model.forward = types.MethodType(forward, model)


def _parts(hidden: torch.Tensor, vocabulary: int) -> list[slice]:
    """The tokens in parts whose logits may stand at a time, of like size."""
    most = max(LEAST_TOKENS, CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS["cuda"]) // vocabulary)
    count = -(-len(hidden) // most)
    bounds = [len(hidden) * part // count for part in range(count + 1)] if count else []
    return [slice(start, end) for start, end in pairwise(bounds)]
