"""What `check` says of pretraining with stages: passes over what sources hold, room, memory, and what each costs."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Ran, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.cost import DEVICES, Work, packed, packed_work, say_tokens, stage_cost
from smolalign.recipe.data import DataSource
from smolalign.recipe.load import load_recipe
from smolalign.train.compute import Machine, choose
from smolalign.train.memory import config_of, micro_batch

Cli = Callable[..., Ran]
STAGES = [
    {"name": "first", "tokens": 20_000, "mixture": {"words": 3, "tales": 1}},
    {"name": "long", "tokens": 5_000, "mixture": {"tales": 1}, "max_length": 128},
]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe of two sources and two stages; keys of it may be given."""
    write_jsonl(tmp_path / "words.jsonl", [{"text": f"Say {number} once more."} for number in range(900)])
    write_jsonl(tmp_path / "tales.jsonl", [{"text": f"A tale of {number}. " * 20} for number in range(30)])

    def write(**keys: Any) -> Path:
        file = tmp_path / "pretrain.yaml"
        sources = [{"source": f"{name}.jsonl", "name": name} for name in ("words", "tales")]
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        made = {
            "kind": "pretrain",
            "data": sources,
            "tokenizer": {"vocab_size": 400},
            "architecture": {**sizes, "num_key_value_heads": 2, "max_position_embeddings": 256},
            "stages": STAGES,
            "max_length": 32,
            "global_batch_size": 8,
            **keys,
        }
        file.write_text(yaml.safe_dump(made), encoding="utf-8")
        return file

    return write


def checked(cli: Cli, file: Path, *options: Any) -> str:
    ran = cli("check", file, "--out", file.parent / "run", *options)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


# --- counting ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_documents_are_cut_at_the_ends_of_rows_and_nowhere_else(documents: list[int], length: int) -> None:
    token_of = [number for number, tokens in enumerate(documents) for _ in range(tokens)]
    bounds = {0, *range(0, len(token_of), length)}
    bounds |= {place for place in range(1, len(token_of)) if token_of[place] != token_of[place - 1]}
    ends = [*sorted(bounds)[1:], len(token_of)]
    assert packed(documents, length) == [end - start for start, end in zip(sorted(bounds), ends, strict=True)]


def test_work_of_packed_rows_by_hand() -> None:
    # Rows of 4: [3, 1], [1, 3]: pieces of 3, 1, 1 and 3 attend to 6 + 1 + 1 + 6; their first tokens are not predicted.
    assert packed_work([3, 2, 3], 4, 8) == Work(8, 4, 14)
    assert packed_work([3, 2, 3], 4, 80) == Work(80, 40, 140)


def test_tokens_and_costs_are_said_as_people_write_them() -> None:
    said = [say_tokens(tokens) for tokens in (400_000, 1_880_000, 75 * 10**9, 16 * 10**11)]
    assert said == ["400,000", "1.88M", "75B", "1.6T"]
    an_hour = DEVICES["h100"].flops * 0.3 * 3600
    line = stage_cost("cost of stage web", 6 * 10**12, 20 * an_hour, DEVICES["h100"])
    assert line == "cost of stage web: 6T tokens, 2.1e19 operations, 20 hours of an H100 SXM at 30% of its bf16 peak"


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_tells_each_stage_and_how_often_it_reads_what_its_sources_hold(
    cli: Cli, recipe: Callable[..., Path]
) -> None:
    out = checked(cli, recipe())
    first = re.search(
        r"stage first: 20,000 tokens, 79 steps, rows of 32: words 75% \(pass (.*)\), tales 25% \(.*\)", out
    )
    assert first is not None, out
    # 900 documents of about nine tokens with their ends, by their exact number.
    from smolalign.look import Chain, tokenizer_to_come

    file = recipe()
    tokenizer = tokenizer_to_come(
        "chatml", Chain({"pretrain": load_recipe(file)}, file.parent / "run"), "pretrain", 500
    )
    held = sum(len(tokenizer(f"Say {number} once more.")["input_ids"]) + 1 for number in range(900))
    assert float(first[1]) == pytest.approx(15_000 / held, rel=0.1)
    assert "stage long: 5,000 tokens, 20 steps, rows of 128, decay: tales 100%" in out
    assert "token files: about 0.000 GB" in out
    assert "teaches little" not in out
    assert "cost" not in out


