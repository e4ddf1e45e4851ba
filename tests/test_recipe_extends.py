"""`extends`: a recipe that says only what it changes is, to every command, the recipe that it makes with the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, chats, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from smolalign.errors import UserError, UserErrors
from smolalign.recipe.load import load_pipeline_steps, load_recipe
from smolalign.recipe.schema import KINDS, Lora
from smolalign.recipe.shipped import RECIPES
from smolalign.recipe.tree import NULL_IS_A_VALUE, may_be_path, merge

Cli = Callable[..., Ran]
BASE = """kind: sft
model: m
data:
  - source: a.jsonl
  - source: b.jsonl
max_length: 64
lora: {r: 4, alpha: 8}
trainer:
  learning_rate: 1.0e-3
  warmup_steps: 5
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def step(file: Path, *overrides: str) -> Any:
    return load_recipe(file, overrides).step


def test_mappings_are_merged_lists_and_values_replaced_and_null_removes(tmp_path: Path) -> None:
    write(
        tmp_path,
        base=BASE,
        own="extends: base.yaml\ndata: [{source: c.jsonl}]\nlora: {r: 16}\nmax_length: null\n"
        "trainer: {learning_rate: 2.0e-4, warmup_steps: null, beta1: 1}\n",
    )
    made = step(tmp_path / "own.yaml")
    assert [source.source for source in made.data] == ["c.jsonl"]
    assert made.lora == Lora(r=16, alpha=8)
    assert made.max_length == 2048
    assert made.trainer == {"learning_rate": 2e-4, "beta1": 1}
    assert (made.kind, made.model) == ("sft", "m")


def test_a_block_is_removed_and_one_can_be_extended_over_several_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        base=BASE,
        middle="extends: base.yaml\nlora: null\nseed: 1\n",
        own="extends: middle.yaml\nseed: 2\n",
    )
    assert (step(tmp_path / "own.yaml").lora, step(tmp_path / "own.yaml").seed) == (None, 2)
    assert step(tmp_path / "own.yaml", "lora.r=2", "seed=3").model_dump() == {
        **step(tmp_path / "base.yaml", "lora={r: 2}", "seed=3").model_dump()
    }


def test_a_null_that_means_something_stays(tmp_path: Path) -> None:
    assembly = "kind: smoltalk\ndata: [{source: a.jsonl}]\ndeduplicate: {near: 0.5}\n"
    write(tmp_path, base=assembly, own="extends: base.yaml\ndeduplicate: {near: null}\n")
    assert step(tmp_path / "own.yaml").deduplicate.near is None


def test_every_field_for_which_null_is_not_its_absence_is_known() -> None:
    found: set[str] = set()
    seen: set[type] = set()

    def look(block: Any) -> None:
        if isinstance(block, type) and issubclass(block, BaseModel):
            if block in seen:
                return
            seen.add(block)
            for name, field in block.model_fields.items():
                if type(None) in getattr(field.annotation, "__args__", ()) and field.default is not None:
                    found.add(name)
                look(field.annotation)
        for part in getattr(block, "__args__", ()):
            look(part)

    for kind in KINDS.values():
        look(kind)
    assert found == NULL_IS_A_VALUE


def test_paths_start_from_the_file_that_they_stand_in(tmp_path: Path) -> None:
    write(tmp_path / "base", base=BASE.replace("model: m", "model: hub/name"))
    write_jsonl(tmp_path / "base" / "a.jsonl", chats(1))
    own = write(tmp_path / "deep" / "own", own="extends: ../../base/base.yaml\neval_data: [{source: e.jsonl}]\n")
    made = step(own / "own.yaml")
    assert [source.source for source in made.data] == ["../../base/a.jsonl", "../../base/b.jsonl"]
    assert (made.model, made.eval_data[0].source) == ("hub/name", "e.jsonl")


def test_a_shipped_recipe_can_be_extended_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, own="extends: nano/dpo\ntrainer: {beta: 0.3}\n")
    made = load_recipe(tmp_path / "own.yaml")
    shipped: Any = load_recipe(RECIPES / "nano" / "dpo.yaml").step
    own: Any = made.step
    assert own.trainer == {**shipped.trainer, "beta": 0.3}
    assert (made.folder / own.data[0].source).resolve() == (RECIPES / "nano" / shipped.data[0].source).resolve()


# --- pipelines -------------------------------------------------------------------------------------------------------


