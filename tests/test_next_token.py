"""The loss without whole logits is the plain one: values, gradients, z-loss, and nothing where nothing is predicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from smolalign.train import next_token
from smolalign.train.next_token import NextTokenLoss, add_next_token_loss, next_token_loss


def example(tokens: int = 9, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 5, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(11, (tokens,))


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, count: float, z_loss: float) -> Any:
    logits = hidden @ weight.T
    of_z = z_loss * logits.logsumexp(1).square().sum() / count
    return cross_entropy(logits, targets, reduction="sum") / count + of_z, of_z


@pytest.mark.parametrize("tokens_at_once", [1, 4, 100])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_values_and_gradients_are_the_plain_ones(
    z_loss: float, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_token, "LEAST_TOKENS", tokens_at_once)
    monkeypatch.setitem(next_token.CHUNK_ELEMENTS, "cpu", 1)
    hidden, weight, targets = example()
    expected, expected_z = plain(hidden, weight, targets, 7.0, z_loss)
    grads = torch.autograd.grad(3 * expected, (hidden, weight))
    loss, of_z = NextTokenLoss.apply(hidden, weight, targets, 7.0, z_loss, True)
    found = torch.autograd.grad(3 * loss, (hidden, weight))
    torch.testing.assert_close((loss, of_z, *found), (expected, expected_z, *grads), rtol=1e-12, atol=1e-12)
    assert not of_z.requires_grad


def test_logits_beyond_what_exponentials_hold_lose_nothing() -> None:
    hidden, weight, targets = example(dtype=torch.float32)
    large = (400 * hidden.detach()).requires_grad_()
    expected = torch.autograd.grad(plain(large, weight, targets, 1.0, 0.0)[0], (large, weight))
    loss, _ = next_token_loss(large, weight, torch.arange(9), targets, 1.0)
    torch.testing.assert_close(loss, plain(large, weight, targets, 1.0, 0.0)[0], rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(torch.autograd.grad(loss, (large, weight)), expected, rtol=1e-5, atol=1e-3)


def test_only_the_places_that_predict_are_scored_and_none_is_zero() -> None:
    hidden, weight, targets = example()
    places = torch.tensor([1, 2, 7])
    loss, _ = next_token_loss(hidden, weight, places, targets[places], 3.0)
    torch.testing.assert_close(loss, plain(hidden[places], weight, targets[places], 3.0, 0.0)[0])
    nothing, of_z = next_token_loss(hidden, weight, places[:0], targets[:0], 3.0, 0.1)
    nothing.backward()
    assert nothing == of_z == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_in_bf16_products_are_rounded_and_sums_are_not() -> None:
    hidden, weight, targets = example(tokens=64, dtype=torch.float32)
    rounded = hidden.detach().bfloat16().requires_grad_()
    loss, _ = next_token_loss(rounded, weight, torch.arange(64), targets, 64.0)
    expected, _ = plain(rounded.float(), weight.bfloat16().float(), targets, 64.0, 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    assert torch.autograd.grad(loss, (weight,))[0].dtype == torch.float32


def test_without_places_a_model_gives_what_it_gave(sharp_model: Any) -> None:
    from smolalign.model import load_model

    model, ids = load_model(str(sharp_model)), torch.arange(6)[None]
    before = model(input_ids=ids, labels=ids)
    add_next_token_loss(model)
    forward = model.forward
    add_next_token_loss(model)
    after = model(input_ids=ids, labels=ids)
    assert model.forward == forward
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.loss, before.loss)


def test_where_layers_are_bf16_the_heads_product_is_too() -> None:
    hidden, weight, targets = example(64, torch.float32)
    rounded = hidden.detach().bfloat16().requires_grad_()
    expected = torch.autograd.grad(next_token_loss(rounded, weight, torch.arange(64), targets, 64.0)[0], weight)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = next_token_loss(hidden, weight, torch.arange(64), targets, 64.0)
    of_hidden, of_weight = torch.autograd.grad(loss, (hidden, weight))
    assert torch.equal(of_weight, expected[0])
    assert of_hidden.dtype == torch.float32
