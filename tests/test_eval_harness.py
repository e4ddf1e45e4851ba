"""The published benchmarks, from files in their authors' layouts, by lm-evaluation-harness: rows, scores, samples."""

from __future__ import annotations

import json
import socket
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmark_sets import COLORS, write_files
from conftest import Ran

pytest.importorskip("lm_eval")

from datasets import Dataset, DatasetDict
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from smolalign.errors import UserError
from smolalign.eval.benchmark_files import BENCHMARKS, read_benchmark
from smolalign.eval.harness import Items, measure, read_items
from smolalign.eval.tasks import Loaded
from smolalign.eval.uncertainty import standard_error
from smolalign.model import load_model, load_tokenizer
from smolalign.recipe.measure import BenchmarkTask

Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def loaded(roomy_sharp: Path) -> Loaded:
    return Loaded(load_model(str(roomy_sharp)).eval(), load_tokenizer(str(roomy_sharp)), 4, 0)


@pytest.fixture(scope="module")
def roomy_sharp(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sharp model with room for examples."""
    folder = tmp_path_factory.mktemp("roomy-sharp") / "model"
    folder.mkdir()
    for file in sharp_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def task(files: Path, name: str, **fields: Any) -> BenchmarkTask:
    return BenchmarkTask(benchmark=name, files=str(files / name), **fields)  # type: ignore[arg-type]


def by_harness(loaded: Loaded, asked: BenchmarkTask, items: Items) -> dict[str, Any]:
    """What harness's own `hf` model gets of the same items."""
    for one in items.tasks.values():
        one.set_fewshot_seed(1234)
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1)
    results = evaluate(
        model,
        {"tasks": items.tasks, "groups": {}, "group_map": {}},
        samples=dict(items.chosen),
        bootstrap_iters=0,
        apply_chat_template=asked.chat,
        fewshot_as_multiturn=asked.chat,
    )
    return dict(results)


# Harness's own tasks with two examples in front, but for those that are slow to generate.
@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"gsm8k", "bbh", "mmlu_pro", "triviaqa"}))
def test_choices_are_scored_as_harness_own_model_scores_them(loaded: Loaded, files: Path, name: str) -> None:
    asked = task(files, name, num_fewshot=2, max_rows=7)
    items = read_items(asked, seed=3)
    scores = measure(loaded, asked, items)
    results = by_harness(loaded, asked, items)
    assert len(items) == len(scores.samples) == min(7, len(scores.samples))
    theirs = [sample for one in items.tasks for sample in results["samples"][one]]
    for ours, expected in zip(scores.samples, theirs, strict=True):
        log_probs = [resps[0][0] for resps in expected["resps"]]
        assert ours["log_probs"] == pytest.approx(log_probs, abs=1e-3, rel=1e-4)
        assert ours["acc"] == expected["acc"]
    if len(items.tasks) == 1:
        [found] = results["results"].values()
        for metric, value in scores.means.items():
            assert value == pytest.approx(found[f"{metric},none"])
    assert scores.details["num_fewshot"] == 2
    assert scores.details["items"] == len(items)


@pytest.mark.parametrize("name", ["gsm8k", "triviaqa", "mmlu_pro", "bbh"])
def test_answers_are_written_and_judged_as_by_harness_own_model(loaded: Loaded, files: Path, name: str) -> None:
    asked = task(files, name, max_rows=2)
    items = read_items(asked, seed=1)
    for one in items.tasks.values():
        one.set_config(key="generation_kwargs", value={"max_gen_toks": 12}, update=True)
    scores = measure(loaded, asked, items)
    results = by_harness(loaded, asked, items)["samples"]
    expected = [sample for one in items.tasks for sample in results[one]]
    assert [s["reply"] for s in scores.samples] == [s["resps"][0][0] for s in expected]
    assert [s["exact_match"] for s in scores.samples] == [s["exact_match"] for s in expected]
    assert scores.details["decoding"]["max_gen_toks"] == 12


