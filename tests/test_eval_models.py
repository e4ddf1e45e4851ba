"""`smolalign eval MODEL…`: what is a model and what a recipe, which tasks, the step it runs, and what is told of
mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from conftest import Ran, chats, write_jsonl

pytest.importorskip("lm_eval")

from benchmark_sets import write_files

from smolalign.cli_eval import evaluate
from smolalign.recipe.measure import BenchmarkName, BenchmarkTask, IfEval, Loss
from smolalign.recipe.of_models import DEFAULT_TASKS, Wishes, is_recipe, recipe_of_models
from smolalign.recipe.schema import EvalStep

Cli = Callable[..., Ran]
ASK = {"key": 1, "prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.fixture
def here(roomy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of two steps, a folder of benchmarks and rows; the current one."""
    for step in ("sft", "dpo"):
        shutil.copytree(roomy_model, tmp_path / "runs" / "mine" / step / "model")
    write_files(tmp_path / "bench")
    (tmp_path / "bench" / "ifeval").mkdir()
    write_jsonl(tmp_path / "bench" / "ifeval" / "input_data.jsonl", [{**ASK, "prompt": f"Say {i}."} for i in range(5)])
    write_jsonl(tmp_path / "rows.jsonl", chats(6))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step_of(*arguments: str, **wishes: Any) -> EvalStep:
    step = recipe_of_models(arguments, Wishes(**wishes)).step
    assert isinstance(step, EvalStep)
    return step


# --- recipes and models ----------------------------------------------------------------------------------------------


def test_a_recipe_ends_in_yaml_or_is_shipped_and_all_else_is_a_model(here: Path) -> None:
    assert [is_recipe(one) for one in ("nano/eval", "nano", "gone.yaml", "x/y.yml")] == [True] * 4
    models = ["runs/mine/sft", "HuggingFaceTB/SmolLM2-135M-Instruct", "a.gguf", "@sft", "name=nano", "replies.jsonl"]
    assert [is_recipe(one) for one in models] == [False] * len(models)
    # A model that is called like a recipe is a model.
    shutil.copytree("runs/mine/sft/model", "nano/eval")
    assert not is_recipe("nano/eval")


def test_models_are_named_by_what_tells_them_apart(here: Path) -> None:
    sft, dpo = str(here / "runs/mine/sft/model"), str(here / "runs/mine/dpo/model")
    (here / "tiny.gguf").write_bytes(b"")
    named = {
        ("runs/mine/sft/model", "runs/mine/dpo"): {"sft": sft, "dpo": dpo},
        ("after=runs/mine/dpo/model", "runs/mine/sft/"): {"after": dpo, "sft": sft},
        ("sft=runs/mine/dpo", "runs/mine/sft"): {"sft": dpo, sft: sft},
        ("HuggingFaceTB/SmolLM2-135M@v1.0", "tiny.gguf"): {
            "SmolLM2-135M@v1.0": "HuggingFaceTB/SmolLM2-135M@v1.0",
            "tiny": str(here / "tiny.gguf"),
        },
        ("a/model-x", "b/model-x", "v1.5=c/d"): {"a/model-x": "a/model-x", "b/model-x": "b/model-x", "v1.5": "c/d"},
    }
    for arguments, expected in named.items():
        assert step_of(*arguments, tasks=["piqa"]).models == expected


