"""The head that scores trained tokens alone gives what the plain one gives: values, gradients, and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax

from smolalign.train import lm_head
from smolalign.train.lm_head import ScoredTokens


def example(tokens: int = 7, width: int = 5, vocabulary: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(vocabulary, width).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,))


@pytest.mark.parametrize("kept", [2**26, 22, 1], ids=["whole", "in parts", "row by row"])
def test_scores_and_gradients_are_those_of_a_log_softmax(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head, "KEPT_ELEMENTS", kept)
    hidden, weight, targets = example()
    upstream = torch.randn(len(targets))
    plain = log_softmax(hidden @ weight.T, 1)
    expected = plain.gather(1, targets[:, None])[:, 0]
    grads = torch.autograd.grad((expected * upstream).sum(), (hidden, weight))
    log_probs, entropy, mean_logits, is_top1 = ScoredTokens.apply(hidden, weight, targets)
    found = torch.autograd.grad((log_probs * upstream).sum(), (hidden, weight))
    torch.testing.assert_close(log_probs, expected)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(1))
    torch.testing.assert_close(mean_logits, (hidden @ weight.T).mean(1))
    assert torch.equal(is_top1, plain.argmax(1) == targets)
    for one, other in zip(found, grads, strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_do() -> None:
    hidden, weight, targets = example()
    weight.requires_grad_(False)
    ScoredTokens.apply(hidden, weight, targets)[0].sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def with_heads(model: Any, labels: torch.Tensor, ids: torch.Tensor) -> tuple[Any, Any]:
    """What TRL's head and ours give for a batch."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    first = model(input_ids=ids, labels=labels, fused_lm_head=True)
    lm_head.score_only_trained_tokens(model)
    return first, model(input_ids=ids, labels=labels, fused_lm_head=True)


def batch(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(vocabulary, (2, 9))
    labels = ids.clone()
    labels[:, :4] = labels[0, 6] = -100
    return ids, labels


def test_a_model_gives_what_it_gives_with_trls_head(sharp_model: Any) -> None:
    from smolalign.model import load_model

    model = load_model(str(sharp_model))
    ids, labels = batch(model.config.vocab_size)
    trls, ours = with_heads(model, labels, ids)
    for name in ("loss", "log_probs", "entropy", "mean_logits"):
        expected = getattr(trls, name)
        found = getattr(ours, name)
        if name in ("entropy", "mean_logits"):
            expected = expected * trls.label_mask
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.is_top1, trls.is_top1.bool() & trls.label_mask)
    assert torch.equal(ours.label_mask, trls.label_mask)


def test_untrained_tokens_are_never_multiplied_with_the_head(sharp_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from smolalign.model import load_model

    seen: list[int] = []
    scores = lm_head._scores
    monkeypatch.setattr(lm_head, "_scores", lambda h, w, t: (seen.append(len(h)), scores(h, w, t))[1])
    model = load_model(str(sharp_model))
    ids, labels = batch(model.config.vocab_size)
    with_heads(model, labels, ids)
    assert seen == [int((labels[:, 1:] != -100).sum())]


def test_a_batch_without_trained_tokens_has_a_gradient_of_zero(sharp_model: Any) -> None:
    from smolalign.model import load_model

    model = load_model(str(sharp_model))
    ids, labels = batch(model.config.vocab_size)
    _, ours = with_heads(model, torch.full_like(labels, -100), ids)
    ours.loss.backward()
    assert ours.loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_model_that_scales_its_logits_keeps_trls_head(sharp_model: Any) -> None:
    from smolalign.model import load_model

    model = load_model(str(sharp_model))
    model.config.logit_scale = 0.5
    before = model.forward
    lm_head.score_only_trained_tokens(model)
    assert model.forward == before
