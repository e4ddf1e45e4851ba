"""The real SmolLM2-135M-Instruct goes through LoRA SFT, DPO and function calling, and every figure gets better.

Needs SMOLALIGN_GGUF, the path of SmolLM2-135M-Instruct in GGUF form. On the embedded data, whose rows are short, it
takes minutes; on the shared data, the chats, preferences and calls that people have, a quarter of an hour (slow).
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
    pytest.mark.skipif("SMOLALIGN_GGUF" not in os.environ, reason="SMOLALIGN_GGUF does not name the GGUF file"),
]

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
EMBEDDED = {
    "sft.data.0.source": NANO / "smoltalk" / "summarize.jsonl",
    "dpo.data.0.source": NANO / "ultrafeedback.jsonl",
    "fc.data.0.source": NANO / "apigen.jsonl",
    "fc.data.1.source": NANO / "smoltalk" / "summarize.jsonl",
}
REAL = {
    "sft.data.0.source": SHARED_DATA / "dolly_hhrlhf" / "dolly_hhrlhf_train_small.jsonl",
    "dpo.data.0.source": SHARED_DATA / "ultrafeedback" / "train_clean.jsonl",
    "fc.data.0.source": SHARED_DATA / "llama_factory" / "glaive_toolcall_en_demo.json",
    "fc.data.1.source": SHARED_DATA / "dolly_hhrlhf" / "dolly_hhrlhf_train_small.jsonl",
}
FEWER_ROWS = ("eval.tasks.chats.max_rows=16", "eval.tasks.preference.max_rows=16", "eval.tasks.calls.max_rows=16")
ON_EMBEDDED = (
    *FEWER_ROWS,
    "sft.trainer.max_steps=12",
    "sft.test_fraction=0.01",
    "dpo.trainer.max_steps=12",
    "dpo.test_fraction=0.02",
    "fc.trainer.max_steps=24",
    "fc.test_fraction=0.01",
)
# The recipe's own few dozen steps a stage take half an hour on two cores; these show the direction.
ON_REAL = (
    *FEWER_ROWS,
    "sft.trainer.max_steps=12",
    "dpo.trainer.max_steps=8",
    "dpo.max_length=256",
    "dpo.max_cut=1",
    "dpo.test_fraction=0.03",
    "fc.trainer.max_steps=16",
)


@pytest.mark.parametrize(
    ("files", "fewer"),
    [
        pytest.param(EMBEDDED, ON_EMBEDDED, id="embedded"),
        pytest.param(
            REAL,
            ON_REAL,
            id="real",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no real data in {SHARED_DATA}"),
            ],
        ),
    ],
)
def test_lora_on_the_real_model_moves_every_figure_the_right_way(
    cli: Callable[..., Ran], tmp_path: Path, files: dict[str, Path], fewer: tuple[str, ...]
) -> None:
    sources = [f"{key}={file}" for key, file in files.items()]
    ran = cli("run", "custom/lora", f"sft.model={os.environ['SMOLALIGN_GGUF']}", *sources, *fewer, "--out", tmp_path)
    assert ran.code == 0, ran.err

    def metrics(step: str) -> dict[str, Any]:
        return json.loads((tmp_path / step / "step.json").read_text())["metrics"]

    sft, dpo, fc, table = metrics("sft"), metrics("dpo"), metrics("fc"), metrics("eval")["table"]
    assert sft["eval_loss"] < sft["eval_loss_before"]
    assert dpo["eval_rewards/accuracies"] > 0.5
    assert dpo["eval_rewards/margins"] > 0
    assert fc["eval_loss"] < fc["eval_loss_before"]
    assert table["fc"]["calls.exact"] > table["sft"]["calls.exact"]