def test_a_path_with_an_equals_sign_is_a_model_and_a_field_an_override(here: Path) -> None:
    shutil.copytree("runs/mine/sft/model", "lr=3e-4")
    step = step_of("lr=3e-4", "seed=7", "template=chatml", "tasks.piqa.num_fewshot=2", tasks=["piqa"])
    assert step.models == {"lr=3e-4": str(here / "lr=3e-4")}
    assert (step.seed, step.template, step.tasks["piqa"].num_fewshot) == (7, "chatml", 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nano/evl"], "did you mean nano/eval?"),
        (["nanoo"], "did you mean nano?"),
        (["runs/mnie"], "did you mean runs/mine?"),
        (["runs/none"], "name runs/none@main"),
        (["./gone"], "no model ./gone"),
        (["gone.gguf"], "no model gone.gguf"),
        (["batch_sise=8"], "did you mean batch_size=8?"),
        (["sft=sft"], "no recipe and no model 'sft'"),
        (["runs/mine/sft", "nano/eval"], "the recipe nano/eval stands among models"),
        (["runs/mine/sft", "runs/mine/sft"], "named twice"),
        (["a=runs/mine/sft", "a=runs/mine/dpo"], "named twice"),
        (["seed=3"], "no model to measure"),
        (["gone.yaml"], "no recipe 'gone.yaml'"),
        (["nano"], "smolalign run nano"),
        (["nano/eval", "runs/mine/sft"], "is no KEY.PATH=VALUE"),
        (["nano/eval", "--tasks", "piqa"], "go with models"),
        (["runs/mine/sft", "--tasks", "piqua"], "did you mean piqa?"),
        (["runs/mine/sft", "--tasks", "loss"], "add --data FILE"),
        (["runs/mine/sft", "--tasks", "piqa", "--data", "rows.jsonl"], "no task measures on --data"),
        (["runs/mine/sft", "--tasks", "piqa", "--data", "exact=rows.jsonl"], "name in --tasks: exact"),
        (["runs/mine/sft", "--tasks", "piqa", "--benchmarks", "runs"], "no folder piqa with the files"),
        (["runs/mine/sft", "--tasks", "piqa", "--compare"], "name another model"),
        (["runs/mine/sft", "runs/mine/dpo", "--baseline", "sfd"], "--baseline sft or dpo"),
        (["runs/mine/sft", "--against", "publishd"], "--against published"),
        (["runs/mine/sft", "--against", "published:smollm3"], "smollm2-135m-instruct"),
        (["runs/mine/sft", "--tasks", "piqa", "batch_sizes=1"], "batch_sizes"),
    ],
)
def test_a_mistake_is_told_in_one_line(here: Path, cli: Cli, arguments: list[str], told: str) -> None:
    before = set(here.rglob("*"))
    ran = cli("eval", *arguments)
    assert ran.code == 2
    assert told in ran.err
    assert ran.err.count("\n") == 1
    assert set(here.rglob("*")) == before, "nothing is left behind"


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_are_those_of_a_recipe_by_name(here: Path) -> None:
    tasks = step_of("a/b", tasks=["ifeval", "gsm8k", "mmlu_cloze", "loss"], data=["rows.jsonl"], chat=True).tasks
    rows = [{"source": str(here / "rows.jsonl")}]
    assert tasks == {
        "ifeval": IfEval(data=[{"source": "google/IFEval"}]),
        "gsm8k": BenchmarkTask(benchmark="gsm8k", chat=True),
        "mmlu_cloze": BenchmarkTask(benchmark="mmlu_cloze", chat=True),
        "loss": Loss(data=rows),
    }
    assert tuple(step_of("a/b").tasks) == DEFAULT_TASKS
    write_jsonl(here / "pairs.jsonl", [])
    own = step_of("a/b", tasks=["loss", "preference"], data=["loss=rows.jsonl", "preference=pairs.jsonl"]).tasks
    assert [Path(own[name].data[0].source).name for name in own] == ["rows.jsonl", "pairs.jsonl"]


def test_files_are_found_under_the_names_that_their_folders_have(here: Path) -> None:
    (here / "bench" / "mmlu_cloze").unlink()
    (here / "bench" / "arc_challenge").rename(here / "bench" / "ARC-Challenge")
    names = ["mmlu_cloze", "mmlu", "arc_challenge", "arc_easy", "ifeval"]
    tasks = step_of("a/b", tasks=names, benchmarks=here / "bench").tasks
    assert {name: Path(task.files).name for name, task in tasks.items() if task.task == "benchmark"} == {
        "mmlu_cloze": "mmlu",
        "mmlu": "mmlu",
        "arc_challenge": "ARC-Challenge",
        "arc_easy": "arc_easy",
    }
    assert tasks["ifeval"].data[0].source == str(here / "bench/ifeval/input_data.jsonl")


def test_help_names_every_benchmark_and_the_default_ones() -> None:
    (option,) = get_type_hints(evaluate, include_extras=True)["tasks"].__metadata__
    told = option.help
    assert all(name in told for name in (*get_args(BenchmarkName), "ifeval"))
    assert ", ".join(DEFAULT_TASKS) in told


