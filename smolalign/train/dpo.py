"""The dpo step: Direct Preference Optimization on pairs (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from smolalign import processes
from smolalign.model import load_model, lora_config
from smolalign.outcome import Outcome
from smolalign.recipe.schema import DpoStep
from smolalign.report import Reporter
from smolalign.train.dataset import tokenize_pairs
from smolalign.train.group import gathered
from smolalign.train.session import Watch, trainer_arguments
from smolalign.train.shares import RowShares
from smolalign.train.tuning import prepare, tune


class PairTrainer(RowShares, DPOTrainer):
    """TRL's DPO trainer on pairs that are tokenized already, by the same renderer as everything else."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The pairs with the reference's log-probabilities, each process having computed those of every so manyth.

        TRL hands them on in a file of the cache, which for rows in memory is a folder of each process's own.
        """
        own = dataset.select(range(processes.index(), len(dataset), processes.count()))
        found: list[tuple[float, float]] = []
        for batch in DataLoader(own, batch_size, collate_fn=self.data_collator):
            chosen, rejected = self.compute_ref_log_probs(self.model, self._prepare_inputs(batch))
            found += zip(chosen.tolist(), rejected.tolist(), strict=True)
        parts = gathered(found)
        rows = [parts[i % len(parts)][i // len(parts)] for i in range(len(dataset))]
        dataset = dataset.add_column("ref_chosen_logps", [row[0] for row in rows])
        return dataset.add_column("ref_rejected_logps", [row[1] for row in rows])


def run(step: DpoStep, folder: Path, report: Reporter) -> Outcome:
    """Align a model on pairs and write `model/`, and the held-out pairs as `data/test.parquet`.

    The reference costs no second model: with adapters it is the model with its adapters off, without them its
    log-probabilities are computed once, before the first step.
    """
    prepared = prepare(step, "pair", tokenize_pairs, folder, report)
    defaults = {"max_length": None, "precompute_ref_log_probs": step.lora is None}
    trainer = PairTrainer(
        model=load_model(step.model, step.quantize),
        args=trainer_arguments(DPOConfig, step, folder, defaults),
        train_dataset=prepared.rows,
        eval_dataset=prepared.held_out,
        processing_class=prepared.tokenizer,
        peft_config=lora_config(step.lora) if step.lora else None,
        callbacks=[Watch("dpo", folder / "metrics.jsonl", report)],
    )
    return tune(trainer, step, prepared, folder, report)
