"""int8 and nf4 checkpoints, dtypes, and that every export is read back: what is not the model is never there."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran, chats, tiny_tokenizer
from safetensors.torch import load_file, save_file
from test_export import MODEL_FILES, REPO, files_of, hub, push, refused  # noqa: F401
from training import run as run_recipe
from training import write_recipe
from transformers import AutoModelForCausalLM

from smolalign.export import check
from smolalign.export.check import Answers, require_same
from smolalign.export.facts import read_facts
from smolalign.export.package import Package
from smolalign.export.probe import Words, deviation
from smolalign.model import load_model

Cli = Callable[..., Ran]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the tiny model, of larger layers: on a CPU bitsandbytes 0.50 rounds those of 1,024 weights wrongly to nf4."""
    from smolalign.model import save_model
    from smolalign.recipe.pretraining import Architecture
    from smolalign.train.pretrain import new_model

    tokenizer = tiny_tokenizer()
    sizes = Architecture(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    folder = tmp_path_factory.mktemp("wide") / "model"
    save_model(new_model(sizes, tokenizer, seed=0), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def int8(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in 8 bits."""
    from smolalign.export.run import Wishes, export

    folder = tmp_path_factory.mktemp("int8") / "model"
    export(str(tiny_model), Wishes("int8", folder), lambda line: None)
    return folder


@pytest.mark.parametrize(("to", "bits", "apart"), [("int8", 8, 0.05), ("nf4", 4, 0.4)])
def test_a_quantized_checkpoint_is_loaded_as_it_is_and_computes_the_model(
    to: str, bits: int, apart: float, wide_model: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    ran = cli("export", wide_model, "--to", to, "--out", out)
    assert ran.code == 0, ran.err
    assert "read back: logits within" in ran.out
    assert files_of(out).keys() == MODEL_FILES
    for name in MODEL_FILES - {"README.md", "config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (wide_model / name).read_bytes(), name
    assert f"({to}, bfloat16)" in (out / "README.md").read_text(encoding="utf-8")
    stored = load_file(out / "model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    weight = stored["model.layers.0.mlp.down_proj.weight"]
    assert 8 * weight.numel() * weight.element_size() == bits * 64 * 128
    plain = AutoModelForCausalLM.from_pretrained(out)
    ours = load_model(str(out))
    assert ours.get_input_embeddings().weight.dtype == torch.float32
    model = logits(load_model(str(wide_model)))
    for found in (logits(plain), logits(ours)):
        assert 0 < (found - model).square().mean().sqrt() / model.std() < apart


def test_what_is_quantized_is_not_quantized_again_nor_cast(int8: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    for to in ("nf4", "gguf", "ollama"):
        refused(cli("export", int8, "--to", to, "--out", out), "is quantized already (int8) → name the model")
    refused(cli("export", int8, "--to", "merged", "--dtype", "float16", "--out", out), "are quantized (int8)")
    assert not out.exists()
    assert cli("export", int8, "--to", "merged", "--out", out).code == 0
    assert files_of(out).keys() == MODEL_FILES


def test_over_a_quantized_checkpoint_adapters_are_trained_and_nothing_else(
    int8: Path, tmp_path: Path, cli: Cli
) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer={"learning_rate": 0.1}, model=str(int8), lora={"r": 4})
    step = run_recipe(cli, "sft", recipe)
    config = json.loads((step / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert read_facts(step / "model").dtypes == ["float32"]
    before, after = logits(load_model(str(int8))), logits(load_model(str(step / "model")))
    assert 0.01 < (after - before).square().mean().sqrt() / before.std() < 2
    whole = write_recipe(tmp_path / "whole", "sft", chats(4), trainer={}, model=str(int8))
    refused(cli("sft", whole, "--out", tmp_path / "no"), "is quantized (int8)", "add a lora block")
    twice = write_recipe(
        tmp_path / "twice", "sft", chats(4), trainer={}, model=str(int8), lora={"r": 4}, quantize="nf4"
    )
    refused(cli("sft", twice, "--out", tmp_path / "no"), "is quantized already (int8)")


def test_a_dtype_is_written_as_asked_for(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("export", tiny_model, "--to", "merged", "--dtype", "bfloat16", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert read_facts(tmp_path / "out").dtypes == ["bfloat16"]
    stored, model = load_file(tmp_path / "out" / "model.safetensors"), load_file(tiny_model / "model.safetensors")
    assert all(torch.equal(stored[name], model[name].bfloat16()) for name in model)
    refused(cli("export", tiny_model, "--to", "merged", "--dtype", "int4", "--out", tmp_path / "no"), "no dtype 'int4'")
    refused(
        cli("export", tiny_model, "--to", "int8", "--dtype", "float16", "--out", tmp_path / "no"), "--dtype is not for"
    )
    refused(cli("export", tiny_model, "--out", tmp_path / "no"), "no format to export to → add --to merged")
    refused(cli("export", tiny_model, "--to", "onnx", "--out", tmp_path / "no"), "ONNX is not written")


@pytest.mark.parametrize("to", ["merged", "int8"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("weights", "the export was read back, and"),
        ("template", "renders a chat in another way than the model"),
        ("tokens", "cuts a text into other tokens than the model"),
    ],
)
def test_what_is_not_the_model_when_read_back_is_not_there(
    to: str, damage: str, said: str, tiny_model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Package.write

    def damaged(self: Package, folder: Path, *, link: bool = False) -> None:
        write(self, folder, link=link)
        if damage == "weights":
            stored = load_file(folder / "model.safetensors")
            name = "model.layers.1.self_attn.q_proj.weight"
            stored[name] = stored[name].flip(0)
            save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        elif damage == "template":
            file = folder / "chat_template.jinja"
            file.write_text(file.read_text(encoding="utf-8").replace("<|im_end|>", "<|im_end|> "), encoding="utf-8")
        else:
            known = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            known["model"]["merges"] = known["model"]["merges"][:-20]
            (folder / "tokenizer.json").write_text(json.dumps(known), encoding="utf-8")

    monkeypatch.setattr(Package, "write", damaged)
    refused(cli("export", tiny_model, "--to", to, "--out", tmp_path / "out"), said)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_nothing_that_looks_whole_and_the_same_command_completes(
    tiny_model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed where all is written and nothing read back."""
    if (child := os.fork()) == 0:
        monkeypatch.setattr(check, "read_back", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        cli("export", tiny_model, "--to", "merged", "--out", tmp_path / "out")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.tmp"]
    assert cli("export", tiny_model, "--to", "merged", "--out", tmp_path / "out").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_what_arrived_on_the_hub_is_held_against_what_was_checked(
    file: str,
    tiny_model: Path,
    hub: Any,  # noqa: F811
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import HfApi

    create = HfApi.create_commit

    def damaged(self: HfApi, *arguments: Any, **named: Any) -> Any:
        done = create(self, *arguments, **named)
        files = hub.repos[REPO].commits[done.oid]
        files[file] = files[file][:-1] + b" "
        return done

    monkeypatch.setattr(HfApi, "create_commit", damaged)
    refused(push(cli, tiny_model), f"{file} on the Hub is not what was pushed", "run the same command again")


def test_the_deviation_of_logits_is_the_one_that_is_written_down() -> None:
    model = [torch.tensor([[1.0, -1.0], [2.0, -2.0]]), torch.tensor([[0.0, 4.0]])]
    export = [torch.tensor([[1.0, -1.0], [-2.0, 2.0]]), torch.tensor([[0.0, 4.0]])]
    found = deviation(model, export)
    assert (found.largest, found.tokens) == (4.0, 3)
    assert found.agreement == pytest.approx(2 / 3)
    # Around their mean the logits are ±1, ±2, ±2: a mean square of 3, and of the differences 32 / 6.
    assert found.relative == pytest.approx((32 / 6 / 3) ** 0.5)
    spoken = Words([[1]], [], 2)
    answers = Answers(spoken, frozenset({2}), model)
    broken = Answers(spoken, frozenset({2}), [torch.full((2, 2), torch.nan), model[1]])
    with pytest.raises(Exception, match="does not compute what the model does"):
        require_same(answers, broken, 10.0)
    with pytest.raises(Exception, match="has another stop token than the model"):
        require_same(answers, Answers(Words([[1]], [], 3), frozenset({2}), model), 0.1)
    with pytest.raises(Exception, match="does not name its stop token"):
        require_same(answers, Answers(spoken, frozenset({3}), model), 0.1)


def test_a_dry_run_of_a_quantized_export_writes_nothing(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("export", tiny_model, "--to", "int8", "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0, ran.err
    assert "model.safetensors" in ran.out
    assert not (tmp_path / "out").exists()


def test_merged_adapters_are_written_in_the_dtype_of_their_base(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("export", tiny_model, "--to", "merged", "--dtype", "bfloat16", "--out", tmp_path / "base").code == 0
    trained = {"learning_rate": 0.1}
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer=trained, model=str(tmp_path / "base"), lora={"r": 4})
    adapter = Path(shutil.copytree(run_recipe(cli, "sft", recipe) / "adapter", tmp_path / "adapter"))
    for dtype, written in (("auto", "bfloat16"), ("float32", "float32")):
        ran = cli("export", adapter, "--to", "merged", "--dtype", dtype, "--out", tmp_path / dtype)
        assert ran.code == 0, ran.err
        assert read_facts(tmp_path / dtype).dtypes == [written]
    rounded, exact = (load_file(tmp_path / dtype / "model.safetensors") for dtype in ("auto", "float32"))
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
