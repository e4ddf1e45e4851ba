"""The language-model head in training, off GPUs: only tokens that are trained on are scored.

TRL's fused head leaves untrained positions out on GPUs alone. In chats most tokens are the user's, and in a small
model the head is a large part of the work.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from trl.trainer.utils import FusedCausalLMOutput

# Probabilities kept for the backward pass, 256 MiB in fp32; beyond it they are computed again, a part at a time.
KEPT_ELEMENTS = 2**26
# Name of the forward method with this head.
NAME = "forward_scoring_trained_tokens"
# Configurations whose logits are more than a product with the head's weight.
SCALED = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
)


class ScoredTokens(torch.autograd.Function):
    """Log-probability of each target, and for logging the distribution's entropy, mean logit and top token.

    The gradient of a log-probability in the logits is one at the target less the probabilities, so that these are all
    the backward pass needs.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Any:
        """
        Args:
            hidden: `[tokens, width]`.
            weight: `[vocabulary, width]`.
            targets: `[tokens]`, the ids that came next.

        Returns:
            Log-probabilities, entropies and mean logits, each `[tokens]` in fp32, and `[tokens]` of whether the target
            was the likeliest.
        """
        rows = max(1, KEPT_ELEMENTS // len(weight))
        ctx.rows = rows
        scored = [_scores(h, weight, t) for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)]
        kept = scored[0][-1] if len(scored) == 1 else None
        ctx.save_for_backward(hidden, weight, targets, kept)
        log_probs, entropy, mean_logits, is_top1 = (torch.cat([part[index] for part in scored]) for index in range(4))
        ctx.mark_non_differentiable(entropy, mean_logits, is_top1)
        return log_probs, entropy, mean_logits, is_top1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> Any:
        hidden, weight, targets, kept = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            probabilities = kept if kept is not None else _scores(hidden[part], weight, targets[part])[-1]
            logits_grad = probabilities.mul_(-gradient[part, None])
            logits_grad[torch.arange(len(logits_grad)), targets[part]] += gradient[part]
            if grad_hidden is not None:
                grad_hidden[part] = logits_grad @ weight.float()
            if grad_weight is not None:
                grad_weight.addmm_(logits_grad.T, hidden[part].float())
        return (
            grad_hidden.to(hidden.dtype) if grad_hidden is not None else None,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            None,
        )


def score_only_trained_tokens(model: Any) -> None:
    """Replace, in place, what TRL's fused head computes for a batch by the same for its trained tokens alone.

    Call it after the trainer has added its head; a second call changes nothing. GPUs keep TRL's, which leaves out
    untrained tokens itself; so do models whose logits are more than a product with the head's weight, and heads split
    over processes.

    Args:
        model: the causal language model, without adapters around it.
    """
    weight = model.get_output_embeddings().weight
    config = model.config.get_text_config()
    special = any(getattr(config, name, None) not in (None, False, 1.0) for name in SCALED)
    if (
        model.forward.__name__ == NAME
        or weight.device.type == "cuda"
        or special
        or model.get_output_embeddings().bias is not None
    ):
        return
    with_trl_head = model.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        weight = self.get_output_embeddings().weight
        if not fused_lm_head or labels is None or isinstance(weight, DTensor):
            return with_trl_head(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        items = kwargs.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state[:, :-1]
        mask = labels[:, 1:] != -100
        with torch.autocast(hidden.device.type, enabled=False):
            scored = ScoredTokens.apply(hidden[mask], weight, labels[:, 1:][mask])
        # Scattered into the batch's shape so that a batch without trained tokens still has a gradient, of zero.
        log_probs, entropy, mean_logits, is_top1 = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in scored)
        loss = -log_probs.sum() / (mask.sum().clamp(min=1) if items is None else items)
        return FusedCausalLMOutput(
            loss=loss,
            log_probs=log_probs,
            entropy=entropy,
            mean_logits=mean_logits,
            is_top1=is_top1,
            label_mask=mask,
        )

    forward = functools.wraps(type(model).forward)(forward)
    forward.__name__ = NAME
    model.forward = types.MethodType(forward, model)


def _scores(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As `ScoredTokens`, and the probabilities `[tokens, vocabulary]`."""
    logits = hidden.float() @ weight.float().T
    top, likeliest = logits.max(1)
    mean_logits = logits.mean(1)
    logits -= top[:, None]
    at_target = logits.gather(1, targets[:, None])[:, 0]
    probabilities = logits.exp()
    total = probabilities.sum(1)
    entropy = total.log() - torch.linalg.vecdot(probabilities, logits) / total
    probabilities /= total[:, None]
    return at_target - total.log(), entropy, mean_logits, likeliest == targets, probabilities
