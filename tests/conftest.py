"""What tests share: a tiny tokenizer and model, the command line in process, and where the real data lies."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from smolalign.environment import prepare

prepare()

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("SMOLALIGN_SHARED_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Ran:
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process: `cli("sft", recipe, "seed=1")`."""

    def run(*arguments: object) -> Ran:
        from smolalign import console
        from smolalign.cli import main

        monkeypatch.setattr(sys, "argv", ["smolalign", *map(str, arguments)])
        capfd.readouterr()
        console.out.file, console.err.file = sys.stdout, sys.stderr
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0) if not isinstance(end.code, str) else 1
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: random weights, 2 layers, grouped queries, a 400-token vocabulary, the chatml template."""
    from smolalign.model import save_model
    from smolalign.recipe.schema import Architecture
    from smolalign.train.pretrain import new_model
    from smolalign.train.tokenizer import train_tokenizer

    texts = ["The cat sat on the mat and said hello to the dog.", "What is 2 + 3? It is 5.", '{"name": "f", "x": 1}']
    tokenizer = train_tokenizer(texts, 400, "chatml", 256)
    sizes = Architecture(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(new_model(sizes, tokenizer, seed=0), tokenizer, folder)
    return folder


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def chats(count: int) -> list[dict[str, Any]]:
    """So many small chats in OpenAI's layout, of different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} + {i}?" + " Think." * (i % 3)},
                {"role": "assistant", "content": f"It is {2 * i}." + " Really." * (i % 4)},
            ]
        }
        for i in range(count)
    ]


def pairs(count: int) -> list[dict[str, Any]]:
    """So many preference pairs in UltraFeedback's layout."""
    return [
        {"prompt": f"Say {i}.", "chosen": f"Here it is: {i}.", "rejected": "No." + " No." * (i % 3)} for i in range(count)
    ]
