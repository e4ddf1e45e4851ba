"""The chain: what makes a step run again and what does not, what a step leaves, and where."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, chats, write_chain, write_jsonl

from smolalign.commands import step_state
from smolalign.errors import UserError
from smolalign.pipeline import default_run_folder, resolve, run_step
from smolalign.recipe.load import Recipe, load_pipeline_steps, load_recipe
from smolalign.report import Silent
from smolalign.store import is_done, read_manifest

Cli = Callable[..., Ran]
STEPS = ("pretrain", "smoltalk", "sft")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small chain that has run, in `run/`; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    for name, recipe in chain(write_chain(folder, STEPS).parent).items():
        run_step(name, recipe, folder / "run", Silent())
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished chain."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def chain(folder: Path, *overrides: str) -> dict[str, Recipe]:
    return load_pipeline_steps(load_recipe(folder / "pipeline.yaml"), overrides)


def done(folder: Path, *overrides: str) -> set[str]:
    """The steps that would not run again."""
    steps = chain(folder, *overrides)
    return {name for name, recipe in steps.items() if step_state(name, recipe, folder / "run") == "is cached"}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


# --- what is cached --------------------------------------------------------------------------------------------------


def test_a_finished_chain_is_cached_wherever_it_is_moved(run: Path) -> None:
    assert done(run) == set(STEPS)


def test_times_comments_spacing_key_order_and_the_runs_name_change_nothing(run: Path) -> None:
    for file in run.rglob("*.jsonl"):
        os.utime(file, (1, 1))
    edit(run / "sft.yaml", "max_length: 128\n", "\n# A comment\nmax_length:    0x80\n")
    edit(run / "smoltalk.yaml", "kind: smoltalk\n", "")
    edit(run / "smoltalk.yaml", "test_fraction: 0.2\n", "test_fraction: 0.20\nkind: smoltalk\nseed: 42\nrun: other\n")
    assert done(run) == set(STEPS)


@pytest.mark.parametrize(
    ("override", "left"),
    [
        ("sft.trainer.learning_rate=2e-3", {"pretrain", "smoltalk"}),
        ("sft.template=smollm2", {"pretrain", "smoltalk"}),
        ("sft.lora.r=2", {"pretrain", "smoltalk"}),
        ("pretrain.seed=1", {"smoltalk", "sft"}),
        ("smoltalk.test_fraction=0.3", {"pretrain", "sft"}),
    ],
)
def test_a_changed_value_makes_its_step_run_again(run: Path, override: str, left: set[str]) -> None:
    assert done(run, override) == left


def test_changed_data_makes_every_step_that_reads_it_run_again(run: Path) -> None:
    write_jsonl(run / "pairs.jsonl", [])
    assert done(run) == set(STEPS)
    edit(run / "chats.jsonl", "What is 7 + 7?", "What is 8 + 6?")
    assert done(run) == {"sft"}, "pretrain reads the chats for its tokenizer"


def test_a_changed_template_makes_the_steps_that_render_with_it_run_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolalign.pipeline.chat_template", lambda name: f"another {name}")
    assert done(run) == {"smoltalk"}


def test_a_step_runs_again_when_what_it_reads_came_out_different_and_not_otherwise(run: Path) -> None:
    smoltalk, sft = chain(run)["smoltalk"], chain(run)["sft"]
    before = resolve(sft, run / "run").fingerprint
    assert not run_step("smoltalk", smoltalk, run / "run", Silent(), fresh=True).cached
    assert resolve(sft, run / "run").fingerprint == before, "the same rows again"
    write_jsonl(run / "chats.jsonl", chats(41))
    assert not run_step("smoltalk", smoltalk, run / "run", Silent()).cached
    assert resolve(sft, run / "run").fingerprint != before
    assert done(run) == {"smoltalk"}


def test_a_second_run_says_that_all_is_cached_and_loads_no_torch(run: Path) -> None:
    code = (
        "import sys; from smolalign.cli import main; sys.argv = ['smolalign', 'run', 'pipeline.yaml', '--out', 'run']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "loaded = {'torch', 'transformers', 'trl', 'datasets', 'pyarrow'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=run, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stdout.splitlines() if "cached" in line][-1] == "everything is cached in run"
    assert ended.stdout.count("cached (took") == 3
    assert "smolalign chat run/sft/model" in ended.stdout


def test_fresh_runs_what_is_done_and_only_that_step(run: Path, cli: Cli) -> None:
    before = (run / "run" / "pretrain" / "step.json").read_text()
    (run / "run" / "smoltalk" / "data" / "stale.parquet").touch()
    ran = cli("smoltalk", run / "smoltalk.yaml", "--out", run / "run", "--fresh")
    assert (ran.code, "done in" in ran.out, "cached" in ran.out) == (0, True, False)
    assert not (run / "run" / "smoltalk" / "data" / "stale.parquet").exists()
    assert (run / "run" / "pretrain" / "step.json").read_text() == before
    assert "cached (took" in cli("smoltalk", run / "smoltalk.yaml", "--out", run / "run").out


def test_dry_run_says_what_would_run_and_runs_nothing(run: Path, cli: Cli) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "run").rglob("*")}
    ran = cli("run", run / "pipeline.yaml", "sft.seed=1", "--out", run / "run", "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines()[-4:] == [
        "nothing wrong was found",
        "pretrain: is cached",
        "smoltalk: is cached",
        f"sft: would run into {run / 'run' / 'sft'}",
    ]
    assert {path: path.stat().st_mtime_ns for path in (run / "run").rglob("*")} == before
    ran = cli("run", run / "pipeline.yaml", "--out", run / "other", "--dry-run")
    assert ran.out.splitlines()[-1] == "sft: would run, after the steps that it reads"
    assert not (run / "other").exists()


# --- what a step leaves ----------------------------------------------------------------------------------------------


def test_a_finished_step_leaves_its_manifest_recipe_metrics_and_model_and_no_checkpoints(run: Path) -> None:
    assert {path.name for path in (run / "run" / "sft").iterdir()} == {
        ".lock",
        "step.json",
        "recipe.yaml",
        "metrics.jsonl",
        "data_report.json",
        "data_report.html",
        "model",
    }
    manifest: Any = read_manifest(run / "run" / "sft")
    assert (manifest["name"], manifest["kind"], manifest["seed"], manifest["resumed"]) == ("sft", "sft", 42, False)
    assert set(manifest["inputs"]) == {"@pretrain", "@smoltalk", "@smoltalk:test"}
    assert manifest["inputs"]["@pretrain"] == (read_manifest(run / "run" / "pretrain") or {})["output"]
    assert manifest["metrics"]["steps"] == 12
    assert manifest["metrics"]["eval_loss"] < manifest["metrics"]["eval_loss_before"]
    assert manifest["truncation"]["rows_cut"] == 0
    assert manifest["versions"]["torch"]
    steps = [json.loads(line) for line in (run / "run" / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, 13))


def test_the_resolved_recipe_that_a_step_leaves_reads_the_very_same_inputs(finished: Path, cli: Cli) -> None:
    original = resolve(chain(finished)["sft"], finished / "run")
    left = load_recipe(finished / "run" / "sft" / "recipe.yaml")
    again = resolve(left, finished / "elsewhere")
    assert again.step == original.step == left.step
    assert sorted(again.inputs.values())[:1] != []
    ran = cli("check", finished / "run" / "sft" / "recipe.yaml", "--out", finished / "elsewhere")
    assert (ran.code, "nothing wrong was found" in ran.out) == (0, True), ran.err


def test_a_resolved_recipe_made_under_a_relative_out_names_its_model_absolutely(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    model = getattr(resolve(chain(run)["sft"], Path("run")).step, "model")  # noqa: B009
    assert model == str(run / "run" / "pretrain" / "model")


def test_a_step_that_fails_is_not_done_and_those_before_it_stay_so(run: Path, cli: Cli) -> None:
    ran = cli("run", run / "pipeline.yaml", "sft.max_length=16", "--out", run / "run")
    assert (ran.code, "longer than max_length 16" in ran.err) == (2, True)
    assert not (run / "run" / "sft" / "step.json").exists()
    assert not (run / "run" / "sft" / "model").exists()
    assert done(run) == {"pretrain", "smoltalk"}


def test_a_step_reads_rows_that_its_source_does_not_have(run: Path) -> None:
    edit(run / "sft.yaml", "split: test", "split: valid")
    with pytest.raises(UserError, match=r"@smoltalk has no rows of split 'valid' \(it has: test, train\)"):
        resolve(chain(run)["sft"], run / "run")


def test_a_step_that_makes_no_model_cannot_be_a_model(run: Path) -> None:
    edit(run / "sft.yaml", "@pretrain", "@smoltalk")
    with pytest.raises(UserError, match="@smoltalk has no model: it is a step of kind smoltalk"):
        resolve(chain(run)["sft"], run / "run")


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "folder"),
    [
        ("mine/pipeline.yaml", "kind: pipeline\nsteps: {a: a.yaml}\n", "runs/mine"),
        ("mine/chain.yaml", "kind: pipeline\nsteps: {a: a.yaml}\n", "runs/chain"),
        ("mine/chain.yaml", "kind: pipeline\nrun: third\nsteps: {a: a.yaml}\n", "runs/third"),
        ("mine/mix.yaml", "kind: smoltalk\ndata: [{source: a.jsonl}]\n", "runs/mine"),
        ("mine/mix.yaml", "kind: smoltalk\nrun: third\ndata: [{source: a.jsonl}]\n", "runs/third"),
    ],
)
def test_a_run_is_named_by_its_recipe_or_where_that_lies(tmp_path: Path, file: str, text: str, folder: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / file).write_text(text)
    assert default_run_folder(load_recipe(tmp_path / file)) == Path(folder)


def test_a_step_alone_goes_where_its_pipeline_puts_it(run: Path, cli: Cli) -> None:
    (run / "sft.yaml").rename(run / "second.yaml")
    edit(run / "pipeline.yaml", "sft: sft.yaml", "second: second.yaml")
    (run / "run" / "sft").rename(run / "run" / "second")
    ran = cli("sft", run / "second.yaml", "--out", run / "run")
    assert (ran.code, "second  cached" in ran.out) == (0, True), ran
    assert not is_done(run / "run" / "sft", "")
    assert not (run / "run" / "sft").exists()
