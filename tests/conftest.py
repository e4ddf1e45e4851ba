"""What tests share: a tiny tokenizer and model, the command line in process, and where the real data lies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# What earlier runs kept must not hide what this code computes.
os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.mkdtemp(prefix="smolalign-tests-"), "cache")

from smolalign.environment import prepare

prepare()

import pytest  # noqa: E402 - the environment is read when the libraries are imported

# A job in the background of a script ignores Ctrl-C, and so would all that it starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# For what a session's tests share outside pytest's own folders; removed at its end.
SESSION = Path(os.environ["XDG_CACHE_HOME"]).parent
SHARED_DATA = Path(os.environ.get("SMOLALIGN_SHARED_DATA", ROOT.parent / "shared" / "data"))


# The files that take longest, most of it in other processes. Two workers that begin with them end at the same time.
LONG = ("launch", "engine", "memory", "reproduction", "resume", "cluster", "chat_terminal", "hub_faults", "vocabulary")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_unconfigure() -> None:
    shutil.rmtree(SESSION, ignore_errors=True)


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
    from smolalign.recipe.pretraining import Architecture
    from smolalign.train.pretrain import new_model

    tokenizer = tiny_tokenizer()
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


@pytest.fixture(scope="session")
def roomy_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for the schemas of tools: its positions are rotary, so any number will do."""
    folder = tmp_path_factory.mktemp("roomy") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sharp_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with larger weights, so that what it computes depends strongly on what it reads."""
    import torch

    from smolalign.model import load_model, load_tokenizer, save_model

    model, folder = load_model(str(tiny_model)), tmp_path_factory.mktemp("sharp") / "model"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    save_model(model, load_tokenizer(str(tiny_model)), folder)
    return folder


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer of 400 tokens at most."""
    from smolalign.train.tokenizer import train_tokenizer

    texts = ["The cat sat on the mat and said hello to the dog.", "What is 2 + 3? It is 5.", '{"name": "f", "x": 1}']
    return train_tokenizer(texts, 400, "chatml", 256)


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
        {"prompt": f"Say {i}.", "chosen": f"Here it is: {i}.", "rejected": "No." + " No." * (i % 3)}
        for i in range(count)
    ]


CHAIN = {
    "pretrain": """\
kind: pretrain
data: [{source: texts.jsonl}]
tokenizer: {vocab_size: 400}
tokenizer_data: [{source: chats.jsonl}]
architecture: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4,
               num_key_value_heads: 2, max_position_embeddings: 256}
max_length: 64
trainer: {max_steps: 12, per_device_train_batch_size: 4, learning_rate: 1.0e-3, save_steps: 2, logging_steps: 1}
""",
    "smoltalk": "kind: smoltalk\ndata: [{source: chats.jsonl}]\ntest_fraction: 0.2\n",
    "sft": """\
kind: sft
model: "@pretrain"
template: chatml
data: [{source: "@smoltalk"}]
eval_data: [{source: "@smoltalk", split: test}]
max_length: 128
trainer: {max_steps: 12, per_device_train_batch_size: 4, learning_rate: 1.0e-3, save_steps: 2, logging_steps: 1}
""",
    "dpo": """\
kind: dpo
model: "@sft"
template: chatml
data: [{source: pairs.jsonl}]
max_length: 128
trainer: {max_steps: 8, per_device_train_batch_size: 4, learning_rate: 1.0e-3, save_steps: 2, logging_steps: 1}
""",
}


def write_chain(folder: Path, steps: Iterable[str] = ("pretrain", "smoltalk", "sft")) -> Path:
    """A pipeline of tiny steps and its data; a few seconds long."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "texts.jsonl", [{"text": f"The number {i} comes before {i + 1}. " * 3} for i in range(40)])
    write_jsonl(folder / "chats.jsonl", chats(40))
    write_jsonl(folder / "pairs.jsonl", pairs(24))
    for name in steps:
        (folder / f"{name}.yaml").write_text(CHAIN[name], encoding="utf-8")
    file = folder / "pipeline.yaml"
    file.write_text("kind: pipeline\nsteps:\n" + "".join(f"  {s}: {s}.yaml\n" for s in steps), encoding="utf-8")
    return file
