"""Pairs in one row with shared prompts: figures and gradients are those of TRL's plain trainer on padded batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from smolalign.chat.render import render_pair
from smolalign.model import load_config, load_model, load_tokenizer, lora_config
from smolalign.recipe.schema import DpoStep, Lora
from smolalign.report import Silent
from smolalign.rows import Message, Pair
from smolalign.train.compute import choose, computing
from smolalign.train.dpo import PairTrainer
from smolalign.train.pairs import PairCollator, row_layout, share_prompts

LOSSES = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"]
LOSSES += ["apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"]


class Plain(DPOTrainer):
    """TRL's trainer as it is, on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def rows() -> list[Pair]:
    """Pairs of several turns, with and without system turns, with answers of very different lengths."""
    user, assistant = (lambda text, role=role: Message(role, text) for role in ("user", "assistant"))
    return [
        Pair((user("What is 2 + 3?"),), assistant("It is 5."), assistant("No.")),
        Pair(
            (Message("system", "Be short."), user("Say hello to the dog."), assistant("Hello."), user("And the cat?")),
            assistant("Hello, cat."),
            assistant("The cat sat on the mat and said hello to the dog. " * 3),
        ),
        Pair((user("The mat " * 30),), assistant("The cat"), assistant("The cat sat")),
        Pair((user("hello"),), assistant("It is 5. " * 12), assistant("2")),
    ]


def tokens(tokenizer: Any) -> Dataset:
    rendered = [render_pair(tokenizer, row) for row in rows()]
    return Dataset.from_list(
        [{"prompt_ids": r.prompt_ids, "chosen_ids": r.chosen_ids, "rejected_ids": r.rejected_ids} for r in rendered]
    )


def figures(trainer: Any, batch: dict[str, Any]) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    """The batch's loss, what the trainer logs of it, and the gradients."""
    trainer.model.train()
    trainer._metrics["train"].clear()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    return loss.item(), logged, gradients


