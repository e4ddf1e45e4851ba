"""Big sets of documents on the Hub are read as streams: nothing is downloaded whole, and nothing read twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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


def test_a_big_set_is_read_part_by_part_and_goes_on_after_a_fault_without_reading_twice(beside: Bench) -> None:
    beside.hub.faults.append(Fault("stored", 500, methods=("GET",), times=float("inf")))
    code, said = tokenize(beside)
    assert code == 2
    assert "me/web" in said
    assert "the Hub fails (500 Internal Server Error)" in said
    beside.hub.faults.clear()
    code, said = tokenize(beside)
    assert code == 0, said
    assert "web: " in said
    assert sorted(rows()) == sorted(f"text {number} {row} of the web" for number in range(3) for row in range(ROWS))
    plan = json.loads(Path("run/pretrain/checkpoints/assembly/rows/plan.json").read_text())
    parts = [unit["part"] for unit in plan["units"]]
    assert {part["records"] for part in parts} == {2 * GROUP}
    assert len({(part["file"], part["start"]) for part in parts}) == len(parts) == 6
    beside.hub.asked.clear()
    assert tokenize(beside)[0] == 0
    assert not beside.hub.fetched("stored")
    assert not list(beside.cache.rglob("*.arrow"))


def test_a_sample_reads_no_more_parts_than_it_needs_and_is_the_same_again(beside: Bench) -> None:
    found = []
    for more in (", max_rows: 30", ", max_rows: 30", ", max_rows: 30, priority: 1"):
        beside.hub.asked.clear()
        assert tokenize(beside, more)[0] == 0
        found.append(rows())
        plan = json.loads(Path("run/pretrain/checkpoints/assembly/rows/plan.json").read_text())
        assert len(plan["units"]) == 2
    assert len(found[0]) == 30
    assert found[0] == found[1] == found[2]
