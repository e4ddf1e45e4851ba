"""Adapters merge into a plain checkpoint that computes what the adapted model computed, quantized or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Ran, chats, write_jsonl
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from smolalign.errors import UserError
from smolalign.model import load_model, load_tokenizer, lora_config, merged, save_model
from smolalign.recipe.pretraining import Architecture
from smolalign.recipe.schema import Lora

Cli = Callable[..., Ran]

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 2, 99]])


@pytest.fixture(scope="module")
def model_64(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers are multiples of 64 wide, as 4-bit blocks need, with weights large enough to matter."""
    from smolalign.train.pretrain import new_model

    tokenizer: Any = load_tokenizer(str(tiny_model))
    sizes = Architecture(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    folder = tmp_path_factory.mktemp("m64") / "model"
    save_model(new_model(sizes, tokenizer, seed=1), tokenizer, folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def adapted(model: Any) -> PeftModel:
    """The model with random adapters that change what it computes."""
    torch.manual_seed(0)
    found = get_peft_model(model, lora_config(Lora(r=4, alpha=8)))
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return found.eval()


# How far logits move when weights are rounded to 8 and to 4 bits, relative to their norm, on the model above.
ROUNDING = {"int8": 0.05, "nf4": 0.4}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_the_saved_checkpoint_computes_what_its_adapters_do_over_full_precision_weights(
    quantize: str | None, model_64: Path, tmp_path: Path
) -> None:
    base = logits(load_model(str(model_64)))
    trained = adapted(load_model(str(model_64), quantize))
    as_trained = logits(trained)
    expected = logits(adapted(load_model(str(model_64))))
    assert (expected - base).abs().max() > 0.1
    tokenizer = load_tokenizer(str(model_64))
    save_model(merged(trained, str(model_64), quantize, tmp_path, tokenizer), tokenizer, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-4)
    with_adapter = PeftModel.from_pretrained(load_model(str(model_64)), tmp_path / "adapter")
    torch.testing.assert_close(logits(with_adapter), expected, rtol=1e-4, atol=1e-4)
    # What was trained computed with rounded weights: the checkpoint is as far from it as rounding is large.
    if quantize is None:
        torch.testing.assert_close(logits(plain), as_trained, rtol=1e-4, atol=1e-4)
    else:
        assert 1e-4 < relative(as_trained, logits(plain)) < ROUNDING[quantize]


def test_adapters_reach_every_linear_layer_but_the_output(model_64: Path) -> None:
    names = {
        name.partition(".lora_")[0].rpartition(".")[2]
        for name, p in adapted(load_model(str(model_64))).named_parameters()
        if p.requires_grad
    }
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_model_without_adapters_is_left_as_it_is(model_64: Path, tmp_path: Path) -> None:
    model = load_model(str(model_64))
    assert merged(model, str(model_64), None, tmp_path, load_tokenizer(str(model_64))) is model
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_quantized_weights_compute_nearly_the_same(quantize: str, model_64: Path) -> None:
    model = load_model(str(model_64), quantize)
    exact, rounded = logits(load_model(str(model_64))), logits(model)
    assert 0 < relative(rounded, exact) < ROUNDING[quantize]
    stored = {str(p.dtype) for name, p in model.named_parameters() if "proj" in name}
    assert stored == {{"int8": "torch.int8", "nf4": "torch.uint8"}[quantize]}


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_adapters_train_over_quantized_weights_and_merge_into_the_exact_ones(
    quantize: str | None, cli: Cli, model_64: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", chats(8))
    recipe = {
        "kind": "sft",
        "model": str(model_64),
        "template": "chatml",
        "data": [{"source": "rows.jsonl"}],
        "quantize": quantize,
        "lora": {"r": 4, "alpha": 8},
        "trainer": {
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "lr_scheduler_type": "constant",
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    ran = cli("sft", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / "sft"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[2] < losses[1] < losses[0]
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert not list((folder / "model").glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(folder / "model")
    with_adapter = PeftModel.from_pretrained(load_model(str(model_64)), folder / "adapter")
    torch.testing.assert_close(logits(plain), logits(with_adapter), rtol=1e-4, atol=1e-4)
    assert (logits(plain) - logits(load_model(str(model_64)))).abs().max() > 1e-2


def test_adapters_over_quantized_weights_are_trained_in_full_precision(model_64: Path) -> None:
    from smolalign.train.tuning import keep_trained_weights_in_fp32

    model = adapted(load_model(str(model_64), "nf4"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    keep_trained_weights_in_fp32(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {str(p.dtype) for name, p in model.named_parameters() if name.endswith("base_layer.weight")} == {
        "torch.uint8"
    }


def break_model(folder: Path, how: str) -> None:
    """Spoil a copy of a model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {"a layer missing": {"num_hidden_layers": 3}, "another width": {"intermediate_size": 64}}
    if how in changed:
        (folder / "config.json").write_text(json.dumps({**config, **changed[how]}), encoding="utf-8")
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "torn weights":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif how == "torn config":
        (folder / "config.json").write_text('{"model_type": ', encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "quantize"),
    [
        *((how, None) for how in ("no weights", "torn weights", "torn config", "a layer missing", "another width")),
        ("a layer missing", "int8"),
        ("torn weights", "nf4"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_one_clear_line(
    how: str, quantize: str | None, model_64: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_64, folder)
    load_model(str(folder), quantize)
    break_model(folder, how)
    with pytest.raises(UserError) as caught:
        load_model(str(folder), quantize)
    assert f"cannot load the model {folder}" in caught.value.line()
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize("content", ["{}", '{"version": "1.0", "added'])
def test_a_broken_tokenizer_is_one_clear_line(content: str, model_64: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_64, folder)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder))
    assert f"cannot load the model {folder}" in caught.value.line()
    assert "\n" not in caught.value.line()


def test_saving_leaves_the_old_model_whole_when_it_fails(
    model_64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(str(model_64)), load_tokenizer(str(model_64))
    save_model(model, tokenizer, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def fail(folder: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(model, tokenizer, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