def compare(folder: Path, out: Path, *, lora: bool = False, tolerance: float = 1e-4, **fields: Any) -> None:
    tokenizer = load_tokenizer(str(folder))
    fields = {"beta": 0.3, "max_length": None, "bf16": False, "report_to": "none", **fields}
    args = DPOConfig(str(out), use_cpu=True, gradient_checkpointing=False, **fields)
    data = tokens(tokenizer)
    pairs = data.to_list()

    options = {"train_dataset": data, "processing_class": tokenizer}
    options["peft_config"] = lora_config(Lora(r=4, alpha=8)) if lora else None
    plain = Plain(model=load_model(str(folder)), args=args, **options, data_collator=_collator(tokenizer))
    model = load_model(str(folder))
    share_prompts(model.base_model)
    step = DpoStep(kind="dpo", model=str(folder), data=[{"source": "x"}])
    ours = PairTrainer(
        report=Silent(),
        compute=choose(step, load_config(str(folder))),
        model=model,
        args=args,
        **options,
        data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id),
    )
    for trainer in (plain, ours):
        _move(trainer.model)
    reference: dict[str, torch.Tensor] = {}
    if args.precompute_ref_log_probs:
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            expected, found = (torch.tensor(trainer.train_dataset[name]) for trainer in (plain, ours))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
            reference[name] = expected
    expected = figures(plain, {**_collator(tokenizer)(pairs), **reference})
    with computing(ours, ours.compute):
        if ours.ref_model is not None:
            share_prompts(ours.ref_model.base_model)
        found = figures(ours, {**PairCollator(pad_token_id=tokenizer.pad_token_id)(pairs), **reference})
    assert found[0] == pytest.approx(expected[0], abs=1e-4, rel=1e-4)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert found[1][name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    assert found[2].keys() == expected[2].keys()
    largest = max(gradient.abs().max() for gradient in expected[2].values())
    for name, gradient in expected[2].items():
        scale = torch.maximum(gradient.abs().max(), largest / 5)
        assert (found[2][name] - gradient).abs().max() / scale < tolerance, name


def _move(model: Any) -> None:
    """Away from its reference."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def _collator(tokenizer: Any) -> DataCollatorForPreference:
    return DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("precompute", [False, True], ids=["reference on the fly", "reference before"])
def test_loss_rewards_and_gradients_are_those_of_trls_plain_trainer(
    lora: bool, precompute: bool, sharp_model: Path, tmp_path: Path
) -> None:
    compare(sharp_model, tmp_path, lora=lora, precompute_ref_log_probs=precompute)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_trl_is_computed_as_trl_does(loss: str, sharp_model: Path, tmp_path: Path) -> None:
    smoothing = {"exo_pair": 1e-3, "robust": 0.1}.get(loss, 0.0)
    # The two parts of discopop's gradient cancel here but for a hundredth.
    tolerance = 1e-3 if loss == "discopop" else 1e-4
    compare(sharp_model, tmp_path, lora=True, tolerance=tolerance, loss_type=[loss], label_smoothing=smoothing)


@pytest.mark.parametrize(
    "fields",
    [{"ld_alpha": 0.5}, {"use_weighting": True}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}],
    ids=["length-desensitized", "weighted", "with SFT loss"],
)
def test_the_trainers_variants_are_computed_as_trl_does(
    fields: dict[str, Any], sharp_model: Path, tmp_path: Path
) -> None:
    compare(sharp_model, tmp_path, lora=True, **fields)


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_the_row_holds_each_prompt_once_and_gives_the_padded_batch_back(sizes: list[tuple[int, int, int]]) -> None:
    numbers = iter(range(1, 10_000))
    pairs = [
        {
            f"{part}_ids": [next(numbers) for _ in range(size)]
            for part, size in zip(("prompt", "chosen", "rejected"), three, strict=True)
        }
        for three in sizes
    ]
    batch = PairCollator(pad_token_id=0)(pairs)
    row = batch["input_ids"].reshape(-1)[batch["row_index"]]
    assert row.tolist() == [token for pair in pairs for ids in pair.values() for token in ids]
    real = batch["attention_mask"].bool()
    assert torch.equal(row[batch["padded_index"]][real], batch["input_ids"][real])
    places = torch.arange(real.shape[1]).expand_as(real)
    assert torch.equal(batch["position_ids"][0][batch["padded_index"]][real], places[real])
    # Each stretch of queries ends where its keys end, and its keys are one sequence of the batch, prompt first.
    sequences = [batch["input_ids"][i][real[i]].tolist() for n in range(len(pairs)) for i in (n, len(pairs) + n)]
    keys = [row[part].tolist() for part in batch["key_index"].split(batch["cu_seq_lens_k"].diff().tolist())]
    queries = [part.tolist() for part in row.split(batch["cu_seq_lens_q"].diff().tolist())]
    assert keys == sequences
    assert all(key[-len(query) :] == query for key, query in zip(keys, queries, strict=True))


def test_an_answer_does_not_feel_the_other_answer(sharp_model: Path) -> None:
    model, tokenizer = load_model(str(sharp_model)), load_tokenizer(str(sharp_model))
    share_prompts(model.base_model)
    model.set_attn_implementation("per_document")
    pair = tokens(tokenizer).to_list()[1]
    other = {**pair, "chosen_ids": pair["chosen_ids"][::-1]}
    collate = PairCollator(pad_token_id=tokenizer.pad_token_id)
    with torch.no_grad():
        first, second = (model.base_model(**_inputs(collate([p]))).last_hidden_state for p in (pair, other))
    assert torch.equal(first[1], second[1])
    assert not torch.allclose(first[0], second[0])


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "completion_mask"} | {"use_cache": False}


def test_attention_computes_each_prompt_once() -> None:
    layout = row_layout([(100, 10, 20), (50, 5, 5)], 120)
    assert len(layout["row_index"]) == 100 + 10 + 20 + 50 + 5 + 5
    assert layout["cu_seq_lens_q"].tolist() == [0, 110, 130, 185, 190]
    assert layout["cu_seq_lens_k"].tolist() == [0, 110, 230, 285, 340]
    assert (layout["max_length_q"], layout["max_length_k"]) == (110, 120)
