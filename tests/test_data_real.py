"""Real published files convert, every row accounted for. Skipped where the files are absent."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from smolalign.data.assembly.calls import call_flaw
from smolalign.data.catalogue import offer, read_catalogue
from smolalign.data.load import Loaded, load_rows
from smolalign.rows import Chat, RowKind

_ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("SMOLALIGN_SHARED_DATA") or _ROOT.parent / "shared" / "data")

FILES: list[tuple[str, RowKind, str, int, dict[str, int]]] = [
    ("dolly_hhrlhf/dolly_hhrlhf_train_small.jsonl", "chat", "prompt_completion", 1000, {}),
    ("llama_factory/alpaca_en_demo.json", "chat", "alpaca", 999, {}),
    ("llama_factory/glaive_toolcall_en_demo.json", "chat", "sharegpt", 300, {}),
    ("llama_factory/reason_tool_use_demo_50.jsonl", "chat", "openai", 50, {}),
    ("llama_factory/dpo_en_demo.json", "pair", "ultrafeedback", 300, {}),
    ("llama_factory/dpo_en_demo.json", "chat", "ultrafeedback", 300, {}),
    ("llama_factory/c4_demo.jsonl", "document", "text", 300, {}),
    ("llama_factory/wiki_demo.txt", "document", "text", 1, {}),
    (
        "ultrafeedback/train_clean.jsonl",
        "pair",
        "ultrafeedback",
        1000,
        {"chosen equals rejected": 4, "empty answer": 2},
    ),
    ("seal_tools/dev.jsonl", "chat", "seal_tools", 700, {}),
    ("self_instruct/seed_tasks.jsonl", "chat", "alpaca", 175, {}),
]


def load(name: str, kind: RowKind) -> Loaded:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not there; SMOLALIGN_SHARED_DATA names the folder of real data files")
    return load_rows(str(path), kind)


@pytest.mark.parametrize(("name", "kind", "format", "rows_in", "skipped"), FILES)
def test_every_row_is_accounted_for(
    name: str, kind: RowKind, format: str, rows_in: int, skipped: dict[str, int]
) -> None:
    loaded = load(name, kind)
    assert (loaded.format, loaded.rows_in, loaded.skipped) == (format, rows_in, skipped)
    assert len(loaded.rows) == rows_in - sum(skipped.values())


def chats(name: str) -> list[Chat]:
    return [row for row in load(name, "chat").rows if isinstance(row, Chat)]


def test_no_wrapping_is_left_in_dolly() -> None:
    assert not any("###" in row.messages[0].content for row in chats(FILES[0][0]))


@pytest.mark.parametrize(("name", "calls"), [(FILES[2][0], 211), (FILES[3][0], 68), (FILES[9][0], 1804)])
def test_every_call_arrives(name: str, calls: int) -> None:
    assert sum(len(message.tool_calls or ()) for row in chats(name) for message in row.messages) == calls


def test_every_call_of_seal_tools_finds_its_schema_in_the_file_beside_it() -> None:
    rows = chats("seal_tools/dev.jsonl")
    catalogue = read_catalogue(str(FOLDER / "seal_tools" / "tool.jsonl"))
    assert len(catalogue) == 4076
    offered = [offer(row, catalogue) for row in rows]
    assert all(isinstance(row, Chat) and row.tools for row in offered)
    flaws = Counter(
        flaw[0] for row in offered if isinstance(row, Chat) and (flaw := call_flaw(row.messages, row.tools))
    )
    assert flaws == {"arguments break the schema": 54, "broken tool schema": 1}
