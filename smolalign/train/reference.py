"""DPO's reference: the log-probabilities of both answers under the model that training begins with, computed once.

They depend on the weights, the tokens and the arithmetic, and are kept under a hash of these, so that another run on
the same pairs, with another beta or learning rate, or a run that is taken up again, does not compute them anew.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from smolalign import __version__, processes
from smolalign.report import Progress, Reporter
from smolalign.store import cache_folder
from smolalign.train.group import gathered, shared

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


def with_reference(trainer: Any, dataset: Dataset, name: str, batch_size: int, report: Reporter) -> Dataset:
    """The pairs with the columns `ref_chosen_logps` and `ref_rejected_logps`, in nats.

    Args:
        trainer: TRL's DPO trainer, its model as training begins with it.
        dataset: `prompt_ids`, `chosen_ids` and `rejected_ids`, each `[length]`.
        name: of the pairs, such as `train`.
        batch_size: pairs scored at once.
    """
    file = cache_folder() / "reference" / f"{_key(trainer, dataset)}.safetensors"
    # All processes read it, or all compute it.
    found = shared(_read(file, len(dataset)) if processes.is_main() else None)
    if found is None:
        found = _score(trainer, dataset, name, batch_size, report)
        if processes.is_main():
            _write(file, found)
    else:
        report.say(f"reference of {len(dataset):,} pairs ({name}): from the cache")
    for column in COLUMNS:
        dataset = dataset.add_column(column, found[column].tolist())
    return dataset


def _key(trainer: Any, dataset: Dataset) -> str:
    """SHA-256 of all that the log-probabilities depend on."""
    args = trainer.args
    arithmetic = (args.bf16, args.fp16, args.tf32, args.ld_alpha, torch.get_float32_matmul_precision())
    total = hashlib.sha256(f"{__version__} {trainer._precompute_model_hash} {arithmetic}".encode())
    for row in dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]):
        total.update(f"{row['prompt_ids']}{row['chosen_ids']}{row['rejected_ids']}".encode())
    return total.hexdigest()


def _score(trainer: Any, dataset: Dataset, name: str, batch_size: int, report: Reporter) -> dict[str, torch.Tensor]:
    """Both columns, each `[pairs]` in fp32; every process scores every so manyth pair.

    TRL hands them on in a file beside the pairs, which for pairs in memory is in a folder of each process's own.
    """
    own = dataset.select(range(processes.index(), len(dataset), processes.count()))
    loader = DataLoader(own, batch_size, collate_fn=trainer.data_collator)
    found: list[tuple[float, float]] = []
    for done, batch in enumerate(loader):
        report.progress(Progress(f"reference ({name})", done, len(loader), unit="batches"))
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, trainer._prepare_inputs(batch))
        found += zip(chosen.tolist(), rejected.tolist(), strict=True)
    parts = gathered(found)
    report.say(f"reference of {len(dataset):,} pairs ({name}): computed, and kept for other runs")
    rows = torch.tensor([parts[i % len(parts)][i // len(parts)] for i in range(len(dataset))])
    return dict(zip(COLUMNS, rows.T.contiguous(), strict=True))


def _read(file: Path, pairs: int) -> dict[str, torch.Tensor] | None:
    """What is kept there, if it is whole."""
    try:
        found = load_file(file)
    except (OSError, SafetensorError):
        return None
    return found if set(found) == set(COLUMNS) and all(len(column) == pairs for column in found.values()) else None


def _write(file: Path, found: dict[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    save_file(found, temporary)
    os.replace(temporary, file)
