"""The dpo step: Direct Preference Optimization on pairs (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer

from smolalign.model import load_model, lora_config, unadapted
from smolalign.outcome import Outcome
from smolalign.recipe.schema import DpoStep
from smolalign.report import Reporter
from smolalign.train.compute import Compute, choose_for, computing, start
from smolalign.train.dataset import tokenize_pairs
from smolalign.train.pairs import PairCollator, share_prompts
from smolalign.train.reference import with_reference
from smolalign.train.session import Watch, trainer_arguments
from smolalign.train.shares import RowShares
from smolalign.train.tuning import prepare, tune

# What the published SmolLM2 recipes align with (huggingface/alignment-handbook, recipes/smollm2/dpo).
DEFAULTS: dict[str, Any] = {
    "beta": 0.5,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    # Rows are within max_length before the trainer sees them.
    "max_length": None,
}
# Logs in a row in which chosen answers are this much less likely than under the reference, before it is said.
FALLING_LOGS, FALLING_SHARE = 3, 0.05


class PairTrainer(RowShares, DPOTrainer):
    """TRL's DPO trainer on pairs that are tokenized already, with the reference's log-probabilities from the cache."""

    def __init__(self, *, report: Reporter, compute: Compute, **options: Any) -> None:
        self.report, self.compute = report, compute
        self.reference_seconds = 0.0
        super().__init__(**options)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        began = time.monotonic()
        with computing(self, self.compute):
            dataset = with_reference(self, dataset, name, batch_size, self.report)
        self.reference_seconds += time.monotonic() - began
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `beta`, and `kl`: how much likelier, in nats, the answers of the pairs are than under the reference. It
        is an estimate of the divergence on answers that are given, not sampled from the model."""
        assert self.model is not None
        mode = "train" if self.model.training else "eval"
        chosen, rejected = (self._metrics[mode].get(f"rewards/{answer}") for answer in ("chosen", "rejected"))
        if chosen and rejected:
            prefix = "" if mode == "train" else "eval_"
            logs[f"{prefix}beta"] = self.beta
            mean = sum(chosen) / len(chosen) + sum(rejected) / len(rejected)
            logs[f"{prefix}kl"] = mean / (2 * self.beta)
        super().log(logs, start_time)


class FallingChosen(TrainerCallback):
    """Says once when the chosen answers themselves become less likely, which the loss alone does not show."""

    def __init__(self, report: Reporter, beta: float) -> None:
        self.report, self.beta, self.in_a_row = report, beta, 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "rewards/chosen" not in logs or self.in_a_row >= FALLING_LOGS:
            return
        change = logs["rewards/chosen"] / self.beta
        before = abs(logs["logps/chosen"] - change)
        self.in_a_row = self.in_a_row + 1 if -change > FALLING_SHARE * before else 0
        if self.in_a_row == FALLING_LOGS:
            self.report.warn(
                f"dpo: by step {state.global_step} the chosen answers are {-change:.1f} nats "
                f"({-change / before:.0%} of their log-probability) less likely than under the reference → lower "
                "trainer.learning_rate, raise trainer.beta, or add the SFT loss: trainer.loss_type: [sigmoid, sft], "
                "trainer.loss_weights: [1.0, 0.1]"
            )


def run(step: DpoStep, folder: Path, report: Reporter) -> Outcome:
    """Align a model on pairs and write `model/`, and the held-out pairs as `data/test.parquet`.

    The reference costs no second model: with adapters it is the model with its adapters off, without them its
    log-probabilities are computed once, before the first step, and kept in the cache for other runs.
    """
    compute = choose_for(step)
    start(compute, report)
    prepared = prepare(step, "pair", tokenize_pairs, folder, report)
    defaults = {**compute.trainer_fields(), **DEFAULTS, "precompute_ref_log_probs": step.lora is None}
    args = trainer_arguments(DPOConfig, step, folder, defaults)
    model = load_model(step.model, step.quantize)
    collator = None
    if compute.shares_prompts:
        share_prompts(model.base_model)
        collator = PairCollator(pad_token_id=prepared.tokenizer.pad_token_id)
    trainer = PairTrainer(
        report=report,
        compute=compute,
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=_enough(prepared.rows, args, report),
        eval_dataset=prepared.held_out,
        processing_class=prepared.tokenizer,
        peft_config=lora_config(step.lora) if step.lora else None,
        callbacks=[Watch("dpo", folder / "metrics.jsonl", report), FallingChosen(report, args.beta)],
    )
    if trainer.ref_model is not None and collator is not None:
        share_prompts(unadapted(trainer.accelerator.unwrap_model(trainer.ref_model)).base_model)
    outcome = tune(trainer, step, prepared, compute, folder, report)
    outcome.metrics["reference_seconds"] = round(trainer.reference_seconds, 1)
    return outcome


def _enough(rows: Dataset, args: DPOConfig, report: Reporter) -> Dataset:
    """A random sample of as many pairs as `max_steps` takes, so that the reference scores no others."""
    needed = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if not 0 < needed < len(rows):
        return rows
    report.say(f"max_steps {args.max_steps} takes {needed:,} of the {len(rows):,} pairs: a random sample")
    return rows.shuffle(seed=args.seed).select(range(needed))
