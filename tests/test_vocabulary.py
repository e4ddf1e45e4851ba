"""Tokens that a template needs and a model lacks are added, begin as the mean of the others, and are trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chats, pairs, write_jsonl
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from training import Cli, run, weights, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.trainer.utils import add_fused_lm_head

from smolalign.chat.render import render_chat, require_trainable_template
from smolalign.errors import UserError
from smolalign.eval.generate import generate
from smolalign.model import load_model, load_tokenizer, lora_config, merged, save_model, tokens_added
from smolalign.recipe.schema import Lora
from smolalign.rows import Chat, Message
from smolalign.train.lm_head import score_only_trained_tokens
from smolalign.vocabulary import fit_vocabulary, give_head_its_bias, rows_to_train

VOCABULARY = 300
NEW = {"<|im_start|>": VOCABULARY, "<|im_end|>": VOCABULARY + 1}
SPARE = 7


def gpt2_like_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose one special token is `<|endoftext|>`, and which has no padding, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is it? It is really what you think it is. "] * 9, trainer)
    while tokenizer.get_vocab_size() < VOCABULARY:
        tokenizer.add_tokens([f"word{tokenizer.get_vocab_size()}"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


@pytest.fixture(scope="module", params=["tied", "untied", "tied with spare rows"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with sharp weights and a tokenizer that knows no turns."""
    config = LlamaConfig(
        vocab_size=VOCABULARY + (SPARE if "spare" in request.param else 0),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        tie_word_embeddings="untied" not in request.param,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    gpt2_like_tokenizer().save_pretrained(folder)
    return folder


def is_tied(base: Path) -> bool:
    return bool(AutoModelForCausalLM.from_pretrained(base).config.tie_word_embeddings)


def fitted(base: Path, quantize: str | None = None) -> tuple[Any, Any]:
    """The model with rows for the added tokens, and its tokenizer."""
    tokenizer, model = load_tokenizer(str(base), "chatml"), load_model(str(base), quantize)
    fit_vocabulary(model, tokens_added(str(base), tokenizer))
    return model, tokenizer


# --- the tokenizer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["smollm2", "chatml"])
def test_the_template_is_trainable_with_added_tokens_that_are_single_and_special(base: Path, template: str) -> None:
    tokenizer = load_tokenizer(str(base), template)
    require_trainable_template(tokenizer)
    assert tokens_added(str(base), tokenizer) == NEW
    assert tokenizer("a<|im_start|>b<|im_end|>")["input_ids"][1::2] == list(NEW.values())
    assert tokenizer.decode([*NEW.values(), *tokenizer("a")["input_ids"]], skip_special_tokens=True) == "a"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_models_own_template_adds_nothing(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    assert tokens_added(str(base), tokenizer) == {}
    assert tokenizer.eos_token == "<|endoftext|>"


def test_a_vocabulary_that_has_the_tokens_gets_none_twice(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model), "smollm2")
    assert tokens_added(str(tiny_model), tokenizer) == {}
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(tiny_model))


@pytest.mark.parametrize("pad", ["<|im_end|>", None])
def test_padding_is_not_the_stop_token(pad: str | None, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "config.json", tmp_path)
    found = load_tokenizer(str(tmp_path), "chatml")
    assert (found.eos_token, found.pad_token) == ("<|im_end|>", "<|endoftext|>")


# --- the rows --------------------------------------------------------------------------------------------------------


def test_added_rows_are_the_mean_of_the_others_which_stay_as_they_are(base: Path) -> None:
    model, before = fitted(base)[0], AutoModelForCausalLM.from_pretrained(base)
    ids = list(NEW.values())
    for found, old in (
        (model.get_input_embeddings().weight, before.get_input_embeddings().weight),
        (model.get_output_embeddings().weight, before.get_output_embeddings().weight),
    ):
        assert torch.equal(found[:VOCABULARY], old[:VOCABULARY])
        assert torch.equal(found[VOCABULARY + 2 :], old[VOCABULARY + 2 :])
        torch.testing.assert_close(found[ids], old[:VOCABULARY].mean(0).expand(2, -1))
        assert len(found) == max(VOCABULARY + 2, len(old))
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == is_tied(base)
    assert model.config.vocab_size == len(model.get_input_embeddings().weight)


