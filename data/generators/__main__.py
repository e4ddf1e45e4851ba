"""Write the dataset: `python -m data.generators [--out DIR]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.generators import calls, chats, preferences, pretrain, quality
from data.generators.world import MEASURED, Draw

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "nano"
DOCUMENTS = {"text": 4900, "records": 1850}
CHATS = {
    "everyday": 1300,
    "constraints": 2600,
    "rewrite": 2200,
    "summarize": 2300,
    "system": 2200,
    "math": 500,
    "knowledge": 300,
}
QUALITY = {"dev": 4, "heldout": 9}
INSTRUCTIONS = {"constraints": 75, "rewrite": 65, "summarize": 60, "system": 60, "math": 25, "knowledge": 15}


def files() -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
    """Every file of the dataset by its path, with its rows."""
    for source, count in DOCUMENTS.items():
        yield f"pretrain/{source}.jsonl", pretrain.documents(Draw(f"pretrain {source}", "pretrain"), count, source)
    yield "pretrain/long.jsonl", pretrain.long_documents(Draw("pretrain long", "pretrain"), 100)
    for category, count in CHATS.items():
        yield f"smoltalk/{category}.jsonl", chats.rows(Draw(category), category, count)
    yield "smoltalk/calls.jsonl", calls.chat_rows(Draw("calls"), 920)
    yield "ultrafeedback.jsonl", preferences.rows(Draw("ultrafeedback"), 1200)
    yield "apigen.jsonl", calls.apigen_rows(Draw("apigen"), 2600)
    yield "quality.jsonl", quality.rows(Draw("quality"), 28)
    for split in MEASURED:
        yield f"{split}/pretrain.jsonl", pretrain.documents(Draw(f"{split} pretrain", split), 150)
        yield f"{split}/instructions.jsonl", chats.instruction_rows(Draw(f"{split} answers", split), INSTRUCTIONS)
        yield f"{split}/chat.jsonl", chats.style_rows(Draw(f"{split} everyday", split), 120)
        yield f"{split}/ultrafeedback.jsonl", preferences.rows(Draw(f"{split} preferences", split), 200)
        yield f"{split}/apigen.jsonl", calls.apigen_rows(Draw(f"{split} requests", split), 350)
        yield f"{split}/quality.jsonl", quality.rows(Draw(f"{split} quality", split), QUALITY[split])


def write(out: Path) -> None:
    """Write every file below `out`."""
    for path, rows in files():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        target.write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m data.generators", description="Write the embedded dataset.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder to write (default: data/nano)")
    write(parser.parse_args().out)
