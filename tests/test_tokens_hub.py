"""Big sets of documents on the Hub are read as streams: nothing is downloaded whole, and nothing read twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from beside_hub import Bench, bench
from hub import Fault

ROWS, GROUP = 40, 10
RECIPE = """\
kind: pretrain
data: [{{source: me/web, name: web{more}}}]
tokenizer: {{vocab_size: 300}}
"""


def web() -> dict[str, str | bytes]:
    """Three Parquet files of four row groups."""
    files: dict[str, str | bytes] = {}
    for number in range(3):
        rows = [{"text": f"text {number} {row} of the web", "url": "u" * 20} for row in range(ROWS)]
        stream = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=GROUP, compression="none")
        files[f"data/train-{number:05}-of-00003.parquet"] = stream.getvalue().to_pybytes()
    return files


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A Hub with a set that counts as big, and parts of two row groups."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = bench()
    one.empty({"me/web": web()})
    one.constants |= {"smolalign.data.hub_stream._STREAM_BYTES": 1, "smolalign.data.hub_stream._PART_BYTES": 600}
    yield one
    one.hub.faults.clear()
    one.constants.clear()


def tokenize(beside: Bench, more: str = "") -> tuple[int, str]:
    Path("pretrain.yaml").write_text(RECIPE.format(more=more), encoding="utf-8")
    ran = beside.run("tokenize", "pretrain.yaml", "--out", "run", XDG_CACHE_HOME=str(Path.cwd() / "cache"))
    return ran.code, ran.out + ran.err


def rows() -> list[str]:
    shards = sorted(Path("run/pretrain/checkpoints/assembly/rows/shards").glob("*.parquet"))
    return [text for shard in shards for text in pq.read_table(shard)["text"].to_pylist()]


def planned() -> list[dict[str, Any]]:
    plan = json.loads(Path("run/pretrain/checkpoints/assembly/rows/plan.json").read_text(encoding="utf-8"))
    return [unit["part"] for unit in plan["units"]]


def test_a_big_set_is_read_part_by_part_and_goes_on_after_a_fault(beside: Bench) -> None:
    beside.hub.faults.append(Fault("00002-of-00003", 404, "EntryNotFound", methods=("GET",)))
    code, said = tokenize(beside)
    assert code == 2
    assert "me/web/data/train-00002-of-00003.parquet (split train; revision ccc" in said
    beside.hub.faults.clear()
    code, said = tokenize(beside)
    assert code == 0, said
    assert "web: " in said
    assert sorted(rows()) == sorted(f"text {number} {row} of the web" for number in range(3) for row in range(ROWS))
    parts = planned()
    assert {part["records"] for part in parts} == {2 * GROUP}
    assert len({(part["file"], part["start"]) for part in parts}) == len(parts) == 6
    assert not list(beside.cache.rglob("*.arrow"))


def test_a_sample_reads_no_more_parts_than_it_needs(beside: Bench) -> None:
    assert tokenize(beside, ", max_rows: 30")[0] == 0
    assert len(rows()) == 30
    drawn = planned()
    assert len(drawn) == 2
