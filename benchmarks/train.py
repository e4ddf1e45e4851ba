"""Speed and memory of training, beside TRL's: the same rows, model, batch, seed and dtype, in turn, in one run.

    python -m benchmarks.train MODEL.gguf SHARED_DATA [--only sft dpo nano] [--steps 8] [--repeats 3]

Prints one table a kind of training, medians over the repeats. The real chats and pairs are not part of this project.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.contenders import BIN, ROOT, Run, smolalign, trl_command, trl_in_process
from smolalign.chat.template import chat_template
from smolalign.data.gather import gather_sources
from smolalign.data.load import load_rows
from smolalign.model import load_config, load_model, load_tokenizer, save_model
from smolalign.recipe.data import DataSource
from smolalign.rows import Chat, Pair, RowKind, message_to_openai

# What everybody trains with. bf16 is off: TRL's default is slow on many CPUs; checkpointing is off: it is slower still.
COMMON = {
    "learning_rate": 1e-5,
    "lr_scheduler_type": "constant",
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "seed": 42,
}
# Beside these, what TRL needs to be told and smolalign does by itself.
FOR_TRL = {"report_to": "none", "disable_tqdm": True}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("model", type=Path, help="SmolLM2-135M-Instruct as .gguf or checkpoint folder")
    arguments.add_argument("data", type=Path, help="folder with llama_factory/ and ultrafeedback/")
    arguments.add_argument("--only", nargs="+", default=["sft", "dpo", "nano"], choices=["sft", "dpo", "nano"])
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    peak = matmul_peak()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"fp32 matrix products: {peak / 1e9:.0f} GFLOP/s at best")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in given.only:
            if kind == "nano":
                nano(folder, given.steps * 4, given.repeats, peak)
            else:
                real(kind, folder, given, peak)


def real(kind: str, folder: Path, given: argparse.Namespace, peak: float) -> None:
    """SmolLM2-135M, all weights, on real chats or pairs."""
    model = checkpoint(given.model, folder / "smollm2", "smollm2")
    if kind == "sft":
        rows = chat_rows([given.data / "llama_factory" / "alpaca_en_demo.json"], folder / "chats", 4 * given.steps)
        batch, fields = 4, {"max_length": 1024, "assistant_only_loss": True}
    else:
        rows = pair_rows(given.data / "ultrafeedback", folder / "pairs", 2 * given.steps, model, 1024)
        batch, fields = 2, {"max_length": 1024, "beta": 0.1}
    fields |= {"max_steps": given.steps, "per_device_train_batch_size": batch, **COMMON}
    contest(f"{kind} of SmolLM2-135M", kind, model, "smollm2", rows, folder, fields, given.repeats, peak, command=True)


def nano(folder: Path, steps: int, repeats: int, peak: float) -> None:
    """The embedded model and its data."""
    base = folder / "base"
    command = [BIN / "smolalign", "pretrain", ROOT / "recipes/nano/pretrain.yaml", "trainer.max_steps=4", "--out", base]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    model, data = base / "pretrain" / "model", ROOT / "data" / "nano"
    chats = chat_rows(sorted((data / "smoltalk").glob("*.jsonl")), folder / "nano-chats", 3000)
    pairs = pair_rows(data / "ultrafeedback.jsonl", folder / "nano-pairs", 16 * steps, model, 512)
    for kind, rows, batch, more in (
        ("sft", chats, 32, {"assistant_only_loss": True}),
        ("dpo", pairs, 16, {"beta": 0.1}),
    ):
        fields = {"max_length": 512, "max_steps": steps, "per_device_train_batch_size": batch, **more, **COMMON}
        contest(f"{kind} of the nano model", kind, model, "chatml", rows, folder, fields, repeats, peak)


def contest(
    title: str,
    kind: str,
    model: Path,
    template: str,
    rows: Path,
    folder: Path,
    fields: dict[str, Any],
    repeats: int,
    peak: float,
    *,
    command: bool = False,
) -> None:
    """All contenders in turn, as often as asked for, and the table of their medians."""
    own = {name: value for name, value in fields.items() if name not in ("max_length", "seed", "assistant_only_loss")}
    recipe = {
        "kind": kind,
        "model": str(model),
        "template": template,
        "data": [{"source": str(in_trls_order(rows / "train.jsonl", kind, fields["seed"]))}],
        "max_length": fields["max_length"],
        "seed": fields["seed"],
        "trainer": own,
    }
    file = folder / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    trl = {**fields, **FOR_TRL}
    turns: list[Callable[[], Run]] = []
    if command:
        turns.append(lambda: trl_command(kind, model, rows, folder / "trl", trl))
    turns.append(lambda: trl_in_process(kind, "TRL in process", model, rows, folder / "process", trl))
    if kind == "sft":
        packed = {**trl, "packing": True, "max_length": 2048 if command else 512}
        packed["per_device_train_batch_size"] = 1 if command else 8
        turns.append(lambda: trl_in_process(kind, "TRL in process, packed", model, rows, folder / "packed", packed))
    turns.append(lambda: smolalign(kind, f"smolalign {kind}", file, folder / "ours"))
    runs = [[turn() for turn in turns] for _ in range(repeats)]
    by_name = [list(same) for same in zip(*runs, strict=True)]
    print_table(title, by_name, flops_per_token(kind, model, folder / "ours" / kind), peak)


def in_trls_order(file: Path, kind: str, seed: int) -> Path:
    """The rows so ordered that smolalign, which shuffles what it reads, hands its trainer the order that TRL hands
    its own; their batches are then the same, and so should be their losses."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    shuffled = [DataSource(source=str(file))]
    row_kind: RowKind = "chat" if kind == "sft" else "pair"
    with tempfile.TemporaryDirectory() as work:
        rows = gather_sources(shuffled, row_kind, Path(work), "rows", seed).train
    order = [int(row.origin.rpartition(":")[2]) - 1 for row in rows]
    placed = dict(zip(order, lines, strict=True))
    target = file.parent.with_name(f"{file.parent.name}-ordered") / file.name
    target.parent.mkdir(exist_ok=True)
    target.write_text("".join(placed[place] for place in range(len(lines))), encoding="utf-8")
    return target


