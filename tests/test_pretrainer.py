"""The trainer of pretraining computes what the plain computation does, document by document, and keeps count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from smolalign.errors import UserError
from smolalign.report import Silent
from smolalign.train.attention import attending_per_document
from smolalign.train.pretrainer import Pretrainer
from smolalign.train.session import Watch
from smolalign.train.spikes import MOST_SKIPPED, Spikes
from smolalign.train.throughput import Totals

VOCABULARY = 50
Item = dict[str, np.ndarray]


def model_of(*, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def item(seed: int, lengths: Sequence[int] = (5, 1, 12, 6), *, trained: bool = True) -> Item:
    """A row of documents of these lengths."""
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, sum(lengths))
    starts = np.cumsum([0, *lengths[:-1]]).astype(np.int32)
    labels = ids.copy()
    labels[starts] = -100
    if not trained:
        labels[:] = -100
    return {"input_ids": ids, "labels": labels, "starts": starts}


def trainer_of(
    folder: Path, items: list[Item], *, steps: int, model: Any = None, options: Any = None, **fields: Any
) -> Pretrainer:
    arguments = {
        "per_device_train_batch_size": 1,
        "max_steps": steps,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.1,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return Pretrainer(
        model=model or model_of(),
        args=TrainingArguments(output_dir=str(folder / "checkpoints"), **arguments),
        train_dataset=items,
        callbacks=[Watch("pretrain", folder / "metrics.jsonl", Silent())],
        **(options or {}),
    )


def run(trainer: Pretrainer, **options: Any) -> list[dict[str, float]]:
    """Train; the lines that were logged of steps."""
    with attending_per_document(trainer.model):
        trainer.train(**options)
    return [line for line in trainer.state.log_history if "train_runtime" not in line]


def plain_loss(model: Any, items: list[Item], z_loss: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from logits, each document in a forward pass of its own: cross entropy, and z-loss."""
    logits, targets = [], []
    for one in items:
        for ids in np.split(one["input_ids"], one["starts"][1:]):
            if len(ids) > 1 and (one["labels"] != -100).any():
                logits.append(model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1])
                targets.append(torch.from_numpy(ids[1:]))
    every = torch.cat(logits)
    return cross_entropy(every, torch.cat(targets)), z_loss * every.logsumexp(1).square().mean()


