"""The dpo step: Direct Preference Optimization on pairs (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from smolalign.chat.render import require_trainable_template
from smolalign.data.gather import gather
from smolalign.data.row_files import without_folders, write_rows
from smolalign.model import load_model, load_tokenizer, lora_config
from smolalign.outcome import Outcome
from smolalign.recipe.schema import DpoStep
from smolalign.report import Reporter
from smolalign.train.dataset import tokenize_pairs
from smolalign.train.session import Watch, trainer_arguments
from smolalign.train.sft import finish_tuning


class PairTrainer(DPOTrainer):
    """TRL's DPO trainer on pairs that are tokenized already, by the same renderer as everything else."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def run(step: DpoStep, folder: Path, report: Reporter) -> Outcome:
    """Align a model on pairs and write `model/`, and the held-out pairs as `data/test.parquet`.

    The reference costs no second model: with adapters it is the model with its adapters off, without them its
    log-probabilities are computed once, before the first step.
    """
    tokenizer = load_tokenizer(step.model, step.template)
    require_trainable_template(tokenizer)
    gathered = gather(step.data, "pair", seed=step.seed, test_fraction=step.test_fraction)
    rows, ledger = tokenize_pairs(tokenizer, gathered.train, step.max_length)
    report.say(f"train: {ledger.line()}")
    ledger.check(step.max_cut, step.max_length)
    if gathered.test:
        write_rows(without_folders(gathered.test), folder / "data" / "test.parquet")
    held_out = gathered.test + (gather(step.eval_data, "pair", seed=step.seed).train if step.eval_data else [])
    defaults = {"max_length": None, "precompute_ref_log_probs": step.lora is None}
    trainer = PairTrainer(
        model=load_model(step.model, step.quantize),
        args=trainer_arguments(DPOConfig, step, folder, defaults),
        train_dataset=rows,
        eval_dataset=tokenize_pairs(tokenizer, held_out, step.max_length)[0] if held_out else None,
        processing_class=tokenizer,
        peft_config=lora_config(step.lora) if step.lora else None,
        callbacks=[Watch("dpo", folder / "metrics.jsonl", report)],
    )
    return finish_tuning(trainer, step, tokenizer, folder, report, gathered.report, ledger)