def test_another_question_is_another_run() -> None:
    def run(*arguments: str, limit: int | None = None, **wishes: Any) -> str:
        return str(recipe_of_models(arguments, Wishes(**wishes), limit).step.run)

    asked = [
        run("a/b", tasks=["piqa"]),
        run("a/b", tasks=["gsm8k"]),
        run("a/b", tasks=["piqa"], limit=3),
        run("a/b", tasks=["piqa"], chat=True),
        run("a/c", tasks=["piqa"]),
        run("a/b", "seed=7", tasks=["piqa"]),
    ]
    assert len(set(asked)) == len(asked)
    assert run("a/b", tasks=["piqa"]) == asked[0]
    assert asked[0].startswith("eval-b-")


# --- runs ------------------------------------------------------------------------------------------------------------


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def test_models_are_measured_without_a_recipe_and_the_recipe_kept_runs_again(here: Path, cli: Cli) -> None:
    tasks = ("--tasks", "piqa,ifeval", "--tasks", "loss", "--data", "rows.jsonl", "tasks.ifeval.max_new_tokens=4")
    ran = cli("eval", "runs/mine/sft", "other=runs/mine/dpo/model", *tasks, "--benchmarks", "bench", "--limit", "4")
    assert ran.code == 0, ran.err
    [folder] = (here / "runs").glob("eval-*/eval")
    assert str(folder.relative_to(here)) in ran.out
    manifest = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    metrics = manifest["metrics"]
    assert metrics["items"] == {"piqa": 4, "ifeval": 4, "loss": 4}
    assert list(metrics["table"]) == ["sft", "other"]
    # All models get the same items, and not the first ones.
    asked = {
        name: [s.get("item", s["prompt"]) for s in samples_of(folder) if s["model"] == name]
        for name in metrics["table"]
    }
    assert asked["sft"] == asked["other"]
    assert asked["sft"][:4] != list(range(4))
    # A folder of its own, in which it is found again, by the same command and by its recipe.
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["models"] == {
        name: str(here / f"runs/mine/{step}/model") for name, step in (("sft", "sft"), ("other", "dpo"))
    }
    assert "cached" in cli("eval", folder / "recipe.yaml").out
    again = cli("eval", folder / "recipe.yaml", "--fresh", "--out", here / "again")
    assert again.code == 0, again.err
    assert (here / "again/eval/samples.jsonl").read_bytes() == (folder / "samples.jsonl").read_bytes()


def test_a_dry_run_looks_at_the_files_and_runs_nothing(here: Path, cli: Cli) -> None:
    ran = cli("eval", "Some/Model", "--tasks", "piqa", "--benchmarks", "bench", "--dry-run")
    assert ran.code == 0, ran.err
    assert "piqa, 9 rows read" in ran.out
    assert "would run into runs/eval-Model-" in ran.out


