"""Norms, gates and attention that keep less for the backward pass compute what the plain ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from smolalign.train.blocks import Blocked, Part, plan
from smolalign.train.lean import Gate, Norm, Rotation, make_lean

SIZES: dict[str, Any] = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}

# Two documents, of 3 queries and 5 keys and of 4 and 4.
SHARED = plan((3, 4), (5, 4), torch.device("cpu"))
LATER = torch.ones(4, 4, dtype=torch.bool).triu_(1)
DIVIDED = [Part(slice(3), slice(5), LATER[:3, :3]), Part(slice(3, 7), slice(5, 9), LATER)]

ANGLES = torch.randn(2, 2, 1, 5, 2, dtype=torch.float64).repeat(1, 1, 1, 1, 2)


def double(*size: int) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x, w: Norm.apply(x, w, 1e-5), ((2, 3, 5), (5,))),
        (Gate.apply, ((2, 3, 5), (2, 3, 5))),
        (lambda x: Rotation.apply(x, *ANGLES), ((2, 3, 5, 4),)),
        (lambda q, k, v: Blocked.apply(q, k, v, 0.4, SHARED), ((4, 7, 3), (2, 9, 3), (2, 9, 3))),
        (lambda q, k, v: Blocked.apply(q, k, v, 0.4, DIVIDED), ((4, 7, 3), (2, 9, 3), (2, 9, 3))),
    ],
    ids=["norm", "gate", "rotation", "attention in shared blocks", "attention in parts"],
)
def test_gradients_are_those_of_finite_differences(function: Any, inputs: tuple[tuple[int, ...], ...]) -> None:
    torch.manual_seed(0)
    assert gradcheck(function, tuple(double(*size) for size in inputs))


@pytest.mark.parametrize(
    ("family", "config"), [(LlamaForCausalLM, LlamaConfig), (Qwen3ForCausalLM, Qwen3Config)], ids=["llama", "qwen3"]
)
def test_a_lean_model_computes_the_same_and_keeps_less(family: Any, config: Any) -> None:
    torch.manual_seed(0)
    model, ids = family(config(**SIZES)), torch.randint(60, (1, 40))
    expected, before = _trained(model, ids)
    make_lean(model)
    found, after = _trained(model, ids)
    assert after < 0.9 * before
    assert torch.equal(found.pop("loss"), expected.pop("loss"))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_a_model_with_other_norms_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES))
    make_lean(model)
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]


def _trained(model: Any, ids: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """The loss and all gradients of a batch, and the bytes that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}, sum(size for place, size in kept.items() if place not in weights)
