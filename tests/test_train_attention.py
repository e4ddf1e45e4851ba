"""Packing changes nothing: each document of a row is computed as if it stood alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from smolalign.model import lora_config
from smolalign.recipe.schema import Lora
from smolalign.train import attention, blocks
from smolalign.train.attention import IMPLEMENTATIONS, attending_per_document
from smolalign.train.pairs import row_layout

VOCABULARY = 60
LENGTHS = (5, 1, 17, 9, 2)
# Two documents of a row of 12.
PARTS = (slice(0, 7), slice(7, 12))


def new_model(*, key_value_heads: int = 2, lora: bool = False) -> Any:
    """A seeded Llama whose query heads share key and value heads; adapters, where asked for, do something."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    if lora:
        model = get_peft_model(model, lora_config(Lora(r=4, alpha=8)))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def documents(seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def packed(rows: list[list[int]]) -> dict[str, Any]:
    """The batch that TRL's trainer gives the model."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row, "labels": row} for row in rows])
    assert "attention_mask" not in batch
    return batch


def alone_logits(model: Any, row: list[int]) -> torch.Tensor:
    """`[length, vocabulary]` by Transformers' own attention."""
    assert model.config._attn_implementation != IMPLEMENTATIONS["per_document"]
    return model(input_ids=torch.tensor([row])).logits[0]


def alone_loss(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Mean over all predicted tokens of all documents, each in a forward pass of its own."""
    losses = [
        cross_entropy(alone_logits(model, row)[:-1], torch.tensor(row[1:]), reduction="none")
        for row in rows
        if len(row) > 1
    ]
    return torch.cat(losses).mean()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_logits_of_a_packed_row_are_those_of_each_document_alone(key_value_heads: int) -> None:
    model, rows = new_model(key_value_heads=key_value_heads), documents()
    with torch.no_grad():
        expected = torch.cat([alone_logits(model, row) for row in rows])
        with attending_per_document(model):
            found = model(**packed(rows)).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_loss_and_gradients_of_a_packed_row_are_those_of_each_document_alone(lora: bool) -> None:
    model, rows = new_model(lora=lora), documents()
    expected_loss = alone_loss(model, rows)
    expected_loss.backward()
    expected = gradients(model)
    with attending_per_document(model):
        loss = model(**packed(rows)).loss
        loss.backward()
    found = gradients(model)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    assert found.keys() == expected.keys()
    assert all("lora" in name for name in found) == lora
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        assert (found[name] - gradient).abs().max() / gradient.abs().max() < 1e-5, name


def test_a_document_does_not_feel_its_neighbours() -> None:
    model, rows, others = new_model(), documents(1), documents(2)
    third = slice(sum(LENGTHS[:2]), sum(LENGTHS[:3]))
    with torch.no_grad(), attending_per_document(model):
        before = model(**packed(rows)).logits[0, third]
        after = model(**packed([*others[:2], rows[2], *others[3:]])).logits[0, third]
        changed = model(**packed([*rows[:2], others[2], *rows[3:]])).logits[0, third]
    assert torch.equal(before, after)
    assert not torch.allclose(before, changed)


def test_positions_begin_anew_in_each_document() -> None:
    batch = packed(documents())
    assert batch["position_ids"].tolist() == [[i for length in LENGTHS for i in range(length)]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 6, 23, 32, 34]
    # The same document twice gives the same logits only if its positions are the same.
    model, row = new_model(), documents()[2]
    with torch.no_grad(), attending_per_document(model):
        logits = model(**packed([row, row])).logits[0]
    torch.testing.assert_close(logits[: len(row)], logits[len(row) :], rtol=1e-5, atol=1e-5)


def test_without_the_boundaries_documents_would_mix() -> None:
    model, rows = new_model(), documents()
    batch = packed(rows)
    without = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    with torch.no_grad(), attending_per_document(model):
        assert not torch.allclose(model(**batch).logits, model(**without).logits, atol=1e-2)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_batch_padded_on_the_right_equals_its_rows_alone(lora: bool) -> None:
    model, rows = new_model(lora=lora), documents()
    collate = DataCollatorForLanguageModeling(pad_token_id=7)
    batch = collate([{"input_ids": row, "labels": row} for row in rows])
    assert batch["input_ids"].shape == (len(rows), max(LENGTHS))
    expected_loss = alone_loss(model, rows)
    expected_loss.backward()
    expected = gradients(model)
    with attending_per_document(model):
        output = model(**batch)
        output.loss.backward()
    found = gradients(model)
    torch.testing.assert_close(output.loss, expected_loss, rtol=1e-6, atol=1e-6)
    for index, row in enumerate(rows):
        torch.testing.assert_close(output.logits[index, : len(row)], alone_logits(model, row), rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() / gradient.abs().max() < 1e-5, name


def test_attention_is_switched_back_even_after_an_error() -> None:
    model = new_model()
    before = model.config._attn_implementation

    def fail() -> None:
        with attending_per_document(model):
            assert model.config._attn_implementation == IMPLEMENTATIONS["per_document"]
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kept", [0, 10**6], ids=["computed again", "kept"])
@pytest.mark.parametrize("size", [1, 4, 12, 128])
def test_blocks_of_any_size_give_the_same(size: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SIZE", size)
    monkeypatch.setattr(blocks, "KEPT_ELEMENTS", kept)
    model, rows = new_model(), documents()
    alone_loss(model, rows).backward()
    expected = gradients(model)
    with attending_per_document(model):
        model(**packed(rows)).loss.backward()
    for name, gradient in gradients(model).items():
        assert (gradient - expected[name]).abs().max() / expected[name].abs().max() < 1e-5, name


@pytest.mark.parametrize("device", ["cpu", "elsewhere"])
@pytest.mark.parametrize("queries", [7, 3, 1])
@pytest.mark.parametrize("size", [2, 5, 128])
def test_the_last_query_is_at_the_last_key(
    queries: int, size: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SIZE", size)
    monkeypatch.setattr(attention, "BLOCKS_ON", ("cpu",) if device == "cpu" else ())
    query, key, value = (torch.randn(1, heads, 12, 8) for heads in (4, 2, 2))
    whole = torch.cat([attention._attend(*(x[:, :, p] for x in (query, key, value)), 0.3, 0.0) for p in PARTS], 2)
    module, kept = torch.nn.Module(), [*range(7 - queries, 7), *range(12 - min(5, queries), 12)]
    layout: Any = {
        "cu_seq_lens_q": torch.tensor([0, queries, len(kept)]),
        "cu_seq_lens_k": torch.tensor([0, 7, 12]),
        "key_index": torch.arange(12),
    }
    found, _ = attention.per_document_attention(module, query[:, :, kept], key, value, None, 0.3, **layout)
    torch.testing.assert_close(found.transpose(1, 2), whole[:, :, kept], rtol=1e-5, atol=1e-6)


def test_in_bf16_scores_are_not_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = [4 * torch.randn(1, 2, 40, 16, generator=generator) for _ in range(3)]
    rounded = [part.bfloat16() for part in exact]
    layout: Any = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), torch.tensor([0, 15, 40]))
    module = torch.nn.Module()
    expected, _ = attention.per_document_attention(module, *(p.float() for p in rounded), None, 0.25, **layout)
    found, _ = attention.per_document_attention(module, *rounded, None, 0.25, **layout)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-6)


def reference_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What PyTorch's `varlen_attn` documents for GPUs: `[tokens, heads, width]`, causal from the last key."""
    assert (window_size, enable_gqa) == ((-1, 0), key.shape[1] != query.shape[1])
    queries, keys = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
    assert (max_q, max_k) == (max(queries), max(keys))
    parts = zip(query.split(queries), key.split(keys), value.split(keys), strict=True)
    outputs = [attention._attend(*(x.transpose(0, 1)[None] for x in part), scale or 0.0, 0.0)[0] for part in parts]
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.mark.parametrize("shared", [False, True], ids=["documents", "shared prompts"])
def test_flash_attention_is_told_of_the_same_documents(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attn", reference_varlen)
    layout = row_layout([(5, 3, 2), (4, 1, 6)], 11) if shared else packed(documents())
    tokens = int(layout["cu_seq_lens_q"][-1])
    query, key, value = (torch.randn(1, heads, tokens, 8) for heads in (4, 2, 2))
    names = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "key_index")
    options: Any = {name: layout[name] for name in names if name in layout}
    module = torch.nn.Module()
    expected, _ = attention.per_document_attention(module, query, key, value, None, 0.3, **options)
    found, _ = attention.varlen_attention(module, query, key, value, None, 0.3, **options)
    assert found.shape == expected.shape == (1, tokens, 4, 8)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("config", "special"),
    [
        (LlamaConfig(), ""),
        (MistralConfig(sliding_window=64), "sliding windows"),
        (MistralConfig(sliding_window=None), ""),
        (Qwen2Config(sliding_window=64, use_sliding_window=False), ""),
        (Gemma2Config(), "sliding windows"),
    ],
)
def test_models_whose_attention_is_not_plainly_causal_keep_their_own(config: Any, special: str) -> None:
    assert attention.needs_masks(config) == special