def print_table(title: str, by_name: list[list[Run]], flops: float, peak: float) -> None:
    """Medians; ratios are medians of the ratios within one round, so that a busy minute slows both sides of them."""
    print(f"\n{title}\n")
    print("| | tokens/s | smolalign is faster by | of the fp32 peak | peak memory | first step after | mean loss |")
    print("|---|---|---|---|---|---|---|")
    ours = by_name[-1]
    for runs in by_name:
        speed = statistics.median(run.tokens_per_second for run in runs)
        ratio = statistics.median(
            our.tokens_per_second / run.tokens_per_second for our, run in zip(ours, runs, strict=True)
        )
        memory = statistics.median(run.peak_bytes for run in runs)
        first = statistics.median(run.steps[0][0] for run in runs)
        cells = [f"{speed:,.0f}", "" if runs is ours else f"{ratio:.1f} ×", f"{speed * flops / peak:.0%}"]
        cells += [f"{memory / 1e9:.2f} GB", f"{first:.0f} s", f"{runs[0].loss:.4f}"]
        print(f"| {runs[0].name} | {' | '.join(cells)} |", flush=True)


def flops_per_token(kind: str, model: Path, step: Path) -> float:
    """The products that training one token takes at least: six for each weight of the layers, and of the head for
    tokens that are trained on; in DPO two more for the reference, as it is counted in the time.

    Attention's own products, a few percent at these lengths, are left out, and what shared prompts save is not: it is
    the work of the tokens that TRL counts.
    """
    config = load_config(str(model))
    head = config.vocab_size * config.hidden_size
    layers = sum(p.numel() for p in load_model(str(model)).parameters()) - head
    ledger = json.loads((step / "step.json").read_text(encoding="utf-8"))["truncation"]
    trained = ledger["trained_tokens"] / ledger["tokens"]
    return (6 if kind == "sft" else 8) * (layers + trained * head)


def matmul_peak() -> float:
    """The fastest fp32 matrix products of this machine, by either library, in operations a second."""
    from smolalign.train.probe import best_product_seconds

    size = 1024
    return 2 * size**3 / best_product_seconds(size)


def checkpoint(source: Path, target: Path, template: str) -> Path:
    """The model as a folder in Transformers format that carries the training template, for TRL to read."""
    if not target.exists():
        tokenizer = load_tokenizer(str(source))
        tokenizer.chat_template = chat_template(template)
        save_model(load_model(str(source)), tokenizer, target)
    return target


def chat_rows(files: list[Path], folder: Path, count: int) -> Path:
    """Chats as TRL reads them, `count` of them spread evenly over the files."""
    rows = [row for file in files for row in load_rows(str(file), "chat").rows if isinstance(row, Chat)]
    picked = rows[:: max(1, len(rows) // count)][:count]
    # TRL's loader merges the schemas of tools; chats without tools leave nothing to merge.
    chats = [{"messages": [_message(turn) for turn in row.messages]} for row in picked if not row.tools]
    return _write(folder, chats)


def pair_rows(file: Path, folder: Path, count: int, model: Path, max_length: int) -> Path:
    """Pairs as TRL reads them, those that fit whole into `max_length`, so that nobody cuts."""
    tokenizer = load_tokenizer(str(model))
    rows = (row for row in load_rows(str(file), "pair").rows if isinstance(row, Pair))
    return _write(folder, list(_short(rows, tokenizer, count, max_length)))


def _short(rows: Iterator[Pair], tokenizer: Any, count: int, max_length: int) -> Iterator[dict[str, Any]]:
    for row in rows:
        prompt, chosen, rejected = (
            [_message(turn) for turn in part] for part in (row.prompt, [row.chosen], [row.rejected])
        )
        lengths = (len(tokenizer.apply_chat_template(prompt + answer)["input_ids"]) for answer in (chosen, rejected))
        if max(lengths) <= max_length:
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            count -= 1
        if not count:
            return


def _message(turn: Any) -> dict[str, Any]:
    return {name: value for name, value in message_to_openai(turn).items() if name in ("role", "content")}


def _write(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
