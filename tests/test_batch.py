"""The global batch: how it is divided, where it does not divide, and that a step of any division is the same step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran
from hypothesis import given
from hypothesis import strategies as st

from smolalign.errors import UserError
from smolalign.pipeline import resolve
from smolalign.recipe.batch import batch_problem, counts, divide
from smolalign.recipe.load import load_recipe
from smolalign.train.knobs import knobs

Cli = Callable[..., Ran]
SIZE, ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"


@given(
    global_size=st.none() | st.integers(1, 600),
    size=st.none() | st.integers(1, 40),
    accumulated=st.none() | st.integers(1, 20),
    processes=st.integers(1, 64),
)
def test_a_division_has_the_rows_that_were_asked_for_or_is_refused(
    global_size: int | None, size: int | None, accumulated: int | None, processes: int
) -> None:
    trainer = {name: value for name, value in ((SIZE, size), (ACCUMULATED, accumulated)) if value is not None}
    if global_size is None:
        assert divide(None, trainer, processes).rows == (size or 8) * (accumulated or 1) * processes
        return
    if batch_problem(global_size, trainer):
        assert accumulated or global_size % (size or 1)
        return
    assert divide(global_size, trainer, 1).rows == global_size
    if global_size % (processes * (size or 1)):
        with pytest.raises(UserError, match=f"global_batch_size {global_size}"):
            divide(global_size, trainer, processes)
        return
    found = divide(global_size, trainer, processes)
    assert found.rows == found.size * found.accumulated * found.processes == global_size
    assert found.size == size if size else found.size <= 8


def test_the_rows_at_a_time_are_the_most_that_divide_up_to_eight() -> None:
    assert [divide(rows, {}, 2).size for rows in (128, 200, 22, 26, 4)] == [8, 5, 1, 1, 2]
    assert divide(200, {}, 2).fields() == {SIZE: 5, ACCUMULATED: 20}


def test_what_divides_is_named_whole_or_by_its_ends() -> None:
    assert [counts(rows) for rows in (1, 2, 12)] == ["1", "1 or 2", "1, 2, 3, 4, 6 or 12"]
    assert counts(720) == "1, 2, 3, 4, 5, 6, 8, 9, … or 720"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    file = tmp_path / "sft.yaml"
    file.write_text(
        "kind: sft\nmodel: ./m\ndata: [{source: rows.jsonl}]\nglobal_batch_size: 24\ntrainer:\n  learning_rate: 1e-3\n"
        "  per_device_train_batch_size: 4\n"
    )
    return file


@pytest.mark.parametrize(
    ("override", "what"),
    [
        (
            "trainer.gradient_accumulation_steps=4",
            "5: trainer.gradient_accumulation_steps: follows from global_batch_size 24, but is 4 → leave it out",
        ),
        (
            "trainer.per_device_train_batch_size=7",
            "7: trainer.per_device_train_batch_size: does not divide global_batch_size 24, but is 7 → set it to 6, or "
            "change global_batch_size",
        ),
        (
            "trainer.per_device_train_batch_size=0",
            "7: trainer.per_device_train_batch_size: does not divide global_batch_size 24, but is 0 → set it to 1, or "
            "change global_batch_size",
        ),
        (
            "trainer.auto_find_batch_size=true",
            "5: trainer.auto_find_batch_size: would not keep to global_batch_size 24, but is True → leave it out",
        ),
        (
            "trainer.per_device_train_batch_size=many",
            "7: trainer.per_device_train_batch_size: does not divide global_batch_size 24, but is 'many' → set it to 8",
        ),
        ("global_batch_size=0", "4: global_batch_size: input should be greater than or equal to 1, but is 0"),
        ("global_batch_size=1.5", "4: global_batch_size: input should be a valid integer"),
    ],
)
def test_a_batch_said_twice_or_wrongly_is_told_with_its_line(
    override: str, what: str, recipe: Path, cli: Cli, tmp_path: Path
) -> None:
    ran = cli("sft", recipe, override, "--out", tmp_path / "out")
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert f"sft.yaml:{what}" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("processes", "what"),
    [
        (5, "24 does not divide among 5 processes → take 1, 2, 3, 4, 6, 8, 12 or 24 processes, or change"),
        (
            4,
            "24 among 4 processes is 6 rows each, no multiple of per_device_train_batch_size 4 → set "
            "trainer.per_device_train_batch_size=3, or take 1, 2, 3 or 6 processes",
        ),
    ],
)
def test_processes_that_do_not_divide_the_batch_are_refused_before_they_are_launched(
    processes: int, what: str, recipe: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolalign.launch.launch", None)
    for dry in ([], ["--dry-run"]):
        ran = cli("sft", recipe, "--launch", "accelerate", "--processes", processes, *dry)
        assert ran.code == 2
        (line,) = ran.err.splitlines()
        assert f"sft.yaml:4: global_batch_size {what}" in line


def test_a_run_may_go_on_in_another_division_of_the_same_global_batch(recipe: Path, tmp_path: Path) -> None:
    def key(*overrides: str) -> str:
        return resolve(load_recipe(recipe, overrides), tmp_path).resume_key

    plain: Any = ("global_batch_size=null", "trainer.per_device_train_batch_size=12", f"trainer.{ACCUMULATED}=2")
    assert key() == key("trainer.per_device_train_batch_size=2") == key(*plain)
    assert key() != key("global_batch_size=48")
    drop = "trainer.dataloader_drop_last=true"
    assert key(drop) != key(drop, "trainer.per_device_train_batch_size=2")


def test_less_memory_keeps_the_global_batch(recipe: Path) -> None:
    step: Any = load_recipe(recipe).step
    found = [(knob.overrides, knob.resumes) for knob in knobs(step)][:3]
    half, quarter = (f"trainer.{SIZE}={size}" for size in (2, 1))
    assert found == [(half, True), (quarter, True), (f"{quarter} trainer.gradient_checkpointing=true", True)]
    for override in (half, quarter):
        changed: Any = load_recipe(recipe, [override]).step
        assert divide(changed.global_batch_size, changed.trainer, 2).rows == 24