def test_gsm8k_asks_in_turns_where_a_chat_template_is_applied(loaded: Loaded, files: Path) -> None:
    asked = task(files, "gsm8k", chat=True, max_rows=1)
    items = read_items(asked, seed=1)
    items.tasks["gsm8k"].set_config(key="generation_kwargs", value={"max_gen_toks": 2}, update=True)
    scores = measure(loaded, asked, items)
    assert set(scores.means) == {"exact_match_strict_match", "exact_match_flexible_extract"}
    assert scores.samples[0]["prompt"].count("<|im_start|>user") == 6, "five examples and the question"
    assert scores.details["template"]


def test_a_right_answer_is_found_in_what_is_written(files: Path) -> None:
    """The judgement of harness's filters, on answers given by hand."""
    items = read_items(task(files, "gsm8k", num_fewshot=0), seed=0)
    one = items.tasks["gsm8k"]
    one.build_all_requests()
    for number, request in enumerate(one.instances):
        request.resps = [f"It is {number + 1}.\n#### {number + 1 if number else 7}"]
    one.apply_filters()
    found = [
        one.process_results(request.doc, [request.filtered_resps["strict-match"]])["exact_match"]
        for request in one.instances
    ]
    assert found == [0.0] + [1.0] * 8


@pytest.mark.parametrize("name", ["hellaswag", "arc_easy", "winogrande", "mmlu", "gsm8k"])
def test_prompts_of_local_files_are_those_of_the_hub(files: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same rows in the place of the Hub's, harness's tasks as they are choose the same examples."""
    found = {one.task: one.splits for one in read_benchmark(name, str(files / name), with_examples=True)}
    first = next(iter(found.values()))

    def hub(path: str, name: str | None = None, **_: Any) -> DatasetDict:
        splits = found.get(f"mmlu_{name}", first)
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})

    def prompts(asked: BenchmarkTask) -> dict[str, list[Any]]:
        items = read_items(asked, seed=0)
        for one in items.tasks.values():
            one.build_all_requests()
        return {name: [request.args for request in one.instances] for name, one in items.tasks.items()}

    monkeypatch.setattr("datasets.load_dataset", hub)
    asked = task(files, name, num_fewshot=3)
    local, remote = prompts(asked), prompts(asked.model_copy(update={"files": None}))
    assert local == {name: remote[name] for name in local}
    assert len(remote) == (57 if name == "mmlu" else 1)


def test_bbh_brings_its_own_examples(files: Path) -> None:
    items = read_items(task(files, "bbh"), seed=0)
    [(name, one)] = items.tasks.items()
    assert name == "bbh_cot_fewshot_boolean_expressions"
    assert one.get_config("num_fewshot") == 3
    assert one.fewshot_context(one.eval_docs[0], 3).count("So the answer is") == 3


def test_rows_have_the_columns_of_harness_tasks(files: Path) -> None:
    def first(name: str) -> dict[str, Any]:
        return read_benchmark(name, str(files / name), with_examples=False)[0].measured[1]

    assert first("hellaswag")["label"] == "1"
    assert first("arc_challenge") == {
        "question": "What is 1?",
        "choices": {"text": ["blue", "green", "black"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    assert first("piqa") == {"goal": "To say 1", "sol1": "say hello.", "sol2": "sit 1 times on the mat.", "label": 1}
    assert first("winogrande")["answer"] == "2"
    assert first("triviaqa")["answer"] == {"aliases": ["The cat", "Cat"]}
    trivia = read_benchmark("triviaqa", str(files / "triviaqa"), with_examples=False)[0].measured
    assert [row["question"] for row in trivia][6:8] == ["Who said 6 on web-dev?", "Who said 0 on wikipedia-dev?"]
    assert first("openbookqa")["question_stem"] == "What is 2?"
    assert first("mmlu") == {"question": 'What is "1",\nsaid the dog?', "choices": COLORS[:4], "answer": 1}


def test_a_sample_follows_the_seed_and_is_not_the_beginning(files: Path) -> None:
    def chosen(seed: int) -> dict[str, list[int]]:
        return dict(read_items(task(files, "mmlu", max_rows=6, num_fewshot=0), seed).chosen)

    assert chosen(1) == chosen(1) != chosen(2)
    assert any(indexes != list(range(len(indexes))) for indexes in chosen(1).values())
    assert sum(map(len, chosen(1).values())) == 6


@pytest.mark.parametrize(
    ("name", "file", "text", "told"),
    [
        (
            "hellaswag",
            "hellaswag_val.jsonl",
            '{"endings": ["a", "b"], "ctx_a": "", "ctx_b": ""}',
            "activity_label must",
        ),
        ("hellaswag", "hellaswag_val.jsonl", '{"endings": "a"}', "endings must be a list"),
        ("arc_easy", "ARC-Easy-Test.jsonl", '{"question": "Why?"}', "question must hold a stem and choices"),
        ("winogrande", "dev.jsonl", '{"sentence": "x", "option1": "a", "option2": "b"}', "must have a _"),
        ("gsm8k", "test.jsonl", '{"question": "x", "answer": "5"}', "must end in ####"),
        ("mmlu", "test/anatomy_test.csv", "a,b,c\n", "6 cells, not 3"),
        ("mmlu", "test/anatomy_test.csv", "q,a,b,c,d,E\n", "one of A, B, C, D"),
        ("bbh", "boolean_expressions.json", '{"examples": []}', "list under 'examples'"),
        ("piqa", "valid.jsonl", '{"goal": "x", "sol1": "a", "sol2": "b"}', "no valid-labels.lst"),
    ],
)
def test_a_broken_file_is_told_with_its_place(tmp_path: Path, name: str, file: str, text: str, told: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_benchmark(name, str(tmp_path), with_examples=False)
    assert told in caught.value.line()
    assert str(tmp_path) in caught.value.line()
    if "list under" not in told and "labels" not in told:
        assert f"{path}:1" in caught.value.line()


def test_missing_examples_are_named(tmp_path: Path, files: Path) -> None:
    (tmp_path / "hellaswag_val.jsonl").write_bytes((files / "hellaswag" / "hellaswag_val.jsonl").read_bytes())
    assert read_benchmark("hellaswag", str(tmp_path), with_examples=False)
    with pytest.raises(UserError, match=r"no hellaswag_train\.jsonl with the examples"):
        read_benchmark("hellaswag", str(tmp_path), with_examples=True)


@pytest.mark.parametrize(("name", "number"), [("hellaswag", 9), ("mmlu", 10), ("bbh", 4)])
def test_more_examples_than_there_are_is_told(files: Path, name: str, number: int) -> None:
    assert read_items(task(files, name, num_fewshot=number - 1), seed=0)
    with pytest.raises(UserError, match=f"too few for num_fewshot {number}"):
        read_items(task(files, name, num_fewshot=number), seed=0)


def test_standard_errors_are_those_of_a_mean() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    assert standard_error(values) == pytest.approx(statistics.stdev(values) / 5**0.5)
    assert standard_error([1.0]) == 0


def recipe(folder: Path, model: Path, tasks: dict[str, Any], **fields: Any) -> Path:
    file = folder / "eval.yaml"
    content = {"kind": "eval", "models": {"one": str(model)}, "tasks": tasks, **fields}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def test_the_command_line_measures_benchmarks_and_shows_their_errors(
    cli: Cli, tiny_model: Path, files: Path, tmp_path: Path
) -> None:
    tasks = {
        "hellaswag": {"task": "benchmark", "benchmark": "hellaswag", "files": str(files / "hellaswag"), "max_rows": 5},
        "arc": {"task": "benchmark", "benchmark": "arc_easy", "files": str(files / "arc_easy"), "chat": True},
        "piqa": {"task": "benchmark", "benchmark": "piqa", "files": str(files / "piqa")},
    }
    file = recipe(tmp_path, tiny_model, tasks, models={"one": str(tiny_model), "two": str(tiny_model)})
    checked = cli("check", file)
    assert checked.code == 0, checked.out + checked.err
    assert "hellaswag, 9 rows read" in checked.out
    ran = cli("eval", file, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "±" in ran.out
    metrics = json.loads((tmp_path / "out" / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["items"] == {"hellaswag": 5, "arc": 9, "piqa": 9}
    assert list(metrics["table"]["one"]) == [f"{name}.{metric}" for name in tasks for metric in ("acc", "acc_norm")]
    details = metrics["details"]["one"]
    accuracy, error = metrics["table"]["one"]["piqa.acc"], details["piqa"]["stderr"]["acc"]
    assert error == pytest.approx((accuracy * (1 - accuracy) / 8) ** 0.5, abs=1e-3)
    assert details["hellaswag"]["template"] is None
    assert details["arc"]["template"]
    lines = (tmp_path / "out" / "eval" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 46
    assert [{**sample, "model": "two"} for sample in samples[:23]] == samples[23:], "a second model is asked the same"
    assert metrics["table"]["one"] == metrics["table"]["two"]
    assert len(samples[0]["log_probs"]) == len(samples[0]["choices"]) == 4
    again = cli("eval", file, "--out", tmp_path / "out")
    assert "cached" in again.out


def test_a_base_model_without_a_template_is_measured_without_one(
    cli: Cli, tiny_model: Path, files: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for source in tiny_model.iterdir():
        if source.name != "chat_template.jinja":
            (base / source.name).write_bytes(source.read_bytes())
    plain = {"task": "benchmark", "benchmark": "piqa", "files": str(files / "piqa")}
    assert not load_tokenizer(str(base)).chat_template
    assert cli("eval", recipe(tmp_path, base, {"piqa": plain}), "--out", tmp_path / "out").code == 0
    refused = cli("eval", recipe(tmp_path, base, {"piqa": {**plain, "chat": True}}), "--out", tmp_path / "out")
    assert refused.code == 2
    assert "template" in refused.err


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task": "benchmark", "benchmark": "glue"}, "hellaswag"),
        ({"task": "benchmark"}, "eval.yaml:5: tasks.x.benchmark is missing → add benchmark:"),
        (
            {"task": "benchmark", "benchmark": "piqa", "data": [{"source": "x.jsonl"}]},
            "unknown key tasks.x.data → known keys: task, max_rows, benchmark, files, num_fewshot",
        ),
        ({"task": "exact", "data": [{"source": "x.jsonl"}], "chat": True}, "chat is for task: benchmark"),
        ({"task": "exact"}, "data is missing"),
        ({"task": "benchmark", "benchmark": "piqa", "files": "nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(
    cli: Cli, tiny_model: Path, tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    ran = cli("eval", recipe(tmp_path, tiny_model, {"x": fields}), "--out", tmp_path / "out")
    assert ran.code == 2
    assert told in ran.err
    assert ran.err.count("\n") == 1


def test_without_harness_the_mend_is_told(
    cli: Cli, tiny_model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    tasks = {"piqa": {"task": "benchmark", "benchmark": "piqa", "files": str(files / "piqa")}}
    ran = cli("eval", recipe(tmp_path, tiny_model, tasks), "--out", tmp_path / "out")
    assert ran.code == 2
    assert "pip install 'smolalign[eval]'" in ran.err


def test_the_hub_out_of_reach_is_told_in_one_line(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    tasks = {"piqa": {"task": "benchmark", "benchmark": "piqa"}}
    ran = cli("eval", recipe(tmp_path, tiny_model, tasks), "--out", tmp_path / "out")
    assert ran.code == 2
    assert "cannot read piqa from the Hub" in ran.err
