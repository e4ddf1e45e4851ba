"""The plan of pretraining: exact tokens, shares that do not drift, rows found without those before them."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran
from hypothesis import given, settings
from hypothesis import strategies as st
from training import Cli

from smolalign.data.tokens.files import write_documents
from smolalign.data.tokens.stream import Stream
from smolalign.errors import UserError
from smolalign.recipe.pretraining import Stage
from smolalign.train.curriculum import Dealt, Plan, decays, shares
from smolalign.train.stage_rows import HeldOutRows, TrainingRows

LENGTH, ROWS = 8, 4
EPOCHS = {"web": 5_000, "code": 700, "math": 90}
MIXTURES = st.dictionaries(st.sampled_from(list(EPOCHS)), st.integers(1, 99), min_size=1)
STAGES = st.lists(
    st.tuples(st.integers(1, 3_000), MIXTURES | st.none(), st.sampled_from([None, 8, 16, 32])), min_size=1, max_size=4
)


def plan_of(found: list[tuple[int, dict[str, int] | None, int | None]], seed: int = 1) -> Plan:
    stages = [
        Stage(name=f"s{n}", tokens=tokens, mixture=mixture, max_length=length)  # type: ignore[arg-type]
        for n, (tokens, mixture, length) in enumerate(found)
    ]
    return Plan(stages, EPOCHS, step_tokens=LENGTH * ROWS, length=LENGTH, rope_theta=1e4, seed=seed)


@settings(max_examples=40, deadline=None)
@given(STAGES, st.integers(0, 5))
def test_every_stage_trains_its_tokens_exactly_and_reads_each_source_on_where_it_was_left(
    found: Any, seed: int
) -> None:
    plan = plan_of(found, seed)
    rows = [[(row, step) for row in plan.step_rows(step)] for step in range(plan.steps)]
    read: dict[str, list[tuple[int, int]]] = {name: [] for name in EPOCHS}
    for stretch in plan.stages:
        own = [row for step in rows[stretch.first_step : stretch.end] for row, _ in step]
        assert sum(row.length for row in own) == stretch.tokens
        assert all(row.length == stretch.length for row in own[:-1])
        seen = {name: sum(row.length for row in own if row.source == name) for name in stretch.shares}
        assert seen == plan.read_by(stretch)
        for row in own:
            read[row.source].append((row.start, row.start + row.length))
    # No token of a stream is read twice, and none is left out.
    for name, stretches in read.items():
        ends = [0, *(end for _, end in sorted(stretches))]
        assert [start for start, _ in sorted(stretches)] == ends[:-1]
        assert ends[-1] == plan.cursors[name]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1, 3_000), st.integers(0, 9))
def test_at_each_blocks_end_every_source_is_within_a_row_of_its_share(weights: Any, rows: int, seed: int) -> None:
    parts = [Fraction(weight, sum(weights)) for weight in weights]
    dealt = Dealt(parts, rows, seed)
    bounds = [*range(0, dealt._block * dealt._blocks, dealt._block), rows]
    for before, after in pairwise(dealt.before(bound) for bound in bounds):
        assert all(one <= other for one, other in zip(before, after, strict=True))
    for bound in bounds:
        counts = dealt.before(bound)
        assert sum(counts) == bound
        assert all(abs(count - part * bound) < 1 for count, part in zip(counts, parts, strict=True))
    # Any row, asked for alone, is the one that reading in order gives.
    scanned = [dealt.row(index) for index in range(rows)]
    for index in {0, rows // 3, rows - 1}:
        assert Dealt(parts, rows, seed).row(index) == scanned[index]
    for source, count in enumerate(dealt.before(rows)):
        assert sorted(given for of, given in scanned if of == source) == list(range(count))


@pytest.mark.parametrize("rows", [33, 63, 64, 65, 97])
def test_no_row_that_was_given_is_taken_back_where_few_are_left_over(rows: int) -> None:
    """A last block of one row alone could take back a row that was given."""
    parts = [Fraction(weight, 100) for weight in (9, 31, 7, 29, 11, 13)]
    counts = [0] * len(parts)
    dealt = Dealt(parts, rows, 1)
    for index in range(rows):
        source, before = dealt.row(index)
        assert 0 <= before < dealt.before(rows)[source]
        counts[source] += 1
    assert counts == dealt.before(rows)


def test_a_weight_is_the_decimal_that_stands_in_the_recipe() -> None:
    found = shares(Stage(name="s", tokens=1, mixture={"web": 0.1, "code": 0.2}), EPOCHS)
    assert found == {"web": Fraction(1, 3), "code": Fraction(2, 3)}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([None, None], [False, True]),
        ([None, True, None], [False, True, True]),
        ([None, False], [False, False]),
        ([True], [True]),
    ],
)
def test_the_learning_rate_falls_over_the_last_stages(said: list[bool | None], expected: list[bool]) -> None:
    assert decays([Stage(name=f"s{n}", tokens=1, decay=decay) for n, decay in enumerate(said)]) == expected


def test_what_is_read_more_than_four_times_is_known() -> None:
    plan = plan_of([(2_000, {"web": 1, "math": 1}, None)])
    assert plan.worn() == ["math"]
    assert plan.epochs("math") == pytest.approx(1000 / 90, abs=0.1)


def test_rows_that_do_not_divide_a_step_are_refused() -> None:
    with pytest.raises(
        UserError, match="stage s0: the 32 tokens of an optimizer step are no whole number of rows of 24"
    ):
        plan_of([(100, None, 24)])


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, Stream]:
    """Sources whose tokens tell where they are from: document `d` of source `s` has the ids 1000 s + d."""
    found = {}
    for number, name in enumerate(EPOCHS):
        documents = [[1000 * number + document] * (3 + document % 20) for document in range(60)]
        found[name] = Stream(write_documents(tmp_path / name, [documents], 5000), seed=number)
    return found


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 4), (2, 2), (3, 1), (4, 3)])
def test_a_step_is_the_same_whatever_its_micro_batches(
    streams: dict[str, Stream], processes: int, accumulation: int
) -> None:
    plan = Plan(
        [Stage(name="a", tokens=333, mixture={"web": 2, "code": 1}), Stage(name="b", tokens=100, max_length=32)],
        {name: stream.tokens_per_epoch for name, stream in streams.items()},
        step_tokens=LENGTH * ROWS,
        length=LENGTH,
        rope_theta=1e4,
        seed=3,
    )
    whole = TrainingRows(plan, streams, 1)
    dealt = TrainingRows(plan, streams, processes * accumulation)
    assert len(dealt) == plan.steps * processes * accumulation
    total = 0
    for step in range(plan.steps):
        items = [dealt[step * processes * accumulation + n] for n in range(processes * accumulation)]
        for item in items:
            assert item["starts"][0] == 0
            assert (item["labels"][item["starts"]] == -100).all()
        trained = sorted(id_ for item in items for id_ in item["labels"].tolist() if id_ != -100)
        alone = whole[step]
        assert trained == sorted(id_ for id_ in alone["labels"].tolist() if id_ != -100)
        total += len(alone["input_ids"])
        # A process is given no two rows more than another.
        rows = [sum(len(item["input_ids"]) > 1 for item in items[p::processes]) for p in range(processes)]
        assert max(rows) - min(rows) <= 1
    assert total == 433


def test_held_out_documents_are_measured_from_their_beginnings(tmp_path: Path) -> None:
    documents = [[1] * 5, [2] * 3, [3] * 20, [4], [5] * 8]
    rows = HeldOutRows(write_documents(tmp_path / "t", [documents[:2], documents[2:]], 100), length=8, together=10)
    items = [rows[index] for index in range(len(rows))]
    parts = [part for item in items for part in np.split(item["input_ids"], item["starts"][1:])]
    assert [part.tolist() for part in parts] == [[1] * 5, [2] * 3, [3] * 8, [3] * 8, [3] * 4, [4], [5] * 8]
    assert max(len(item["input_ids"]) for item in items) <= 10
    assert rows.predicted == sum(int((item["labels"] != -100).sum()) for item in items)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """A stream of documents that are told by their ids, in three shards of different lengths."""
    shards = [[[document] * (3 + document % 20) for document in range(*ends)] for ends in ((0, 10), (10, 35), (35, 60))]
    return Stream(write_documents(tmp_path_factory.mktemp("counted") / "t", shards, 100), seed=5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 900), st.integers(1, 900), st.integers(1, 25))
def test_documents_of_a_stretch_are_counted_as_they_are_read(
    counted: Stream, start: int, length: int, least: int
) -> None:
    ids, starts = counted.read(start, length)
    # The first one may have begun before.
    begun = len(starts) - bool(start and not _begins_at(counted, start))
    lengths = np.array([3 + id_ % 20 for id_ in ids.tolist()])
    assert counted.documents(start, length, least) == (begun, int((lengths >= least).sum()))


def _begins_at(stream: Stream, place: int) -> bool:
    """Whether a document begins at a place of a stream."""
    _, starts = stream.read(place - 1, 2)
    return len(starts) == 2


RECIPE = """\
kind: pretrain
data: [{source: web.jsonl, name: web}, {source: code.jsonl, name: code}]
max_length: 512
global_batch_size: 4
"""


@pytest.mark.parametrize(
    ("stages", "what"),
    [
        (
            "[{name: a, tokens: 9, mixture: {wbe: 1}}]",
            "stages.0.mixture.wbe: no source is called 'wbe' → did you mean web?",
        ),
        ("[{name: a, tokens: 9, mixture: {}}]", "stages.0.mixture"),
        ("[{name: a, tokens: 9}, {name: a, tokens: 9}]", "stages.1.name: an earlier stage is called 'a', too"),
        ("[{name: a, tokens: 9, decay: true}, {name: b, tokens: 9, decay: false}]", "stages.1.decay"),
        (
            "[{name: a, tokens: 9, max_length: 384}]",
            "stages.0.max_length: 2,048 tokens of an optimizer step are no whole",
        ),
        ("[{name: a, tokens: 9, max_length: 4096}]", "is more than architecture.max_position_embeddings 2048"),
        ("[{name: a, tokens: 9}]\ntrainer: {max_steps: 3}", "trainer.max_steps: the stages say how much is trained"),
        ("[{name: a, tokens: 9}]\nbranch: {of: x, stage: 1}", "branch.stage: nothing is trained before stage 1"),
        ("[{name: a, tokens: 9}]\nbranch: {of: x, stage: 3}", "branch.stage: there is no stage 3: there are 1"),
        ("[]\nbranch: {of: x, stage: 2}", "the recipe has no stages"),
    ],
)
def test_stages_that_cannot_be_are_found_before_anything_runs(stages: str, what: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"{RECIPE}stages: {stages}\n")
    ran: Ran = cli("check", tmp_path / "r.yaml")
    assert ran.code == 2
    assert any(what in line and f"{tmp_path / 'r.yaml'}:" in line for line in ran.err.splitlines()), ran.err


def test_two_sources_of_one_name_are_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("kind: pretrain\ndata: [{source: a.jsonl}, {source: a.jsonl, min_tokens: 64}]\n")
    ran = cli("check", tmp_path / "r.yaml")
    assert ran.code == 2
    assert "data.1: another source is called 'a.jsonl', too → give each a name of its own" in ran.err
