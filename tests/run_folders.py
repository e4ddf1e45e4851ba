"""A run's folder as steps leave it, without the hours: for tests of what reads one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from conftest import write_jsonl

EDGES = [0, 32, 64, 128, 256, 512, 1024]
MODELS = ("base", "sft", "dpo", "fc")
VERSIONS = {"smolalign": "0.2.0", "commit": "0f" * 20, "python": "3.11.7", "torch": "2.13.0", "trl": "1.16.0"}
HARDWARE = {"system": "Linux 6.1", "cpu": "Some Processor", "cores": 2, "memory_bytes": 16_800_000_000, "gpu": None}
READS = {
    "sft": ["@pretrain", "@smoltalk"],
    "dpo": ["@sft"],
    "fc": ["@dpo"],
    "eval": ["@pretrain", "@sft", "@dpo", "@fc"],
}


def write_run(folder: Path, names: Sequence[str] = ("pretrain", "smoltalk", "sft", "dpo", "fc", "eval")) -> Path:
    """A finished run of so many steps, with everything that a report shows."""
    for hour, name in enumerate(names):
        write_step(folder, name, hour)
    write_jsonl(folder / "asked.jsonl", [{"at": "x", "step": name, "cached": name == "pretrain"} for name in names])
    return folder


def write_step(run: Path, name: str, hour: int = 0, **changes: Any) -> Path:
    """A finished step; `changes` are laid over its manifest."""
    folder = run / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"kind": name, "seed": 42, "data": [{"source": "chats.jsonl"}], "trainer": {"learning_rate": 1e-3}}
    metrics: dict[str, Any] = {}
    if name in ("pretrain", "sft", "dpo", "fc"):
        lines = logs(name)
        write_jsonl(folder / "metrics.jsonl", lines)
        held = [line["eval_loss"] for line in lines if "eval_loss" in line]
        metrics = {"train_loss": 1.234, "steps": 200, "tokens_per_second": 9876}
        if held:
            metrics |= {"eval_loss_before": held[0], "eval_loss": held[-1]}
        metrics |= {"stages": stages()} if name == "pretrain" else {}
    elif name == "quality":
        recipe["threshold"] = 3
        metrics = scorer()
    if name != "eval":
        write_json(folder / "data_report.json", data_report(8 if name == "smoltalk" else 1))
    else:
        recipe["tasks"] = {"answers": {"task": "exact"}, "style": {"task": "style"}, "calls": {"task": "tool_calls"}}
        metrics = evaluation()
        write_jsonl(folder / "samples.jsonl", sample_lines())
    manifest = {
        "name": name,
        "kind": name,
        "fingerprint": "f" * 64,
        "inputs": dict.fromkeys(READS.get(name, ["chats.jsonl"]), "ab" * 32),
        "seed": 42,
        "resumed": name == "fc",
        "processes": 1,
        "started_at": f"2026-11-27T{hour:02}:00:00Z",
        "wall_seconds": 60.0 + 61 * hour,
        "metrics": metrics,
        "data": [],
        "truncation": {"rows": 500, "tokens": 40_000, "rows_cut": 3, "rows_dropped": 1, "trained_tokens": 30_000},
        "warnings": ["the chosen answers become less likely"] if name == "dpo" else [],
        "explained": ["precision fp32: the CPU is no faster in bf16"],
        "versions": VERSIONS,
        "hardware": HARDWARE,
        "recipe": recipe,
        **changes,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    write_json(folder / "step.json", manifest)
    return folder


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def logs(kind: str, steps: int = 200, every: int = 2, seed: int = 0) -> list[dict[str, float]]:
    """What a training of so many steps logs, held out before and after, and twice between."""
    draw = random.Random(f"{kind} {seed}")
    lines: list[dict[str, float]] = []
    for step in range(0, steps + 1, every):
        fall = math.exp(-4 * step / steps)
        if kind != "fc" and step % (steps // 4) == 0:
            lines.append({"step": step, "eval_loss": 1.1 + 6 * fall, "eval_runtime": 1.0})
            if kind == "dpo":
                lines[-1] |= {"eval_rewards/margins": 3 * (1 - fall), "eval_rewards/accuracies": 1 - 0.5 * fall}
        if step:
            noise = draw.uniform(-0.2, 0.2)
            line = {"step": step, "loss": 1 + 6 * fall + noise, "grad_norm": 2 * fall + abs(noise) + 0.3}
            line |= {"learning_rate": 3e-3 * fall, "num_tokens": step * 2200.0, "memory_gb": 1.1 + 0.1 * abs(noise)}
            line |= {"tokens_per_second": 9000 + 3000 * noise, "mean_token_accuracy": 0.8 * (1 - fall)}
            if kind == "dpo":
                line |= {"rewards/chosen": 1 - fall + noise, "rewards/rejected": 2 * fall - 2, "kl": 5 * (1 - fall)}
                line |= {"rewards/margins": 3 * (1 - fall) + noise, "rewards/accuracies": min(1, 1 - fall / 2 + noise)}
            lines.append(line)
    return lines


def stages() -> list[dict[str, Any]]:
    """What a pretraining of 200 steps notes of two stages, the second of them long."""
    web = {"asked": 0.6, "seen": 0.59375, "tokens": 950, "documents": 70, "epochs": 1.25}
    maths = {"asked": 0.4, "seen": 0.40625, "tokens": 650, "documents": 1234, "epochs": 0.5}
    first: dict[str, Any] = {"stage": 1, "name": "stable", "tokens": 1500, "tokens_seen": 1600, "steps": 160}
    first |= {"last_step": 160, "max_length": 512, "rope_theta": 10_000.0, "decay": False, "in_long_documents": 0.015}
    first |= {"sources": {"web": web, "maths": maths}, "learning_rate": [0.0, 0.003], "skipped_steps": 7}
    first |= {"tokens_per_second": 4321, "mfu": 0.146}
    first["held_out"] = {"web": {"loss": 1.8167, "bits_per_byte": 0.891}, "maths": {"loss": 2.5}}
    # As a stage of one source leaves it that was not measured, on a device whose peak is not known.
    long = {"stage": 2, "name": "long", "tokens": 400, "tokens_seen": 400, "steps": 40, "last_step": 200}
    long |= {"max_length": 2048, "rope_theta": 130_000.0, "decay": True, "in_long_documents": 0.5, "held_out": {}}
    return [first, {**long, "sources": {"web": {**web, "asked": 1.0, "seen": 1.0, "tokens": 400, "epochs": 1.75}}}]


def scorer() -> dict[str, Any]:
    """What a quality step notes of 12 held-out texts of two kinds, none scored 5."""
    shares: dict[str, Any] = {"precision": 0.8, "recall": 0.6666, "f1": 0.7272}
    part = {"held_out": 6, **shares, "mean_absolute_error": 0.42, "spearman": None}
    none = {"precision": None, "recall": 0.0, "f1": 0.0}
    levels = [{"threshold": at, "wanted": 12 - 2 * at, "kept": 5, **shares} for at in range(1, 5)]
    return {
        **part,
        "held_out": 12,
        "texts": 1504,
        "documents_per_second": 4837,
        "thresholds": [*levels, {"threshold": 5, "wanted": 2, "kept": 0, **none}],
        "confusion": [[2, 0, 0, 0, 0, 0], *([[0, 1, 0, 1, 0, 0]] * 4), [0, 0, 0, 0, 2, 0]],
        "kinds": {"code": part, "text": part},
    }


def data_report(sources: int) -> dict[str, Any]:
    """What became of the rows of so many sources, a few dropped for each of two reasons."""
    made = [_source(f"smoltalk/source-{i}.jsonl", 1000 - 100 * i, i) for i in range(sources)]
    total: dict[str, Any] = {
        key: sum(source[key] for source in made)
        for key in ("rows_in", "rows_kept", "copies", "rows_out", "tokens_in", "tokens_out")
    }
    empty: dict[str, Any] = {"duplicates": [], "contamination": [], "contaminated": {}, "examples": {}}
    parts = {"rows_train": total["rows_out"] - 20, "rows_test": 20, "tokens_counted_with": None, "sources": made}
    return {**total, **parts, **empty, "shards": []}


def _source(name: str, rows: int, number: int) -> dict[str, Any]:
    dropped = {"near-duplicate": 37, "not drawn (weight)": rows // 2} if number % 2 else {}
    kept = rows - sum(dropped.values())
    spread = [kept // 2, kept - kept // 2, 0, 0, 0, 0, 0]
    return {
        "source": name,
        "format": "openai",
        "rows_in": rows,
        "tokens_in": 70 * rows,
        "dropped": {reason: {"rows": lost, "tokens": 70 * lost} for reason, lost in dropped.items()},
        "rows_kept": kept,
        "copies": 0,
        "rows_out": kept,
        "tokens_out": 70 * kept,
        "lengths": {"edges": EDGES, "in": [spread[0], spread[1] + rows - kept, 0, 0, 0, 0, 0], "out": spread},
    }


def evaluation() -> dict[str, Any]:
    """The metrics of an eval step of four models on three tasks."""
    shares = {"base": 0.0, "sft": 0.64, "dpo": 0.65, "fc": 0.83}
    table = {
        model: {"answers.exact": share, "answers.stops": 0.99, "style.bad": 1 - share, "calls.ast": share / 2}
        for model, share in shares.items()
    }
    table["fc"]["held-out.loss"] = 0.789
    return {
        "table": table,
        "items": {"answers": 300, "style": 240, "calls": 100},
        "errors": {
            model: {"calls": {"asked": 100, "right": round(50 * s), "no call": 7}} for model, s in shares.items()
        },
        "details": {model: {"answers": {"stderr": {"exact": 0.0277}, "decoding": "greedy"}} for model in MODELS},
        "showcase": [
            {"prompt": "What is 3 + 6?", "system": None, "tools": [], "reply": "9"},
            {
                "prompt": "Book a museum",
                "system": "Be kind.",
                "tools": ["book_museum"],
                "reply": "<tool_call>[]</tool_call>",
            },
        ],
    }


def sample_lines(prompts: int = 12) -> Iterable[dict[str, Any]]:
    """Samples of three tasks, model by model."""
    for number, model in enumerate(MODELS):
        for i in range(prompts):
            asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {i} + {i}?"}]
            reply = f"{2 * i}" if number > i % 3 else "The red kite " * 12 + "was painted."
            common = {"model": model, "prompt": asked, "reply": reply, "stopped": True}
            yield {**common, "task": "answers", "expected": f"{2 * i}"}
        for i in range(prompts):
            asked = [{"role": "user", "content": f"Tell me of number {i}."}]
            flaws = {"unwanted": number < 2, "too_long": number == 0}
            yield {"model": model, "task": "style", "prompt": asked, "reply": f"It is {i}.", "stopped": True, **flaws}
        for i in range(prompts):
            call = f'<tool_call>[{{"name": "clean_violin", "arguments": {{"count": {i}}}}}]</tool_call>'
            asked = [{"role": "user", "content": f"Clean {i} violins."}]
            judged = {"ast": True} if number == 3 else {"ast": False, "error": "no call", "detail": "text alone"}
            yield {
                "model": model,
                "task": "calls",
                "prompt": asked,
                "tools": ["clean_violin"],
                "expected": call,
                "reply": call if number == 3 else "I would.",
                **judged,
            }