def test_what_is_read_too_often_or_never_is_a_warning(cli: Cli, recipe: Callable[..., Path]) -> None:
    out = checked(cli, recipe(stages=[{"name": "only", "tokens": 60_000, "mixture": {"tales": 1}}]))
    often = re.search(r"! pretrain  read about tales ([\d.]+) times: more than 4 times teaches little", out)
    assert often is not None, out
    assert float(often[1]) > 4
    assert "! pretrain  in no stage's mixture: words" in out


def test_a_source_without_documents_that_are_long_enough_is_an_error(cli: Cli, recipe: Callable[..., Path]) -> None:
    sources = [
        {"source": "words.jsonl", "name": "words", "min_tokens": 100},
        {"source": "tales.jsonl", "name": "tales"},
    ]
    ran = cli("check", recipe(data=sources))
    assert ran.code == 2
    assert "source words: none of its first documents has 100 tokens → lower min_tokens" in ran.err


def test_a_device_has_a_cost_a_stage_and_a_branch_only_those_it_trains(cli: Cli, recipe: Callable[..., Path]) -> None:
    out = checked(cli, recipe(), "--device", "h100")
    found = [
        float(flops) for flops in re.findall(r"cost.*? tokens, ([\d.e]+) operations, under a minute of an H100", out)
    ]
    assert len(found) == 3
    assert found[2] == pytest.approx(found[0] + found[1], rel=0.1)
    assert "cost: 25,000 tokens" in out
    stages = load_recipe(recipe(branch={"of": "other", "stage": 2})).step
    from smolalign.pretrain_ahead import SourceAhead, stages_ahead

    sources = [SourceAhead(name, [[1] * 9], 9000.0, 9000.0) for name in ("words", "tales")]
    assert [stage.trained_here for stage in stages_ahead(stages, sources)] == [False, True]  # type: ignore[arg-type]


def test_memory_is_that_of_the_stage_that_computes_most_tokens_at_once(recipe: Callable[..., Path]) -> None:
    step: Any = load_recipe(recipe(trainer={"per_device_train_batch_size": 2})).step
    compute = choose(step, config_of(step), Machine("cuda", "H100", 8, (9, 0)))
    # Two rows of 32 at once, but in the long stage one of 128, of which a document takes all.
    assert (micro_batch(step, compute, [500]).rows, micro_batch(step, compute, [500]).trained) == (((128,),), 127)
    short = micro_batch(step.model_copy(update={"stages": step.stages[:1]}), compute, [20])
    assert (short.rows, short.tokens, short.trained) == (((20,), (12,), (8,), (20,), (4,)), 64, 59)


def test_how_much_a_big_set_on_the_hub_holds_is_told_by_its_files_sizes_and_the_rows_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smolalign import pretrain_ahead
    from smolalign.data import hub_stream

    file = tmp_path / "first.parquet"
    pq.write_table(pa.table({"text": ["a"] * 40}), file)
    found = hub_stream.Split("train", "c0", (str(file), "second.parquet"), (1000, 2500))
    monkeypatch.setattr(hub_stream, "big_split", lambda *_: found)
    monkeypatch.setattr("huggingface_hub.HfFileSystem.open", lambda _, url, mode: io.BytesIO(Path(url).read_bytes()))
    assert pretrain_ahead._rows_in(DataSource(source="me/web"), ["a"]) == 40 * 3.5
    other = dataclasses.replace(found, urls=("first.jsonl.zst", "second.jsonl.zst"))
    monkeypatch.setattr(hub_stream, "big_split", lambda *_: other)
    assert pretrain_ahead._rows_in(DataSource(source="me/web"), ["a"]) is None
