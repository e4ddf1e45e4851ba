"""The pretrain step: a tokenizer and a base model from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig

from smolalign import processes
from smolalign.data.gather import gather, gather_sources
from smolalign.model import on_device, save_model
from smolalign.outcome import Outcome
from smolalign.recipe.pretraining import Architecture
from smolalign.recipe.schema import PretrainStep
from smolalign.report import Reporter
from smolalign.rows import Row
from smolalign.train.compute import choose_for, computing, start
from smolalign.train.dataset import say_ledger, tokenize_documents
from smolalign.train.group import whole_state
from smolalign.train.initialize import begin_with_induction_head
from smolalign.train.session import Watch, hyperparameters, train, trainer_arguments
from smolalign.train.sft import RowTrainer, unpadded
from smolalign.train.tokenizer import tokenizer_texts, train_tokenizer


def run(step: PretrainStep, folder: Path, report: Reporter) -> Outcome:
    """Train the tokenizer on the rows, then the model on their tokens, and write `model/`."""
    compute = choose_for(step)
    start(compute, report)
    gathered = gather(step, "document", folder, report)
    held_out = gathered.test
    if step.eval_data:
        held_out = held_out + gather_sources(step.eval_data, "document", folder, "eval_data", step.seed).train
    tokenizer = _tokenizer(step, gathered.train, folder)
    model = on_device(new_model(step.architecture, tokenizer, step.seed))
    rows, ledger = tokenize_documents(tokenizer, gathered.train, step.max_length)
    bytes_per_token = sum(len(row.text.encode()) for row in gathered.train) / ledger.tokens
    size = sum(p.numel() for p in model.parameters())
    report.say(f"model of {size / 1e6:.2f} M parameters, {len(tokenizer):,} tokens in the vocabulary")
    say_ledger("train", ledger, report)
    report.say(f"{bytes_per_token:.2f} bytes a token")
    measured, lost = tokenize_documents(tokenizer, held_out, step.max_length) if held_out else (None, None)
    trainer = RowTrainer(
        model=model,
        args=trainer_arguments(SFTConfig, step, folder, {**compute.trainer_fields(), **unpadded(step)}),
        train_dataset=rows,
        eval_dataset=measured,
        processing_class=tokenizer,
        callbacks=[Watch("pretrain", folder / "metrics.jsonl", report)],
    )
    trainer.micro_batch_tokens = compute.micro_batch_tokens
    with computing(trainer, compute):
        metrics = train(trainer, step, folder, report)
    state = whole_state(trainer)
    if processes.is_main():
        save_model(model, tokenizer, folder / "model", state)
    metrics |= {"parameters": size, "bytes_per_token": round(bytes_per_token, 3)}
    truncation = {**ledger.as_dict(), "held_out": lost.as_dict() if lost else None}
    return Outcome(metrics, gathered.report, truncation, hyperparameters(trainer.args))


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama model with random weights and tied embeddings, as SmolLM2's small models have."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **architecture.model_dump(exclude={"rope_theta", "induction_head"}),
    )
    model = LlamaForCausalLM(config)
    if architecture.induction_head:
        begin_with_induction_head(model, seed)
    model.generation_config = GenerationConfig.from_model_config(config)
    return model


def _tokenizer(step: PretrainStep, rows: list[Row], folder: Path) -> PreTrainedTokenizerFast:
    """The step's tokenizer, from its documents and, if the recipe says so, from chats."""
    chats: list[Row] = []
    if step.tokenizer_data:
        chats = gather_sources(step.tokenizer_data, "chat", folder, "tokenizer_data", step.seed).train
    texts: Any = tokenizer_texts([*rows, *chats], step.template)
    return train_tokenizer(texts, step.tokenizer.vocab_size, step.template, step.architecture.max_position_embeddings)