def test_a_pipelines_step_extends_a_file_and_a_pipeline_extends_another(tmp_path: Path) -> None:
    write(
        tmp_path / "base",
        sft=BASE,
        pipeline="kind: pipeline\nsteps:\n  sft: sft.yaml\n"
        "  dpo: {kind: dpo, model: '@sft', data: [{source: p.jsonl}]}\n"
        "  fc: {extends: sft.yaml, kind: fc, model: '@dpo'}\n",
    )
    write(
        tmp_path / "own",
        pipeline="extends: ../base/pipeline.yaml\nrun: mine\nsteps:\n"
        "  sft: {extends: ../base/sft.yaml, seed: 3}\n  dpo: {seed: 4}\n  fc: {trainer: {warmup_steps: 0}}\n",
    )
    recipe = load_recipe(tmp_path / "own" / "pipeline.yaml")
    steps: Any = load_pipeline_steps(recipe, ["fc.lora=null"])
    assert (recipe.step.run, list(steps)) == ("mine", ["sft", "dpo", "fc"])
    assert [steps[name].step.seed for name in steps] == [3, 4, 42]
    assert steps["fc"].step.trainer == {"learning_rate": 1e-3, "warmup_steps": 0}
    assert (steps["fc"].step.kind, steps["fc"].step.lora) == ("fc", None)
    assert [steps[name].step.data[0].source for name in steps] == [
        "../base/a.jsonl",
        "../base/p.jsonl",
        "../base/a.jsonl",
    ]


def test_a_step_is_left_out_with_null(tmp_path: Path) -> None:
    write(
        tmp_path,
        sft=BASE,
        pipeline="kind: pipeline\nsteps: {one: sft.yaml, two: sft.yaml}\n",
        own="extends: pipeline.yaml\nsteps: {one: null}\n",
    )
    assert list(load_pipeline_steps(load_recipe(tmp_path / "own.yaml"))) == ["two"]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_problem_has_the_file_and_line_in_which_its_value_stands(tmp_path: Path) -> None:
    write(
        tmp_path,
        base=BASE.replace("max_length: 64", "max_lenght: 64"),
        own="extends: base.yaml\nseed: 1\nlora:\n  r: none\ndata:\n  - source: c.jsonl\n    wieght: 1\n",
    )
    with pytest.raises(UserErrors) as raised:
        step(tmp_path / "own.yaml")
    assert {(error.where, error.what.split(":")[0]) for error in raised.value.errors} == {
        (f"{tmp_path}/base.yaml:6", "unknown key max_lenght"),
        (f"{tmp_path}/own.yaml:4", "lora.r"),
        (f"{tmp_path}/own.yaml:7", "unknown key data.0.wieght"),
    }


