"""Recipes: what YAML and overrides become, where each key stands, and that a recipe written reads back the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, chats, write_jsonl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolalign.errors import UserError, UserErrors
from smolalign.recipe.data import DataSource
from smolalign.recipe.load import dump_recipe, load_pipeline_steps, load_recipe, recipe_from_options
from smolalign.recipe.schema import KINDS, Lora, SftStep
from smolalign.recipe.shipped import RECIPES, copy_recipe, find_recipe, shipped_recipes

Cli = Callable[..., Ran]
SFT = "kind: sft\nmodel: m\ndata:\n  - source: a.jsonl\n  - {source: b.jsonl, weight: 0.5}\n"


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    file = tmp_path / "sft.yaml"
    file.write_text(SFT, encoding="utf-8")
    return file


def step(file: Path, *overrides: str) -> Any:
    return load_recipe(file, overrides).step


# --- loading and overrides -------------------------------------------------------------------------------------------


def test_a_recipe_has_its_kinds_defaults_and_the_folder_its_paths_start_from(sft: Path) -> None:
    recipe = load_recipe(sft)
    assert (recipe.kind, recipe.file, recipe.folder) == ("sft", sft, sft.parent)
    assert isinstance(recipe.step, SftStep)
    assert [source.weight for source in recipe.step.data] == [None, 0.5]
    assert (recipe.step.seed, recipe.step.template, recipe.step.lora) == (42, "smollm2", None)


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("seed=7", lambda s: s.seed, 7),
        ("run=trial", lambda s: s.run, "trial"),
        ("run=null", lambda s: s.run, None),
        ("test_fraction=1e-3", lambda s: s.test_fraction, 0.001),
        ("data.1.weight=2", lambda s: s.data[1].weight, 2.0),
        ("data.0.source=c=d.jsonl", lambda s: s.data[0].source, "c=d.jsonl"),
        ("data=[{source: c.jsonl}]", lambda s: [source.source for source in s.data], ["c.jsonl"]),
        ("lora.r=4", lambda s: s.lora, Lora(r=4)),
        ("lora={r: 4, alpha: 9}", lambda s: s.lora, Lora(r=4, alpha=9)),
        ("trainer.learning_rate=1e-3", lambda s: s.trainer["learning_rate"], 0.001),
        ("trainer.learning_rate=5.E+2", lambda s: s.trainer["learning_rate"], 500.0),
        ("trainer.lr_scheduler_kwargs.min_lr=1e-5", lambda s: s.trainer["lr_scheduler_kwargs"], {"min_lr": 1e-5}),
        ("trainer.gradient_checkpointing=true", lambda s: s.trainer["gradient_checkpointing"], True),
        ("trainer.save_strategy=no", lambda s: s.trainer["save_strategy"], "no"),
        ("trainer.run_name=e5", lambda s: s.trainer["run_name"], "e5"),
        # A commit that looks like a number in scientific notation is still a commit.
        ("data.0.revision=12345e67", lambda s: s.data[0].revision, "12345e67"),
    ],
)
def test_an_override_is_typed_by_the_schema(sft: Path, override: str, get: Callable[[Any], Any], value: Any) -> None:
    found = get(step(sft, override))
    assert found == value
    assert type(found) is type(value)


def test_overrides_apply_in_order_and_leave_the_file_alone(sft: Path) -> None:
    assert step(sft, "seed=1", "lora.r=2", "lora.alpha=3", "seed=4").model_dump()["seed"] == 4
    assert step(sft, "lora.r=2", "lora.alpha=3").lora == Lora(r=2, alpha=3)
    assert sft.read_text(encoding="utf-8") == SFT


def test_an_override_fills_a_block_that_the_recipe_has_as_null(sft: Path) -> None:
    sft.write_text(SFT + "lora: null\n", encoding="utf-8")
    assert step(sft, "lora.r=2").lora == Lora(r=2)


def test_numbers_in_scientific_notation_are_numbers_in_the_file_too(sft: Path) -> None:
    sft.write_text(SFT + "max_cut: 5e-2\ntrainer: {learning_rate: 2e-4, optim_args: {eps: 1e-8}}\n", encoding="utf-8")
    assert step(sft).max_cut == 0.05
    assert step(sft).trainer == {"learning_rate": 2e-4, "optim_args": {"eps": 1e-8}}


def test_every_problem_has_the_line_of_the_deepest_key_that_is_there(sft: Path) -> None:
    sft.write_text(SFT.replace("b.jsonl", "b.jsonl, wieght: 1") + "lora:\n\n  r: none\ntest_fraction: 2\n")
    with pytest.raises(UserErrors) as raised:
        load_recipe(sft)
    assert {(error.where.removeprefix(f"{sft}:"), error.what.split(":")[0]) for error in raised.value.errors} == {
        ("5", "unknown key data.1.wieght"),
        ("8", "lora.r"),
        ("9", "test_fraction"),
    }


def test_options_make_the_same_recipe_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = recipe_from_options("sft", "m", ["a.jsonl", "b.jsonl"], ["data.1.weight=0.5"])
    (tmp_path / "sft.yaml").write_text(SFT)
    assert made.step == load_recipe(tmp_path / "sft.yaml").step
    assert made.folder == tmp_path


# --- pipelines -------------------------------------------------------------------------------------------------------


def pipeline(folder: Path) -> Path:
    (folder / "sub").mkdir()
    (folder / "sub" / "one.yaml").write_text(SFT)
    file = folder / "pipeline.yaml"
    lines = ["kind: pipeline", "steps:", "  one: sub/one.yaml", "  two:", "    kind: dpo", '    model: "@one"']
    file.write_text("\n".join([*lines, "    data: [{source: p.jsonl}]", "    trainer: {beta: 0.1}", ""]))
    return file


def test_a_pipelines_steps_are_files_or_stand_in_it(tmp_path: Path) -> None:
    steps = load_pipeline_steps(load_recipe(pipeline(tmp_path)), ["one.seed=3", "two.trainer.beta=0.5"])
    assert [(name, recipe.kind, recipe.folder) for name, recipe in steps.items()] == [
        ("one", "sft", tmp_path / "sub"),
        ("two", "dpo", tmp_path),
    ]
    assert steps["one"].step.seed == 3
    two: Any = steps["two"].step
    assert (two.seed, two.trainer) == (42, {"beta": 0.5})


def test_an_override_of_a_step_that_stands_in_the_pipeline_does_not_stick(tmp_path: Path) -> None:
    recipe = load_recipe(pipeline(tmp_path))
    load_pipeline_steps(recipe, ["two.trainer.beta=0.5"])
    again: Any = load_pipeline_steps(recipe)["two"].step
    assert again.trainer == {"beta": 0.1}


def test_a_wrong_key_of_a_step_that_stands_in_the_pipeline_has_its_line(tmp_path: Path) -> None:
    file = pipeline(tmp_path)
    file.write_text(file.read_text().replace("data: [{source", "data: [{sorce"))
    with pytest.raises(UserErrors, match=r"pipeline\.yaml:7: unknown key data\.0\.sorce → did you mean source\?"):
        load_pipeline_steps(load_recipe(file))


# --- writing ---------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SOURCES = st.builds(
    DataSource,
    source=TEXT,
    revision=st.none() | TEXT,
    weight=st.none() | st.floats(min_value=1e-9, max_value=1e9),
    max_rows=st.none() | st.integers(min_value=1),
)
# Trainer text that looks like a number in scientific notation means the number.
TRAINER = st.dictionaries(st.sampled_from(["learning_rate", "optim", "x"]), NUMBERS | st.booleans() | st.none())
STEPS = st.builds(
    SftStep,
    kind=st.just("sft"),
    model=TEXT,
    data=st.lists(SOURCES, min_size=1, max_size=3),
    run=st.none() | TEXT,
    seed=st.integers(min_value=0),
    lora=st.none() | st.builds(Lora, dropout=st.floats(0, 1, exclude_max=True), target_modules=st.lists(TEXT)),
    max_cut=st.floats(0, 1),
    trainer=TRAINER,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@example(SftStep(kind="sft", model="\x85", data=[DataSource(source="1e3"), DataSource(source="no")]))
@given(STEPS)
def test_a_recipe_that_is_written_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, made: SftStep) -> None:
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(dump_recipe(made), encoding="utf-8")
    assert load_recipe(file).step == made


# --- shipped recipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_is_written_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe(name))
    if recipe.kind == "pipeline":
        assert load_pipeline_steps(recipe)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe.step), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml").step == recipe.step


def test_every_kind_has_a_shipped_recipe_and_a_runner() -> None:
    from smolalign.pipeline import RUNNERS

    assert {load_recipe(find_recipe(name)).kind for name in shipped_recipes()} == set(KINDS)
    assert set(RUNNERS) == set(KINDS) - {"pipeline"}


def test_shipped_recipes_are_listed_and_shown(cli: Cli) -> None:
    assert cli("recipes", "list").out.splitlines() == shipped_recipes()
    assert cli("recipes", "show", "nano/sft").out == (RECIPES / "nano/sft.yaml").read_text(encoding="utf-8")
    assert cli("recipes", "show", "nano").out == (RECIPES / "nano/pipeline.yaml").read_text(encoding="utf-8")


def test_the_file_of_a_recipe_goes_before_a_shipped_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "sft").write_text("mine")
    assert find_recipe("nano/sft") == Path("nano/sft")
    assert find_recipe("nano") == RECIPES / "nano" / "pipeline.yaml"


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith("nano/")])
def test_a_copy_elsewhere_still_finds_what_it_names(cli: Cli, name: str, tmp_path: Path) -> None:
    target = tmp_path / "mine" / "copy.yaml"
    assert cli("recipes", "copy", name, target).code == 0
    original, copied = find_recipe(name), load_recipe(target)
    assert target.read_text(encoding="utf-8").count("\n") == original.read_text(encoding="utf-8").count("\n")
    files = [
        value for value in _texts(yaml.safe_load(original.read_text("utf-8"))) if _is_file(original.parent / value)
    ]
    assert [value for value in _texts(yaml.safe_load(target.read_text("utf-8"))) if value.startswith("/")] == [
        str((original.parent / value).resolve()) for value in files
    ]
    assert files or name == "nano/sft"
    if copied.kind == "pipeline":
        assert list(load_pipeline_steps(copied)) == list(load_pipeline_steps(load_recipe(original)))


def test_a_copy_keeps_comments_and_quotes_a_path_that_yaml_would_misread(tmp_path: Path) -> None:
    folder = tmp_path / "it's: here # now"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", chats(1))
    (folder / "sft.yaml").write_text(SFT.replace("source: a.jsonl", "source: a.jsonl  # mine"))
    copy_recipe(str(folder / "sft.yaml"), tmp_path / "copy.yaml")
    assert "# mine" in (tmp_path / "copy.yaml").read_text()
    assert [s.source for s in step(tmp_path / "copy.yaml").data] == [str(folder / "a.jsonl"), "b.jsonl"]


def test_a_copied_recipe_checks_where_it_was_copied_to(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "mine" / "smoltalk.yaml"
    assert cli("recipes", "copy", "nano/smoltalk", target).code == 0
    ran = cli("check", target, "--out", tmp_path / "run")
    assert (ran.code, "nothing wrong was found" in ran.out) == (0, True), ran.err


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def test_an_unknown_override_key_is_an_error_too(sft: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key lora\.rank"):
        load_recipe(sft, ["lora.rank=3"])
