"""What `check --device` says training costs: operations against hand calculations, and hours from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, chats, write_jsonl
from transformers import LlamaConfig

from smolalign.cost import DEVICES, Sizes, Work, cost_line, hours, sizes_of, step_flops, training_flops, work_of
from smolalign.recipe.load import load_recipe
from smolalign.train.dry_step import Batch, model_on_meta

Cli = Callable[..., Ran]
SMALL = LlamaConfig(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=100,
)
# 135M, with published sizes.
M135 = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
)


def recipe(folder: Path, text: str, *overrides: str) -> Any:
    (folder / "step.yaml").write_text(text)
    return load_recipe(folder / "step.yaml", overrides).step


SFT = "kind: sft\nmodel: m\ndata: [{source: a.jsonl}]\ntrainer: {num_train_epochs: 2}\n"
DPO = "kind: dpo\nmodel: m\ndata: [{source: a.jsonl}]\ntrainer: {num_train_epochs: 4}\n"


def test_weights_are_those_of_the_models_own_linear_layers() -> None:
    import torch

    model = model_on_meta(SMALL, torch.float32, None, False)
    layers = [m.weight for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes_of(SMALL) == Sizes(sum(w.numel() for w in layers), 64 * 100, 64 * 3)
    assert sizes_of(SMALL, rank=4).adapters == 4 * sum(sum(w.shape) for w in layers)
    # 134,515,008 parameters, less the embedding (the head's, tied) and the norms.
    assert sizes_of(M135).linear == 134_515_008 - 49152 * 576 - 61 * 576


def test_a_rows_tokens_attend_to_those_before_them_and_answers_to_their_shared_prompt() -> None:
    assert work_of([Batch(((4,),), 3)]) == Work(4, 3, 1 + 2 + 3 + 4)
    # Prompt of 2, answers of 2 and 1: (1 + 2) + (3 + 4) + 3.
    assert work_of([Batch(((2, 2, 1),), 3)]) == Work(5, 3, 13)


@pytest.mark.parametrize(
    ("adapters", "options", "of_linear", "of_attention", "of_head", "of_adapters"),
    [
        (0, {}, 6, 12, 6, 0),
        (0, {"recomputed": True}, 8, 16, 6, 0),
        (0, {"reference": 0.5}, 7, 14, 7, 0),
        (10, {}, 4, 12, 4, 6),
        (10, {"recomputed": True}, 6, 16, 4, 8),
        (10, {"reference": 1.0}, 6, 16, 6, 6),
    ],
)
def test_operations_of_a_weight_and_token(
    adapters: int, options: Any, of_linear: int, of_attention: int, of_head: int, of_adapters: int
) -> None:
    def flops(linear: int, head: int, attention: int) -> float:
        return training_flops(Sizes(linear, head, attention, adapters), Work(7, 5, 11), **options)

    assert flops(1, 0, 0) - flops(0, 0, 0) == of_linear * 7
    assert flops(0, 0, 1) - flops(0, 0, 0) == of_attention * 11
    assert flops(0, 1, 0) - flops(0, 0, 0) == of_head * 5
    assert flops(0, 0, 0) == of_adapters * adapters * 7


def test_sft_of_135m_by_hand(tmp_path: Path) -> None:
    work = work_of([Batch(((1000,),), 600)]).times(1000)
    layers = 106_168_320 * 1e6  # weights × tokens
    attended = 30 * 576 * 500.5 * 1e6
    head = 576 * 49152 * 0.6e6
    by_hand = 2 * (6 * layers + 12 * attended + 6 * head)
    assert step_flops(recipe(tmp_path, SFT), M135, work) == pytest.approx(by_hand)
    step = recipe(tmp_path, SFT, "trainer.gradient_checkpointing=true")
    assert step_flops(step, M135, work) == pytest.approx(by_hand + 2 * (2 * layers + 4 * attended))


def test_the_reference_of_dpo_is_scored_once_or_with_adapters_in_each_epoch(tmp_path: Path) -> None:
    work = Work(1000, 500, 1e5)
    plain = training_flops(sizes_of(M135), work)
    forward = training_flops(sizes_of(M135), work, reference=1) - plain
    assert step_flops(recipe(tmp_path, DPO), M135, work) == pytest.approx(4 * plain + forward)
    with_adapters = training_flops(sizes_of(M135, 16), work)
    assert step_flops(recipe(tmp_path, DPO, "lora.r=16"), M135, work) == pytest.approx(4 * (with_adapters + forward))


def test_hours_are_operations_over_the_share_of_the_peak_that_is_reached() -> None:
    an_hour = 989e12 * 0.3 * 3600
    assert [hours(share * an_hour, DEVICES["h100"]) for share in (123.4, 2.54, 0.5, 0.05, 0.001)] == [
        "123 hours",
        "2.5 hours",
        "0.5 hours",
        "3 minutes",
        "under a minute",
    ]


def test_so_many_steps_cost_what_their_rows_do_whatever_the_epochs(tmp_path: Path) -> None:
    rows = [Batch(((100,),), 50)]
    few = recipe(tmp_path, SFT, "trainer.max_steps=10", "global_batch_size=128")
    all_rows = recipe(tmp_path, SFT, "trainer.num_train_epochs=1")
    of_few = cost_line(few, M135, rows, 10**6, DEVICES["a100"])
    of_all = cost_line(all_rows, M135, rows, 1280, DEVICES["a100"])
    assert re.search("[0-9.]+e[0-9]+ operations.*", of_few)[0] == re.search("[0-9.]+e[0-9]+ operations.*", of_all)[0]  # type: ignore[index]


# --- through the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def sft(tiny_model: Path, tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "rows.jsonl", chats(40))
    (tmp_path / "sft.yaml").write_text(f"kind: sft\nmodel: {tiny_model}\ndata: [{{source: rows.jsonl}}]\n")
    return tmp_path / "sft.yaml"


def test_check_says_what_a_step_costs_and_takes_on_a_gpu_that_is_not_here(cli: Cli, sft: Path) -> None:
    ran = cli("check", sft, "--device", "rtx4060", "--out", sft.parent / "run")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"cost: 3 × 40 rows of \d+ tokens, [\d.]+e\d+ operations, under a minute of an RTX 4060", ran.out)
    assert "process 0.60); 8.6 GB on an RTX 4060" in ran.out
    assert "cost:" not in cli("check", sft, "--out", sft.parent / "run").out


def test_rows_are_those_that_weights_limits_and_steps_to_come_leave(cli: Cli, sft: Path) -> None:
    write_jsonl(sft.parent / "more.jsonl", chats(60))
    (sft.parent / "pipeline.yaml").write_text(
        "kind: pipeline\nsteps:\n"
        "  mix: {kind: smoltalk, test_fraction: 0.5, data: [{source: rows.jsonl, repeat: 2}, "
        "{source: more.jsonl, weight: 0.5}]}\n"
        '  sft: {extends: sft.yaml, data: [{source: "@mix"}, {source: more.jsonl, max_rows: 7}]}\n'
    )
    ran = cli("check", sft.parent / "pipeline.yaml", "--device", "h100", "--out", sft.parent / "run")
    assert (ran.code, ran.err) == (0, "")
    assert f"3 × {(40 * 2 + 30) // 2 + 7} rows" in ran.out


def test_where_rows_cannot_be_counted_without_reading_them_the_cost_is_that_of_100_million_tokens(
    cli: Cli, sft: Path
) -> None:
    (sft.parent / "rows.json").write_text(
        "[" + (sft.parent / "rows.jsonl").read_text().strip().replace("\n", ",") + "]"
    )
    sft.write_text(sft.read_text().replace("rows.jsonl", "rows.json"))
    ran = cli("check", sft, "--device", "a100", "--out", sft.parent / "run")
    assert (ran.code, "cost: for 100 million tokens, all epochs, " in ran.out) == (0, True), ran.err


def test_an_unknown_device_is_an_error(cli: Cli, sft: Path) -> None:
    ran = cli("check", sft, "--device", "rtx4900")
    assert (ran.code, ran.err) == (2, "error unknown device 'rtx4900' → did you mean rtx4090?\n")