def test_a_step_of_a_pipeline_has_the_places_of_what_it_extends_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        sft=BASE.replace("warmup_steps: 5", "warmup_steps: 5\nseeed: 1"),
        pipeline="kind: pipeline\nsteps:\n  sft:\n    extends: sft.yaml\n    max_lenght: 3\n",
    )
    with pytest.raises(UserErrors) as raised:
        load_pipeline_steps(load_recipe(tmp_path / "pipeline.yaml"))
    assert {error.where for error in raised.value.errors} == {f"{tmp_path}/sft.yaml:11", f"{tmp_path}/pipeline.yaml:5"}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"own": "seed: 1\nextends: bse.yaml\n", "base": BASE},
            "own.yaml:2: extends: no file 'bse.yaml', and no shipped recipe of that name → name a file",
        ),
        ({"own": "extends: own.yaml\n"}, "own.yaml:1: extends goes in a circle: own.yaml → own.yaml"),
        (
            {"own": "extends: a.yaml\n", "a": "\nextends: b.yaml\n", "b": "extends: a.yaml\n"},
            "b.yaml:1: extends goes in a circle: own.yaml → a.yaml → b.yaml → a.yaml",
        ),
        ({"own": "extends: [base.yaml]\n"}, "own.yaml:1: extends names one recipe file, but is ['base.yaml']"),
        ({"own": "extends: null\n"}, "own.yaml:1: extends names one recipe file, but is None"),
        ({"own": "extends: base.yaml\n", "base": "- 1\n"}, "base.yaml: a recipe is a mapping that begins with kind:"),
        ({"own": "extends: base.yaml\n", "base": "a: [\n"}, "base.yaml:2: not YAML: "),
        (
            {"own": "extends: base.yaml\nkind: dop\n", "base": BASE},
            "own.yaml:2: unknown kind 'dop' → did you mean dpo?",
        ),
        ({"own": "extends: base.yaml\nseed: 1\n", "base": "seed: 2\n"}, "own.yaml:1: no kind"),
    ],
)
def test_what_cannot_be_extended_is_told_with_its_place(tmp_path: Path, files: dict[str, str], told: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(UserError) as raised:
        step(tmp_path / "own.yaml")
    assert str(raised.value).startswith(f"{tmp_path}/{told}")


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_step_that_extends_is_done_when_the_same_recipe_in_one_file_is(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", chats(12))
    whole = (
        f"kind: sft\nmodel: {tiny_model}\ntemplate: chatml\ndata: [{{source: a.jsonl}}]\ntrainer: {{max_steps: 1}}\n"
    )
    write(tmp_path, base=whole, own="extends: base.yaml\nmax_length: 100\n", whole=f"{whole}max_length: 100\n")
    assert cli("sft", tmp_path / "own.yaml", "--out", tmp_path / "run").code == 0
    ran = cli("sft", tmp_path / "whole.yaml", "--out", tmp_path / "run", "--dry-run")
    assert "sft: is cached" in ran.out, ran.out + ran.err
    resolved = yaml.safe_load((tmp_path / "run" / "sft" / "recipe.yaml").read_text())
    assert (resolved["max_length"], "extends" in resolved) == (100, False)
    # A change of the file that is extended is a change of the recipe.
    (tmp_path / "base.yaml").write_text(whole + "seed: 1\n")
    assert "would run" in cli("sft", tmp_path / "own.yaml", "--out", tmp_path / "run", "--dry-run").out


def test_show_prints_what_both_files_make_and_copy_still_finds_the_other(cli: Cli, tmp_path: Path) -> None:
    shown = cli("recipes", "show", "smollm2-360m/pipeline-24gb").out
    assert shown.startswith("# ")
    tree = yaml.safe_load(shown)
    assert "extends" not in json.dumps(tree)
    assert tree["steps"]["sft"]["model"].startswith("HuggingFaceTB/SmolLM2-360M@")
    target = tmp_path / "mine" / "pipeline.yaml"
    assert cli("recipes", "copy", "smollm2-360m/pipeline-24gb", target).code == 0
    copied, shipped = load_recipe(target), load_recipe(RECIPES / "smollm2-360m" / "pipeline-24gb.yaml")
    assert {name: found.step for name, found in load_pipeline_steps(copied).items()} == {
        name: found.step for name, found in load_pipeline_steps(shipped).items()
    }


# --- the merge -------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=2) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, VALUES, max_size=3)


def paths(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every key path to what is no mapping, or an empty one."""
    if isinstance(tree, dict) and tree:
        return {found: value for key, item in tree.items() for found, value in paths(item, (*path, key)).items()}
    return {path: tree}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(MAPPINGS, MAPPINGS)
def test_merging_changes_what_is_changed_and_keeps_the_rest(base: dict[str, Any], own: dict[str, Any]) -> None:
    before = json.dumps([base, own])
    made = merge(base, own)
    assert json.dumps([base, own]) == before
    assert merge(base, {}) == base
    assert merge({}, own) == own
    assert merge(made, own) == made
    given, kept = paths(own), paths(made)
    for path, value in given.items():
        assert value == {} or kept[path] == value
    for path, value in paths(base).items():
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in given):
            assert kept[path] == value


@settings(max_examples=80, deadline=None, derandomize=True)
@given(MAPPINGS)
def test_null_removes_every_key_that_is_there(base: dict[str, Any]) -> None:
    assert merge(base, dict.fromkeys(base)) == {}
    for key, value in base.items():
        if isinstance(value, dict):
            assert merge(base, {key: dict.fromkeys(value)}) == {**base, key: {}}


def test_keys_that_may_be_paths_are_told_from_others() -> None:
    for path in (("data", 0, "source"), ("models", "x"), ("steps", "sft"), ("steps", "sft", "extends"), ("model",)):
        assert may_be_path(path), path
    for path in ((), ("kind",), ("data", 0, "split"), ("trainer", "optim"), ("tasks", "x", "benchmark")):
        assert not may_be_path(path), path
