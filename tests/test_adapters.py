"""A folder of adapters is a model: its base with the adapters merged, whatever reads it."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chats, pairs, write_jsonl
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from training import Cli, logged, run, write_recipe
from transformers import AutoModelForCausalLM

from smolalign.chat.render import render_chat, render_pair
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.model import load_model, load_tokenizer, lora_config, save_model
from smolalign.pipeline import resolve
from smolalign.recipe.load import load_recipe
from smolalign.recipe.schema import Lora

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 2, 99]])


@pytest.fixture
def base(sharp_model: Path, tmp_path: Path) -> Path:
    """A base model whose folder a test may spoil."""
    return Path(shutil.copytree(sharp_model, tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """Adapters trained elsewhere: peft's own files, without a tokenizer."""
    return save_adapter(base, tmp_path / "adapter")


def save_adapter(base: Path, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora_config(Lora(r=4, alpha=8)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(folder))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    """What peft itself computes with the adapters beside their base."""
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)))


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


# --- loading ---------------------------------------------------------------------------------------------------------


def test_an_adapter_folder_computes_what_peft_computes_with_it(base: Path, adapter: Path) -> None:
    expected = by_peft(base, adapter)
    assert (expected - logits(load_model(str(base)))).abs().max() > 0.1
    model = load_model(str(adapter))
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["../base", "base"], ids=["beside the adapters", "in the current folder"])
def test_a_relative_base_is_found(base: Path, adapter: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    expected = by_peft(base, adapter)
    change_config(adapter, base_model_name_or_path=name)
    torch.testing.assert_close(logits(load_model(str(adapter))), expected, rtol=1e-5, atol=1e-5)


def test_adapters_over_adapters_are_merged_one_after_the_other(base: Path, adapter: Path, tmp_path: Path) -> None:
    save_model(load_model(str(adapter)), load_tokenizer(str(base)), tmp_path / "merged")
    upper = save_adapter(tmp_path / "merged", tmp_path / "upper", seed=1)
    expected = by_peft(tmp_path / "merged", upper)
    change_config(upper, base_model_name_or_path=str(adapter))
    torch.testing.assert_close(logits(load_model(str(upper))), expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_merged_before_their_base_is_quantized(base: Path, adapter: Path, tmp_path: Path) -> None:
    save_model(load_model(str(adapter)), load_tokenizer(str(base)), tmp_path / "merged")
    found = load_model(str(adapter), "int8")
    assert {p.dtype for name, p in found.named_parameters() if "proj" in name} == {torch.int8}
    assert torch.equal(logits(found), logits(load_model(str(tmp_path / "merged"), "int8")))


def test_the_tokenizer_is_the_adapters_own_or_else_that_of_the_base(base: Path, adapter: Path) -> None:
    assert load_tokenizer(str(adapter)).get_vocab() == load_tokenizer(str(base)).get_vocab()
    own = load_tokenizer(str(base))
    own.chat_template = "mine"
    own.save_pretrained(adapter)
    assert load_tokenizer(str(adapter)).chat_template == "mine"


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "adapter_model.safetensors")


def add_a_layer(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights |= {name.replace("layers.1.", "layers.2."): tensor.clone() for name, tensor in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")


def tear(folder: Path) -> None:
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "have no adapter_model.safetensors"),
    "torn weights": (tear, "do not fit"),
    "a weight missing": (lose_a_weight, "1 weights are missing or too many"),
    "a layer too many": (add_a_layer, "14 weights are missing or too many"),
    "another rank": (lambda folder: change_config(folder, r=2), "do not fit"),
    "torn config": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
    "no base": (lambda folder: change_config(folder, base_model_name_or_path=None), "do not name their base model"),
    "base gone": (lambda folder: shutil.rmtree(folder.parent / "base"), "the base model of the adapters in"),
    "itself as base": (lambda folder: change_config(folder, base_model_name_or_path="."), "is not there: ."),
    "base on the Hub": (
        lambda folder: change_config(folder, base_model_name_or_path="owner/name", revision="v1"),
        "cannot load the model owner/name@v1 from the Hub",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_an_adapter_folder_that_cannot_be_loaded_is_one_clear_line(adapter: Path, how: str) -> None:
    spoil, said = SPOILED[how]
    load_model(str(adapter))
    spoil(adapter)
    with pytest.raises(UserError) as caught:
        load_model(str(adapter))
    assert said in caught.value.line()
    assert " → " in caught.value.line()
    assert "\n" not in caught.value.line()


def test_prompts_are_refused_as_they_cannot_be_merged(base: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(tmp_path / "prompt"))
    with pytest.raises(UserError, match="prompts, which cannot be merged"):
        load_model(str(tmp_path / "prompt"))


def test_adapters_beside_the_weights_of_a_model_are_refused_and_not_left_out(base: Path, adapter: Path) -> None:
    for file in adapter.iterdir():
        shutil.copy(file, base)
    with pytest.raises(UserError, match="beside a model's weights"):
        load_model(str(base))


# --- in steps --------------------------------------------------------------------------------------------------------


def test_the_fingerprint_knows_the_adapters_and_the_base_below_them(base: Path, adapter: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, "sft", chats(2), trainer={}, model=str(adapter)))

    def fingerprint() -> str:
        return resolve(recipe, tmp_path / "run").fingerprint

    seen = [fingerprint(), fingerprint()]
    change_config(adapter, lora_alpha=9)
    seen.append(fingerprint())
    (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    seen.append(fingerprint())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_a_step_begins_with_the_merged_model_and_adapters_at_zero(
    base: Path, adapter: Path, cli: Cli, tmp_path: Path
) -> None:
    fields = {"model": "adapter", "template": "chatml", "lora": {"r": 4}}
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer={"max_steps": 2, "learning_rate": 1e-2}, **fields)
    ran = cli("sft", recipe, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert f"model: adapters of {adapter} merged into {base} before training" in ran.out
    model, tokenizer = load_model(str(adapter)).eval(), load_tokenizer(str(base), "chatml")
    losses = []
    for row in load_rows(str(tmp_path / "rows.jsonl"), "chat").rows:
        shown = render_chat(tokenizer, row)
        labels = torch.tensor(shown.ids[1:]).masked_fill(~torch.tensor(shown.trained[1:]), -100)
        with torch.no_grad():
            losses.append(cross_entropy(model(torch.tensor([shown.ids])).logits[0, :-1], labels, reduction="none"))
    expected = torch.cat(losses)
    first = logged(tmp_path / "out" / "sft", "loss")[0]
    assert first == pytest.approx((expected.sum() / (expected != 0).sum()).item(), rel=2e-5)
    # What the step trained is itself an adapter folder, over the one that it began with.
    again = load_model(str(tmp_path / "out" / "sft" / "adapter"))
    torch.testing.assert_close(logits(again), logits(load_model(str(tmp_path / "out" / "sft" / "model"))))


def test_a_steps_adapters_are_the_steps_model_with_the_tokenizer_it_was_trained_with(
    base: Path, cli: Cli, tmp_path: Path
) -> None:
    fields = {"model": str(base), "template": "smollm2", "lora": {"r": 4}, "quantize": "int8"}
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer={"max_steps": 3, "learning_rate": 1e-2}, **fields)
    folder = run(cli, "sft", recipe)
    found = load_model(str(folder / "adapter"))
    torch.testing.assert_close(logits(found), logits(load_model(str(folder / "model"))))
    assert (logits(found) - logits(load_model(str(base)))).abs().max() > 1e-2
    templates = [load_tokenizer(str(folder / part)).chat_template for part in ("adapter", "model")]
    assert templates[0] == templates[1] != load_tokenizer(str(base)).chat_template


def test_eval_and_chat_take_adapters_and_say_so(
    base: Path, adapter: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(load_model(str(adapter)), load_tokenizer(str(base)), tmp_path / "merged")
    write_jsonl(tmp_path / "rows.jsonl", chats(3))
    (tmp_path / "eval.yaml").write_text(
        "kind: eval\nmodels: {adapted: adapter, merged: merged, base: base}\n"
        "tasks: {held: {task: loss, data: [{source: rows.jsonl}]}}\n",
        encoding="utf-8",
    )
    ran = cli("eval", tmp_path / "eval.yaml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert f"adapted: adapters of {adapter} merged into {base}" in ran.out
    table = json.loads((tmp_path / "out" / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]["table"]
    assert table["adapted"] == table["merged"] != table["base"]
    replies = []
    for model in (adapter, tmp_path / "merged"):
        monkeypatch.setattr(sys, "stdin", StringIO("What is 1 + 1?\n"))
        ran = cli("chat", model, "--max-new-tokens", "8")
        assert ran.code == 0, ran.err
        replies.append(ran.out)
        assert (f"(adapters of {adapter} merged into {base})" in ran.err) == (model == adapter)
    assert replies[0] == replies[1]


def test_check_finds_adapters_whose_base_is_gone(base: Path, adapter: Path, cli: Cli, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer={}, model=str(adapter), template="chatml")
    assert cli("check", recipe).code == 0
    shutil.rmtree(base)
    ran = cli("check", recipe)
    assert ran.code == 2
    assert f"the base model of the adapters in {adapter} is not there: {base}" in ran.err
    assert "set base_model_name_or_path in" in ran.err


# --- sft with adapters, then dpo -------------------------------------------------------------------------------------


def mean_log_prob(model: Any, tokenizer: Any, file: Path, side: str) -> float:
    """Mean over the pairs of an answer's summed log-probability."""
    sums = []
    for row in load_rows(str(file), "pair").rows:
        pair = render_pair(tokenizer, row)
        answer = getattr(pair, side)
        with torch.no_grad():
            found = model(input_ids=torch.tensor([[*pair.prompt_ids, *answer]])).logits[
                0, len(pair.prompt_ids) - 1 : -1
            ]
        sums.append(-cross_entropy(found, torch.tensor(answer), reduction="sum").item())
    return sum(sums) / len(sums)


@pytest.mark.parametrize("lora", ["lora: {r: 4}", ""], ids=["dpo with adapters", "dpo of all weights"])
def test_dpo_after_sft_with_adapters_is_measured_against_the_merged_model(
    sharp_model: Path, cli: Cli, tmp_path: Path, lora: str
) -> None:
    write_jsonl(tmp_path / "chats.jsonl", chats(6))
    write_jsonl(tmp_path / "pairs.jsonl", pairs(6))
    common = "template: chatml, trainer: {per_device_train_batch_size: 6, max_steps: 1, logging_steps: 1,"
    (tmp_path / "pipeline.yaml").write_text(
        "kind: pipeline\nsteps:\n"
        f"  chat: {{kind: sft, model: {sharp_model}, data: [{{source: chats.jsonl}}], lora: {{r: 4}}, {common} "
        "learning_rate: 3.0e-2}}\n"
        f'  dpo: {{kind: dpo, model: "@chat", data: [{{source: pairs.jsonl}}], {common} learning_rate: 1.0e-3}}, '
        f"{lora}}}\n",
        encoding="utf-8",
    )
    ran = cli("run", tmp_path / "pipeline.yaml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    said = "@chat was trained with adapters; they are merged in its model/, which is also DPO's reference"
    assert said in ran.out
    folder = tmp_path / "out" / "dpo"
    assert logged(folder, "loss") == [pytest.approx(math.log(2), abs=1e-6)]
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert logged(folder, name) == [0.0]
    merged, tokenizer = load_model(str(tmp_path / "out" / "chat" / "model")), load_tokenizer(str(sharp_model))
    expected = mean_log_prob(merged, tokenizer, tmp_path / "pairs.jsonl", "chosen_ids")
    assert logged(folder, "logps/chosen")[0] == pytest.approx(expected, rel=1e-4)
    unmerged = mean_log_prob(load_model(str(sharp_model)), tokenizer, tmp_path / "pairs.jsonl", "chosen_ids")
    assert abs(expected - unmerged) > 0.1
