"""Each training step, by its command: what it leaves behind, and that its arithmetic is the plain one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import chats, pairs, write_jsonl
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from training import PLAIN, Cli, assert_same_weights, difference, logged, run, weights, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolalign.chat.render import render_chat
from smolalign.data.load import load_rows
from smolalign.model import load_model, load_tokenizer
from smolalign.report import Silent

TOOL = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}


def tool_chats(count: int) -> list[dict[str, Any]]:
    """Chats with a tool, every third of them refused."""
    return [
        {
            "tools": [{"type": "function", "function": TOOL}],
            "messages": [
                {"role": "user", "content": f"Add {i}."},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [] if i % 3 == 0 else [{"function": {"name": "add", "arguments": f'{{"x": {i}}}'}}],
                },
            ],
        }
        for i in range(count)
    ]


def documents(count: int) -> list[dict[str, str]]:
    return [{"text": f"Fact {i}: the number {i} comes before {i + 1}." + " And so on." * (i % 5)} for i in range(count)]


def plain_loss(model: Any, rows: list[tuple[list[int], list[bool]]]) -> torch.Tensor:
    """Mean over the trained tokens of all rows, each row in a forward pass of its own."""
    losses = []
    for ids, trained in rows:
        each = cross_entropy(
            model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="none"
        )
        losses.append(each[torch.tensor(trained[1:])])
    return torch.cat(losses).mean()


def rendered_chats(model: Path, file: Path) -> list[tuple[list[int], list[bool]]]:
    rendered = [render_chat(load_tokenizer(str(model), "chatml"), row) for row in load_rows(str(file), "chat").rows]
    return [(row.ids, row.trained) for row in rendered]


TUNING: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "sft": chats,
    "dpo": pairs,
    "fc": lambda count: [*chats(count // 2), *tool_chats(count - count // 2)],
}


@pytest.mark.parametrize("kind", TUNING)
def test_what_a_tuning_step_leaves_behind(kind: str, cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    fields = {"model": str(tiny_model), "template": "smollm2", "test_fraction": 0.3}
    trainer = {"per_device_train_batch_size": 4, "max_steps": 3}
    recipe = write_recipe(tmp_path, kind, TUNING[kind](20), trainer=trainer, **fields)
    folder = run(cli, kind, recipe)
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        *("model", "data", "recipe.yaml", "metrics.jsonl", "step.json", "data_report.json", "data_report.html")
    }
    manifest = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["kind"], manifest["seed"], manifest["resumed"]) == (kind, kind, 3, False)
    assert manifest["metrics"]["steps"] == 3
    assert {"train_loss", "eval_loss", "eval_loss_before"} <= manifest["metrics"].keys()
    assert (
        manifest["truncation"]["rows"] + len(load_rows(str(folder / "data" / "test.parquet"), kind_of(kind)).rows) == 20
    )
    assert manifest["data"][0]["rows_in"] == 20
    assert manifest["wall_seconds"] > 0
    assert {"smolalign", "torch", "trl", "transformers"} <= manifest["versions"].keys()
    assert set(manifest["inputs"]) == {str(tiny_model), "rows.jsonl"}
    assert len(logged(folder, "loss")) == 3
    assert len(logged(folder, "eval_loss")) == 2
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert model.config._attn_implementation == "sdpa"
    assert model.config.use_cache
    assert tokenizer.decode(model.generation_config.eos_token_id) == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == load_tokenizer(str(tiny_model), "smollm2").chat_template
    assert any(not torch.equal(weights(folder)[k], v) for k, v in load_file(tiny_model / "model.safetensors").items())


def kind_of(kind: str) -> Any:
    return "pair" if kind == "dpo" else "chat"


def test_the_recipe_that_a_step_keeps_runs_again_as_it_is_and_gives_the_same_weights(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    fields = {"model": str(tiny_model), "template": "chatml", "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}
    trainer = {"per_device_train_batch_size": 3, "max_steps": 4, "learning_rate": 1e-2}
    recipe = write_recipe(tmp_path, "sft", chats(12), trainer=trainer, **fields)
    first = run(cli, "sft", recipe)
    again = tmp_path / "elsewhere" / "again.yaml"
    again.parent.mkdir()
    again.write_bytes((first / "recipe.yaml").read_bytes())
    second = run(cli, "sft", again)
    assert_same_weights(first, second)
    assert logged(first, "loss") == logged(second, "loss")
    other = run(cli, "sft", again, "seed=4", out="other")
    assert difference(first, other) > 0


@pytest.mark.parametrize("kind", ["sft", "fc"])
@pytest.mark.parametrize("extra", [{}, {"packing": True, "per_device_train_batch_size": 64}], ids=["batch", "packing"])
def test_the_loss_is_the_mean_over_all_trained_tokens_of_the_batch(
    kind: str, extra: dict[str, Any], cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, kind, TUNING[kind](10), trainer=extra, model=str(sharp_model), template="chatml")
    folder = run(cli, kind, recipe)
    with torch.no_grad():
        expected = plain_loss(load_model(str(sharp_model)), rendered_chats(sharp_model, tmp_path / "rows.jsonl")).item()
    assert logged(folder, "loss")[0] == pytest.approx(expected, rel=2e-5)


def test_one_step_of_gradient_descent_is_the_plain_one_however_the_batch_is_divided(
    cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    rows = chats(8)  # answers of different lengths: a mean of means would differ
    model = load_model(str(sharp_model))
    recipe = write_recipe(
        tmp_path,
        "sft",
        rows,
        trainer={"optim": "sgd", "learning_rate": 0.1},
        model=str(sharp_model),
        template="chatml",
    )
    loss = plain_loss(model, rendered_chats(sharp_model, tmp_path / "rows.jsonl"))
    loss.backward()
    expected = {name: (p - 0.1 * p.grad).detach() for name, p in model.named_parameters() if p.grad is not None}
    assert max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None) > 0.01
    for size, accumulated in ((8, 1), (2, 4), (3, 3)):
        folder = run(
            cli,
            "sft",
            recipe,
            f"trainer.per_device_train_batch_size={size}",
            f"trainer.gradient_accumulation_steps={accumulated}",
            out=f"{size}x{accumulated}",
        )
        assert logged(folder, "loss")[0] == pytest.approx(loss.item(), rel=2e-5)
        found = weights(folder)
        for name, value in expected.items():
            if name in found:  # tied weights are stored once
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_pretraining_from_nothing(cli: Cli, tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    recipe = write_recipe(
        tmp_path,
        "pretrain",
        documents(50),
        trainer={"per_device_train_batch_size": 10, "max_steps": 10, "learning_rate": 1e-2},
        architecture=sizes,
        tokenizer={"vocab_size": 320},
        test_fraction=0.2,
        max_length=64,
    )
    folder = run(cli, "pretrain", recipe)
    manifest = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    assert manifest["metrics"]["eval_loss"] < manifest["metrics"]["eval_loss_before"] - 0.5
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert len(tokenizer) == model.config.vocab_size <= 320
    assert manifest["metrics"]["eval_loss_before"] == pytest.approx(math.log(len(tokenizer)), abs=0.3)
    assert manifest["metrics"]["parameters"] == model.num_parameters()
    assert (model.config.hidden_size, model.config.num_key_value_heads) == (32, 2)
    assert model.config.tie_word_embeddings
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.decode(tokenizer("é🦙 x")["input_ids"]) == "é🦙 x"
    assert "endgeneration" in tokenizer.chat_template
    assert tokenizer.decode(model.generation_config.eos_token_id) == "<|im_end|>"
    again = run(cli, "pretrain", recipe, out="again")
    assert_same_weights(folder, again)
    assert (again / "model" / "tokenizer.json").read_bytes() == (folder / "model" / "tokenizer.json").read_bytes()


def test_the_first_pretraining_loss_is_the_plain_mean(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    from smolalign.recipe.schema import PretrainStep
    from smolalign.train.pretrain import new_model
    from smolalign.train.tokenizer import train_tokenizer

    rows = documents(12)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    architecture = {**sizes, "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.3}
    # All documents once, in one row.
    once = {"max_steps": -1, "num_train_epochs": 1}
    own = {"architecture": architecture, "tokenizer": {"vocab_size": 320}, "max_length": 2048}
    recipe = write_recipe(tmp_path, "pretrain", rows, trainer=once, **own)
    folder = run(cli, "pretrain", recipe)
    step = PretrainStep(**yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    order = [row["text"] for row in rows]
    tokenizer = train_tokenizer(order, 320, "chatml", 2048)
    trained_on = [[*tokenizer(text)["input_ids"], 0] for text in order]
    model = new_model(step.architecture, tokenizer, step.seed)
    with torch.no_grad():
        expected = plain_loss(model, [(ids, [True] * len(ids)) for ids in trained_on]).item()
    assert logged(folder, "loss")[0] == pytest.approx(expected, rel=2e-5)


def test_a_diverged_training_is_an_error_at_once_and_leaves_no_model(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    trainer = {"per_device_train_batch_size": 4, "max_steps": 50, "optim": "sgd", "learning_rate": 1e38}
    recipe = write_recipe(tmp_path, "sft", chats(8), trainer=trainer, model=str(tiny_model), template="chatml")
    ran = cli("sft", recipe, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "training diverged" in ran.err
    assert "learning_rate" in ran.err
    folder = tmp_path / "out" / "sft"
    assert len(logged(folder, "loss")) < 5
    assert not (folder / "model").exists()
    assert not (folder / "step.json").exists()


def test_the_saved_model_does_not_name_the_attention_of_training(tiny_model: Path, tmp_path: Path) -> None:
    from smolalign.recipe.schema import SftStep
    from smolalign.train.sft import run as run_sft

    file = write_jsonl(tmp_path / "rows.jsonl", chats(4))
    step = SftStep(
        kind="sft",
        model=str(tiny_model),
        template="chatml",
        data=[{"source": str(file)}],
        trainer={**PLAIN, "max_steps": 1, "per_device_train_batch_size": 4},
    )
    outcome = run_sft(step, tmp_path, Silent())
    assert outcome.metrics["steps"] == 1
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert "per_document" not in json.dumps(config)


@pytest.mark.parametrize(("max_cut", "code"), [(1, 0), (0.1, 2)])
def test_rows_held_out_are_counted_like_those_trained_on_and_fail_the_step_beyond_max_cut(
    cli: Cli, tiny_model: Path, tmp_path: Path, max_cut: float, code: int
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", chats(8))
    long = {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It is 5. " * 60}]}
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [*chats(1), long])
    arguments = (f"eval_data=[{{source: {held_out}}}]", f"max_cut={max_cut}", "max_length=128", "template=chatml")
    ran = cli("sft", "--model", tiny_model, "--data", data, "--out", tmp_path, *arguments, "trainer.max_steps=1")
    assert ran.code == code, ran.err
    if code:
        assert "1 of 2 rows are longer than max_length 128 tokens" in ran.err
    else:
        counted = json.loads((tmp_path / "sft" / "step.json").read_text(encoding="utf-8"))["truncation"]
        assert (counted["rows_cut"], counted["held_out"]["rows_cut"], counted["held_out"]["rows"]) == (0, 1, 2)
        assert counted["by_source"][data.name]["rows"] == 8
        lost = counted["held_out"]["by_source"][held_out.name]
        assert (lost["rows"], lost["rows_cut"], lost["tokens_cut"]) == (2, 1, counted["held_out"]["tokens_cut"])
        assert "held_out.jsonl: 1 cut and 0 dropped of 2 rows" in ran.out
        report = json.loads((tmp_path / "sft" / "data_report.json").read_text(encoding="utf-8"))
        assert (report["rows_in"], report["rows_train"]) == (8, 8)
        assert "rows.jsonl" in (tmp_path / "sft" / "data_report.html").read_text(encoding="utf-8")