@pytest.mark.parametrize(("tied", "z_loss"), [(True, 0.0), (False, 1e-2)])
def test_some_steps_are_those_of_a_plain_loop_over_documents(tied: bool, z_loss: float, tmp_path: Path) -> None:
    items = [item(0), item(1, (24,)), item(2, (3, 21)), item(3), item(4), item(5, trained=False)]
    trainer = trainer_of(
        tmp_path, items, steps=3, model=model_of(tied=tied), options={"z_loss": z_loss}, gradient_accumulation_steps=2
    )
    logs = run(trainer)
    model = model_of(tied=tied)
    matrices = [p for name, p in model.named_parameters() if "proj" in name]
    others = [p for name, p in model.named_parameters() if "proj" not in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for step, log in enumerate(logs):
        loss, of_z = plain_loss(model, items[2 * step : 2 * step + 2], z_loss)
        optimizer.zero_grad()
        (loss + of_z).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert log["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert log["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert log.get("z_loss", 0.0) == pytest.approx(of_z.item(), rel=1e-4)
    assert len(logs) == 3
    for one, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_step_without_a_trained_token_moves_nothing_but_the_optimizers_means(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [item(0, trained=False)], steps=1, weight_decay=0.0)
    (log,) = run(trainer)
    assert log["loss"] == log["grad_norm"] == 0
    for one, other in zip(trainer.model.parameters(), model_of().parameters(), strict=True):
        assert torch.equal(one, other)


def test_norms_biases_and_embeddings_do_not_decay(tmp_path: Path) -> None:
    for tied in (True, False):
        trainer = trainer_of(tmp_path, [item(0)], steps=1, model=model_of(tied=tied))
        assert {name.split(".")[-2] for name in trainer.get_decay_parameter_names(trainer.model)} == {
            *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        }


def test_held_out_sets_are_measured_exactly_by_name(tmp_path: Path) -> None:
    near, far = [item(10), item(11, (24,)), item(12, (2, 7))], [item(13)]
    trainer = trainer_of(tmp_path, [item(0)], steps=1, options={"eval_dataset": {"near": near, "far": far}})
    with attending_per_document(trainer.model):
        found = trainer.evaluate()
    assert found["eval_near_loss"] == pytest.approx(plain_loss(model_of(), near)[0].item(), abs=1e-6)
    assert found["eval_far_loss"] == pytest.approx(plain_loss(model_of(), far)[0].item(), abs=1e-6)
    alone = trainer_of(tmp_path, [item(0)], steps=1, options={"eval_dataset": {"near": near}})
    with attending_per_document(alone.model):
        assert alone.evaluate()["eval_loss"] == found["eval_near_loss"]


def test_utilisation_is_of_the_operations_that_the_documents_take(tmp_path: Path) -> None:
    items = [item(0), item(1, (24,)), item(2, trained=False)]
    trainer = trainer_of(tmp_path, items, steps=1, gradient_accumulation_steps=3)
    trainer.throughput.peak = 1e9
    (log,) = run(trainer)
    # Two layers of width 16 (keys and values 8, inner 24); each product once forward and twice backward.
    weights = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24)
    pairs = sum(length * (length + 1) // 2 for length in (5, 1, 12, 6, 24))
    flops = 6 * (48 * weights + (20 + 23) * 16 * VOCABULARY + pairs * 2 * 2 * 16)
    totals = trainer.throughput.totals
    assert (totals.tokens, totals.flops) == (48, flops)
    assert log["num_tokens"] == 48
    figures = trainer.throughput.figures(Totals(48, flops, 0.5, 2.0), 2)
    assert figures == {"data_share": 0.125, "mfu": round(flops / 2 / 2e9, 4)}


def poisoned(model: LlamaForCausalLM, step: int, calls: list[int]) -> LlamaForCausalLM:
    """The model, whose embeddings are so large in the given step that its loss is a spike."""

    def enlarge(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * (100.0 if len(calls) == step else 1.0) if module.training else output

    model.model.norm.register_forward_hook(enlarge)
    return model


@pytest.mark.parametrize("resumed", [False, True])
def test_a_spike_leaves_no_trace(resumed: bool, tmp_path: Path) -> None:
    steps, bad = 40, 38
    items = [item(seed) for seed in range(steps)]
    fields = {"learning_rate": 1e-3, "weight_decay": 0.0}
    calls: list[int] = []
    saving = {"save_strategy": "steps", "save_steps": 36}
    trainer = trainer_of(tmp_path / "a", items, steps=steps, model=poisoned(model_of(), bad, calls), **fields, **saving)
    logs = run(trainer)
    if resumed:
        calls = [1] * 36
        trainer = trainer_of(
            tmp_path / "a", items, steps=steps, model=poisoned(model_of(), bad, calls), **fields, **saving
        )
        # Not the last one: that is of the step after all.
        logs = run(trainer, resume_from_checkpoint=str(tmp_path / "a" / "checkpoints" / "checkpoint-36"))
        assert len(calls) == steps
    assert logs[-1]["skipped_steps"] == 1
    assert "loss" not in logs[bad - 1]
    without = items[: bad - 1] + items[bad:]
    clean = trainer_of(tmp_path / "b", without, steps=steps - 1, **fields)
    expected = run(clean)
    assert [line["loss"] for line in logs if "loss" in line] == [line["loss"] for line in expected]
    for one, other in zip(trainer.model.parameters(), clean.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_spike_is_in_no_mean_that_is_logged_of_steps_beside_it(tmp_path: Path) -> None:
    items = [item(seed) for seed in range(36)]
    fields = {"learning_rate": 1e-3, "options": {"z_loss": 1e-2}}
    spiked = trainer_of(tmp_path / "a", items, steps=36, model=poisoned(model_of(), 35, []), logging_steps=4, **fields)
    logs = run(spiked)
    alone = run(trainer_of(tmp_path / "b", items[:34] + items[35:], steps=35, **fields))
    for name in ("loss", "z_loss"):
        assert logs[-1][name] == pytest.approx(sum(line[name] for line in alone[-3:]) / 3, rel=1e-5)
    every = sum(line["loss"] for line in alone) / len(alone)
    assert spiked.state.log_history[-1]["train_loss"] == pytest.approx(every, rel=1e-5)


def test_a_spike_hides_no_spike_after_it() -> None:
    spikes = Spikes(6.0)
    assert not any(spikes.judge(1.0 + 0.01 * (number % 5), 1.0) for number in range(64))
    assert spikes.judge(1e6, 1.0)
    assert spikes.judge(2.0, 1.0)


def test_figures_that_rise_for_good_are_trained_on() -> None:
    spikes = Spikes(6.0)
    calm = [1.0 + 0.01 * (number % 5) for number in range(64)]
    assert not any(spikes.judge(loss, loss) for loss in calm)
    risen = [bool(spikes.judge(2.0 + loss, loss)) for loss in calm]
    assert risen[0]
    assert sum(risen) <= MOST_SKIPPED
    assert not any(risen[sum(risen) :])


def test_a_run_of_spikes_ends(tmp_path: Path) -> None:
    model = model_of()
    model.model.norm.register_forward_hook(lambda *_: _[-1] * float("nan"))
    with pytest.raises(UserError, match="21 of the last 100 steps were left out by step 21"):
        run(trainer_of(tmp_path, [item(seed) for seed in range(30)], steps=30, model=model))
