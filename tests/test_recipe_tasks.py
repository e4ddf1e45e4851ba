"""The tasks of an eval recipe: each has fields of its own, and what is wrong with one is told in the file's terms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from conftest import Ran

from smolalign.errors import UserErrors
from smolalign.eval.tasks import TASKS
from smolalign.recipe.load import dump_recipe, load_recipe
from smolalign.recipe.measure import TASK_FILES, TASK_NAMES, AnyOnData, BenchmarkTask
from smolalign.recipe.tree import PATH_KEYS

Cli = Callable[..., Ran]
DATA = [{"source": "a.jsonl"}]
JUDGE = {"url": "http://127.0.0.1:1/v1", "model": "gpt"}
# What each task needs.
NEEDED: dict[str, dict[str, Any]] = {
    **{name: {"data": DATA} for name in TASK_NAMES},
    "benchmark": {"benchmark": "piqa"},
    "needle": {},
    "mt_bench": {"data": DATA, "judge": JUDGE},
    "pairwise": {"data": DATA, "judge": JUDGE, "reference": "a"},
}


def recipe(folder: Path, **tasks: Any) -> Path:
    file = folder / "eval.yaml"
    content = {"kind": "eval", "models": {"a": "m", "b": "m"}, "tasks": tasks}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def test_every_task_has_a_measurement_and_no_field_of_another() -> None:
    assert set(TASK_NAMES) == set(TASKS) == set(NEEDED)
    fields = {one.model_fields["task"].default: set(one.model_fields) for one in (*get_args(AnyOnData), BenchmarkTask)}
    assert fields["loss"] == {"task", "max_rows", "data"}
    assert fields["benchmark"] == {"task", "max_rows", "benchmark", "files", "num_fewshot", "chat"}
    assert fields["style"] == {"task", "max_rows", "data", "max_new_tokens", "max_words", "unwanted"}
    assert set(TASK_FILES) <= set().union(*fields.values())


def test_files_that_tasks_name_are_paths_of_their_recipe() -> None:
    assert set(TASK_FILES) <= PATH_KEYS


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_task_that_is_written_has_its_own_fields_and_reads_back_the_same(name: str, tmp_path: Path) -> None:
    step: Any = load_recipe(recipe(tmp_path, one={"task": name, **NEEDED[name]})).step
    written = dump_recipe(step)
    assert list(yaml.safe_load(written)["tasks"]["one"]) == list(type(step.tasks["one"]).model_fields)
    (tmp_path / "again.yaml").write_text(written, encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml").step == step


def test_longest_replies_are_those_of_the_task(tmp_path: Path) -> None:
    tasks = {name: {"task": name, **needed} for name, needed in NEEDED.items()}
    step: Any = load_recipe(recipe(tmp_path, **tasks)).step
    assert {name: getattr(task, "max_new_tokens", None) for name, task in step.tasks.items()} == {
        "exact": 128,
        "style": 128,
        "tool_calls": 128,
        "ifeval": 1280,
        "needle": 32,
        "mt_bench": 1024,
        "pairwise": 1024,
        **dict.fromkeys(["preference", "loss", "perplexity", "benchmark"]),
    }


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"task": "style", "max_wordz": 3}, "8: unknown key tasks.style.max_wordz → did you mean max_words?"),
        ({"task": "style", "data": [{"sorce": "a"}]}, "9: unknown key tasks.style.data.0.sorce → did you mean source?"),
        ({"task": "style", "max_words": 0}, "8: tasks.style.max_words: input should be greater than or equal to 1"),
        ({"task": "loss", "zzzz": 3}, "8: unknown key tasks.style.zzzz → known keys: task, max_rows, data"),
        (
            {"task": "loss", "lengths": [9]},
            "8: tasks.style: lengths is for task: needle, this one is loss → known keys: task, max_rows, data",
        ),
        (
            {"task": "loss", "reference": "a"},
            "8: tasks.style: reference is for task: preference and pairwise, this one is loss → known keys: ",
        ),
        ({"task": "loss", "max_new_tokens": 9}, "8: unknown key tasks.style.max_new_tokens → known keys: task, max_r"),
        ({"task": "benchmark", "benchmark": "x"}, "8: tasks.style.benchmark: input should be 'hellaswag', "),
        ({"task": "benchmark", "benchmrk": "x"}, "8: unknown key tasks.style.benchmrk → did you mean benchmark?"),
        ({"task": "stile"}, "7: tasks.style.task: unknown task 'stile' → did you mean style?"),
        ({"task": "xyz"}, "7: tasks.style.task: unknown task 'xyz' → use one of exact, style, preference, "),
        ({"task": None}, "7: tasks.style.task: unknown task None → use one of exact, "),
        ({"task": ["style"]}, "7: tasks.style.task: unknown task ['style'] → did you mean style?"),
        ({"data": []}, "6: tasks.style.task is missing → add task: exact, style, preference, "),
        ({}, "6: tasks.style.task is missing → add task: exact, style, preference, "),
        (5, "6: tasks.style is 5, not a block of keys → begin it with task: exact, "),
        ([{"task": "style"}], "6: tasks.style is a list, not a block of keys → begin it with task: "),
        (None, "6: tasks.style is None, not a block of keys → begin it with task: exact, "),
    ],
)
def test_what_is_wrong_with_a_task_is_told_with_its_key_its_line_and_the_mend(
    task: Any, told: str, tmp_path: Path
) -> None:
    file = recipe(tmp_path, style=task)
    with pytest.raises(UserErrors) as caught:
        load_recipe(file)
    assert any(error.line().startswith(f"{file}:{told}") for error in caught.value.errors), caught.value


def test_every_mistake_of_several_tasks_is_told_by_check(cli: Cli, tmp_path: Path) -> None:
    tasks = {"one": {"task": "styel"}, "two": {"task": "exact"}, "style": {"task": "needle", "stride": 2}}
    ran = cli("check", recipe(tmp_path, **tasks))
    assert ran.code == 2
    told = " ".join(ran.err.split())
    assert "tasks.one.task: unknown task 'styel' → did you mean style?" in told
    assert "tasks.two.data is missing → add data:" in told
    assert "tasks.style: stride is for task: perplexity, this one is needle" in told
    assert len(ran.err.splitlines()) == 3


def test_a_field_can_be_set_and_mistaken_on_the_command_line(tmp_path: Path) -> None:
    file = recipe(tmp_path, one={"task": "loss", "data": DATA})
    step: Any = load_recipe(file, ["tasks.one.task=style", "tasks.one.max_words=3"]).step
    assert (step.tasks["one"].task, step.tasks["one"].max_words) == ("style", 3)
    with pytest.raises(UserErrors, match=r"tasks\.one: max_words is for task: style, this one is loss"):
        load_recipe(file, ["tasks.one.max_words=3"])
