"""The real SmolLM2-135M-Instruct goes through LoRA SFT, DPO and function calling on real data, and gets better.

Needs SMOLALIGN_GGUF, the path of SmolLM2-135M-Instruct in GGUF form, and the shared data; minutes on a CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED_DATA, Ran

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.slow,
    pytest.mark.skipif("SMOLALIGN_GGUF" not in os.environ, reason="SMOLALIGN_GGUF does not name the GGUF file"),
    pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no real data in {SHARED_DATA}"),
]

FILES = {
    "sft.data.0.source": "dolly_hhrlhf/dolly_hhrlhf_train_small.jsonl",
    "dpo.data.0.source": "ultrafeedback/train_clean.jsonl",
    "fc.data.0.source": "llama_factory/glaive_toolcall_en_demo.json",
    "fc.data.1.source": "dolly_hhrlhf/dolly_hhrlhf_train_small.jsonl",
}
# The recipe's own few dozen steps a stage take half an hour on two cores; these show the direction.
FEWER_STEPS = (
    "sft.trainer.max_steps=12",
    "dpo.trainer.max_steps=8",
    "dpo.max_length=256",
    "dpo.max_cut=1",
    "dpo.test_fraction=0.03",
    "fc.trainer.max_steps=16",
    "eval.tasks.chats.max_rows=16",
    "eval.tasks.preference.max_rows=16",
    "eval.tasks.calls.max_rows=16",
)


def test_lora_on_real_data_moves_every_figure_the_right_way(cli: Callable[..., Ran], tmp_path: Path) -> None:
    files = [f"{key}={SHARED_DATA / file}" for key, file in FILES.items()]
    ran = cli(
        "run", "custom/lora", f"sft.model={os.environ['SMOLALIGN_GGUF']}", *files, *FEWER_STEPS, "--out", tmp_path
    )
    assert ran.code == 0, ran.err

    def metrics(step: str) -> dict[str, Any]:
        return json.loads((tmp_path / step / "step.json").read_text())["metrics"]

    sft, dpo, fc, table = metrics("sft"), metrics("dpo"), metrics("fc"), metrics("eval")["table"]
    assert sft["eval_loss"] < sft["eval_loss_before"]
    assert dpo["eval_rewards/accuracies"] > 0.5
    assert dpo["eval_rewards/margins"] > 0
    assert fc["eval_loss"] < fc["eval_loss_before"]
    assert table["fc"]["calls.exact"] > table["sft"]["calls.exact"]
