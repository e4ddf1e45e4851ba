"""A batch in parts has the gradient of the whole batch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chats
from hypothesis import given, settings
from hypothesis import strategies as st
from training import Cli, difference, logged, run, write_recipe
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from smolalign.train import micro_batches
from smolalign.train.micro_batches import split


def batch_of(lengths: list[int]) -> dict[str, Any]:
    numbers = iter(range(1, 10_000))
    rows = [[next(numbers) for _ in range(length)] for length in lengths]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    return collate([{"input_ids": row, "labels": row} for row in rows])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 60))
def test_parts_are_whole_documents_in_order_and_as_large_as_may_be(lengths: list[int], most: int) -> None:
    whole = batch_of(lengths)
    parts = list(split(whole, most))
    for name in ("input_ids", "labels", "position_ids"):
        assert torch.equal(torch.cat([part[name] for part in parts], dim=1), whole[name])
    counts = []
    for part in parts:
        own = part["cu_seq_lens_q"].diff().tolist()
        counts.append(own)
        assert (part["max_length_q"], part["max_length_k"]) == (max(own), max(own))
        assert sum(own) == part["input_ids"].shape[1]
        assert sum(own) <= most or len(own) == 1
    assert [length for own in counts for length in own] == lengths
    assert all(sum(one) + two[0] > most for one, two in pairwise(counts))


def test_a_padded_batch_is_left_whole() -> None:
    batch = {"input_ids": torch.ones(2, 5), "attention_mask": torch.ones(2, 5)}
    assert list(split(batch, 1)) == [batch]


@pytest.mark.parametrize(
    "extra",
    [[], ["trainer.gradient_accumulation_steps=2"], ["lora={r: 4, alpha: 8}"], ["trainer.packing=true"]],
    ids=["full", "accumulated", "lora", "packed"],
)
def test_steps_in_parts_end_with_the_same_losses_and_weights(
    extra: list[str], cli: Cli, sharp_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 2, "per_device_train_batch_size": 6}
    recipe = write_recipe(tmp_path, "sft", chats(12), trainer=trainer, model=str(sharp_model), template="chatml")
    whole = run(cli, "sft", recipe, *extra, out="whole")
    counts: list[int] = []

    def counted(inputs: dict[str, Any], most: int) -> list[dict[str, Any]]:
        parts = list(split(inputs, most))
        counts.append(len(parts))
        return parts

    monkeypatch.setattr(micro_batches, "split", counted)
    parts = run(cli, "sft", recipe, *extra, "compute.micro_batch_tokens=60", out="parts")
    assert max(counts) >= 3
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-5)
    assert logged(parts, "grad_norm") == pytest.approx(logged(whole, "grad_norm"), rel=1e-4)
    assert logged(parts, "num_tokens") == logged(whole, "num_tokens")
    assert difference(parts, whole) < 1e-5


def test_a_process_with_fewer_parts_computes_as_often_as_the_others_on_tokens_that_are_not_trained_on() -> None:
    parts = list(split(batch_of([5, 7]), 5))
    told: list[int] = []

    class OfThree:
        device = "cpu"

        def gather(self, own: torch.Tensor) -> torch.Tensor:
            told.extend(own.tolist())
            return torch.tensor([*own.tolist(), 4])

    class Trainer:
        accelerator = OfThree()

    both = micro_batches.MicroBatches._as_many_as_others(Trainer(), parts)  # type: ignore[arg-type]
    assert told == [2]
    assert len(both) == 4
    # Gradients are exchanged with the last part, which must be a real one.
    assert both[2:] == parts
    for idle in both[:2]:
        assert idle["input_ids"].shape == (1, 1)
        assert idle["labels"].tolist() == [[-100]]
        assert idle["cu_seq_lens_q"].tolist() == [0, 1]
    assert (parts[0]["labels"] > 0).any()
