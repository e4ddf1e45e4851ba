"""TRL's own trainers in this process, as a careful user would call them: `python -m benchmarks.trl_in_process JOB`.

JOB is a JSON file: `kind` (`sft` or `dpo`), `model` and `rows` (paths), and `fields` of TRL's configuration.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    config, trainer = (SFTConfig, SFTTrainer) if job["kind"] == "sft" else (DPOConfig, DPOTrainer)
    trainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32"),
        args=config(**job["fields"]),
        train_dataset=load_dataset(job["rows"], split="train"),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
    ).train()


if __name__ == "__main__":
    main()