def test_limit_and_batch_size_change_a_recipe_but_no_smaller_sample(here: Path, cli: Cli) -> None:
    rows = [{"source": "rows.jsonl"}]
    tasks = {"few": {"task": "loss", "data": rows, "max_rows": 2}, "all": {"task": "loss", "data": rows}}
    recipe = {"kind": "eval", "models": {"m": "runs/mine/sft/model"}, "tasks": tasks}
    (here / "eval.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    ran = cli("eval", "eval.yaml", "seed=5", "--limit", "3", "--batch-size", "2", "--out", "out")
    assert ran.code == 0, ran.err
    manifest = json.loads((here / "out/eval/step.json").read_text(encoding="utf-8"))
    assert manifest["metrics"]["items"] == {"few": 2, "all": 3}
    assert (manifest["recipe"]["batch_size"], manifest["seed"]) == (2, 5)
    assert "figures, samples" not in ran.out


def test_adapters_are_measured_merged_into_their_base(here: Path, cli: Cli) -> None:
    write_jsonl(here / "train.jsonl", chats(4))
    lora = ("lora.r=2", "trainer.max_steps=1", "max_length=128")
    assert cli("sft", "--model", "runs/mine/sft/model", "--data", "train.jsonl", *lora, "--out", "tuned").code == 0
    ran = cli("eval", "tuned/sft/adapter", "--tasks", "loss", "--data", "rows.jsonl")
    assert ran.code == 0, ran.err
    [folder] = (here / "runs").glob("eval-sft-*/eval")
    assert list(json.loads((folder / "step.json").read_text())["metrics"]["table"]) == ["sft"]


def test_replies_of_another_model_are_measured_beside_one(here: Path, cli: Cli) -> None:
    write_jsonl(here / "other.jsonl", [{"prompt": f"Say {i}.", "response": f"{i}"} for i in range(5)])
    options = ("--tasks", "ifeval", "--benchmarks", "bench", "tasks.ifeval.max_new_tokens=4")
    ran = cli("eval", "other.jsonl", "runs/mine/sft", *options, "--compare")
    assert ran.code == 0, ran.err
    assert "ifeval prompt_strict" in ran.out


def test_a_model_that_cannot_be_asked_is_told_before_others_are_measured(here: Path, cli: Cli) -> None:
    (here / "runs/mine/dpo/model/chat_template.jinja").unlink()
    options = ("--tasks", "ifeval", "--benchmarks", "bench", "tasks.ifeval.max_new_tokens=4")
    ran = cli("eval", "runs/mine/sft", "runs/mine/dpo", *options)
    assert ran.code == 2
    assert ran.err == "error models.dpo: the model has no chat template → set template: smollm2, chatml or hermes\n"
    assert not list((here / "runs").rglob("checkpoints"))
    assert cli("eval", "runs/mine/sft", "runs/mine/dpo", *options, "template=chatml").code == 0


# --- what stands behind a figure -------------------------------------------------------------------------------------


def test_every_figure_has_its_error_its_items_its_decoding_and_its_template(here: Path, cli: Cli) -> None:
    write_jsonl(
        here / "pairs.jsonl", [{"prompt": f"Say {i}.", "chosen": f"It is {i}.", "rejected": "No."} for i in range(4)]
    )
    rows = {"data": [{"source": "rows.jsonl"}], "max_new_tokens": 3}
    tasks = {
        "answers": {"task": "exact", **rows},
        "style": {"task": "style", **rows},
        "calls": {"task": "tool_calls", **rows},
        "loss": {"task": "loss", "data": rows["data"]},
        "pairs": {"task": "preference", "data": [{"source": "pairs.jsonl"}], "reference": "a"},
        "follow": {"task": "ifeval", "data": [{"source": "bench/ifeval/input_data.jsonl"}], "max_new_tokens": 3},
        "piqa": {"task": "benchmark", "benchmark": "piqa", "files": "bench/piqa"},
    }
    recipe = {"kind": "eval", "models": {"a": "runs/mine/sft/model", "b": "runs/mine/dpo/model"}, "tasks": tasks}
    (here / "eval.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert cli("eval", "eval.yaml", "--out", "out").code == 0
    metrics = json.loads((here / "out/eval/step.json").read_text(encoding="utf-8"))["metrics"]
    for name, row in metrics["table"].items():
        for title, task in tasks.items():
            details = metrics["details"][name][title]
            own = [column.removeprefix(f"{title}.") for column in row if column.startswith(f"{title}.")]
            assert own
            assert list(details["stderr"]) == own or set(details["stderr"]) == set(own)
            assert details["task"] == task["task"]
            assert details["items"] == metrics["items"][title] == details["items_of"][own[0]]
            assert {"decoding", "template"} <= details.keys()
            generates = task["task"] in ("exact", "style", "tool_calls", "ifeval")
            assert bool(details["decoding"]) is generates
            assert bool(details["template"]) is (title != "piqa")
    decoding = {title: one["decoding"] for title, one in metrics["details"]["a"].items()}
    assert decoding["answers"] == {"do_sample": False, "max_new_tokens": 3}
    assert decoding["style"] == {"do_sample": True, "temperature": 1.0, "seed": 42, "max_new_tokens": 3}
    assert all("prompt" in sample for sample in samples_of(here / "out/eval"))
    facts = metrics["models"]["a"]
    assert (facts["hidden_size"], facts["layers"], facts["source"]) == (32, 2, str(here / "runs/mine/sft/model"))