def test_what_the_model_thought_of_known_tokens_changes_no_more_than_the_mean_must(base: Path) -> None:
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits[..., :VOCABULARY]
        after = fitted(base)[0](input_ids=ids).logits
    torch.testing.assert_close(after[..., :VOCABULARY], before)
    # Hewitt's bound: the average of logits is no larger than the logarithm of their average exponential.
    added = after[..., list(NEW.values())].logsumexp(-1) - after[..., : VOCABULARY + 2].logsumexp(-1)
    assert (added.exp() <= 2 / (VOCABULARY + 2) + 1e-6).all()


# --- adapters --------------------------------------------------------------------------------------------------------


def adapted(model: Any) -> PeftModel:
    """The model with adapters that change what it computes, and with added rows moved away from the mean."""
    torch.manual_seed(1)
    found = get_peft_model(model, lora_config(Lora(r=4, alpha=8), rows_to_train(model, NEW)))
    for name, parameter in found.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return found.eval()


def example(tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels `[1, length]` of a short chat."""
    row = render_chat(tokenizer, Chat((Message("user", "What is it?"), Message("assistant", "It is what it is."))))
    ids = torch.tensor([row.ids])
    return ids, ids.masked_fill(~torch.tensor([row.trained]), -100)


@pytest.mark.parametrize("head", ["ours", "TRL's"])
@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_the_heads_of_training_see_the_trained_rows(base: Path, quantize: str | None, head: str) -> None:
    model, tokenizer = fitted(base, quantize)
    found = adapted(model)
    ids, labels = example(tokenizer)
    names = [name for name, parameter in found.named_parameters() if parameter.requires_grad]
    assert sum("trainable_tokens_delta" in name for name in names) == (1 if is_tied(base) else 2)
    logits = found(input_ids=ids).logits
    expected = cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    trained = [parameter for parameter in found.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(expected, trained)
    inner = found.get_base_model()
    add_fused_lm_head(inner)
    give_head_its_bias(inner)
    if head == "ours":
        score_only_trained_tokens(inner)
    loss = found(input_ids=ids, labels=labels, fused_lm_head=True).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, one, other in zip(names, torch.autograd.grad(loss, trained), gradients, strict=True):
        assert other.abs().max() > 0, name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_with_adapters_off_the_head_is_the_one_that_training_began_with(base: Path) -> None:
    model, tokenizer = fitted(base)
    ids, labels = example(tokenizer)
    with torch.no_grad():
        expected = cross_entropy(model(input_ids=ids).logits[0, :-1], labels[0, 1:], ignore_index=-100)
        found = adapted(model)
        inner = found.get_base_model()
        add_fused_lm_head(inner)
        give_head_its_bias(inner)
        score_only_trained_tokens(inner)
        assert (found(input_ids=ids, labels=labels, fused_lm_head=True).loss - expected).abs() > 0.1
        with found.disable_adapter():
            torch.testing.assert_close(found(input_ids=ids, labels=labels, fused_lm_head=True).loss, expected)


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_the_merged_checkpoint_computes_what_the_adapted_model_did(
    base: Path, tmp_path: Path, quantize: str | None
) -> None:
    trained_over, tokenizer = fitted(base, quantize)
    model = adapted(trained_over)
    ids, _ = example(tokenizer)
    # Over quantized weights the claim is about the same adapters over the weights that were quantized.
    exact = model if quantize is None else adapted(fitted(base)[0])
    with torch.no_grad():
        expected = exact(input_ids=ids).logits
    save_model(merged(model, str(base), quantize, tmp_path, tokenizer), tokenizer, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain.config.tie_word_embeddings == is_tied(base)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        again = PeftModel.from_pretrained(fitted(base)[0], tmp_path / "adapter")
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_head_with_a_bias_is_refused_beside_adapters(base: Path) -> None:
    model, _ = fitted(base)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(model.lm_head.weight)))
    with pytest.raises(UserError, match="head has a bias"):
        rows_to_train(model, NEW)


# --- the steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"lora": {"r": 4}}, {"lora": {"r": 4}, "quantize": "nf4"}], ids=str)
def test_sft_teaches_the_added_tokens_and_the_model_stops(
    base: Path, how: dict[str, Any], cli: Cli, tmp_path: Path
) -> None:
    rows = [{"messages": [{"role": "user", "content": "it?"}, {"role": "assistant", "content": "is"}]}] * 4
    trainer = {"max_steps": 25, "learning_rate": 1e-2}
    recipe = write_recipe(tmp_path, "sft", rows, trainer=trainer, model=str(base), template="chatml", **how)
    ran = cli("sft", recipe, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    added = "added 2 tokens to the vocabulary: <|im_start|>, <|im_end|>; their embeddings are trained"
    assert added in ran.out
    folder = tmp_path / "out" / "sft"
    first, second = weights(folder)["model.embed_tokens.weight"][list(NEW.values())]
    assert (first - second).abs().max() > 1e-3, "both rows began as the same mean"
    model, tokenizer = load_model(str(folder / "model")), load_tokenizer(str(folder / "model"))
    assert tokens_added(str(folder / "model"), load_tokenizer(str(folder / "model"), "smollm2")) == {}
    assert model.generation_config.eos_token_id == model.config.eos_token_id == NEW["<|im_end|>"]
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == 0
    prompt = tokenizer.apply_chat_template([rows[0]["messages"][0]], add_generation_prompt=True)["input_ids"]
    [reply] = generate(model, tokenizer, [prompt], max_new_tokens=8, batch_size=1)
    assert (reply.text, reply.stopped) == ("is", True)


def test_a_run_with_added_tokens_that_is_cut_off_goes_on_to_the_same_weights(
    base: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smolalign.train.session import Watch

    trainer = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 2}
    lora = {"r": 4, "dropout": 0.1}
    recipe = write_recipe(tmp_path, "sft", chats(12), trainer=trainer, model=str(base), template="chatml", lora=lora)
    whole = weights(run(cli, "sft", recipe))

    class Cut(BaseException):
        pass

    def cut(self: Watch, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step_end", cut)
        with pytest.raises(Cut):
            cli("sft", recipe, "--out", tmp_path / "cut")
    ran = cli("sft", recipe, "--out", tmp_path / "cut")
    assert ran.code == 0, ran.err
    assert "resuming from checkpoint-4" in ran.out
    found = weights(tmp_path / "cut" / "sft")
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_dpo_on_a_model_that_lacks_the_tokens_says_to_fine_tune_it_first(base: Path, cli: Cli, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs(4))
    ran = cli("dpo", "--model", base, "--data", data, "--out", tmp_path, "template=chatml")
    assert ran.code == 2
    assert "lacks <|im_start|>, <|im_end|>, which the template needs and dpo cannot teach" in ran.err
    assert "smolalign sft" in ran.err


def test_check_and_preview_know_the_added_tokens(base: Path, cli: Cli, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(4), trainer={}, model=str(base), template="chatml")
    checked = cli("check", recipe)
    assert checked.code == 0, checked.err
    assert "added 2 tokens to the vocabulary: <|im_start|>, <|im_end|>" in checked.out
    shown = cli("preview", recipe)
    assert shown.code == 0, shown.err
    assert "⟦It is 0.<|im_end|>⟧" in shown.out


def test_eval_scores_a_base_model_with_rows_for_the_templates_tokens(base: Path, cli: Cli, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", chats(3))
    (tmp_path / "eval.yaml").write_text(
        f"kind: eval\nmodels: {{base: {base}}}\ntemplate: chatml\n"
        "tasks: {held: {task: loss, data: [{source: rows.jsonl}]}}\n",
        encoding="utf-8",
    )
    ran = cli("eval", tmp_path / "eval.yaml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
