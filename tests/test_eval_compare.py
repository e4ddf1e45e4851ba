"""Models beside each other and beside published figures: differences, their standard errors, what is marked."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, chats, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from smolalign.errors import UserError
from smolalign.eval.compare import compare
from smolalign.eval.published import MEASUREMENTS, PUBLISHED, Beside, beside, find_published
from smolalign.eval.uncertainty import clusters, error_of_difference, error_of_ratio, standard_error
from smolalign.recipe.measure import TASK_NAMES

Cli = Callable[..., Ran]


# --- standard errors -------------------------------------------------------------------------------------------------

VALUES = st.lists(st.booleans() | st.floats(-10, 10), min_size=2, max_size=30)


@given(VALUES)
def test_the_error_of_a_mean_is_that_of_its_sample(values: list[float]) -> None:
    of = clusters([{"acc": value} for value in values], "acc")
    assert error_of_ratio(of) == pytest.approx(standard_error([float(value) for value in values]), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30))
def test_the_paired_error_is_that_of_the_items_differences(pairs: list[tuple[float, float]]) -> None:
    one, other = (clusters([{"x": pair[side]} for pair in pairs], "x") for side in (0, 1))
    assert error_of_difference(one, other) == pytest.approx(standard_error([a - b for a, b in pairs]), abs=1e-9)


def test_the_error_of_a_loss_is_what_rows_drawn_anew_vary_by() -> None:
    draw = random.Random(0)
    rows = [(count * (2 + draw.gauss(0, 0.5)), count) for count in (draw.randint(1, 60) for _ in range(300))]
    drawn = []
    for _ in range(2000):
        sample = draw.choices(rows, k=len(rows))
        drawn.append(sum(nats for nats, _ in sample) / sum(tokens for _, tokens in sample))
    of = clusters([{"loss": list(row)} for row in rows], "loss")
    assert error_of_ratio(of) == pytest.approx(statistics.stdev(drawn), rel=0.06)


def test_turns_of_one_chat_are_one_cluster() -> None:
    turns = [{"row": row, "ast": row % 2 == 0} for row in range(10) for _ in range(4)]
    alone = [{"ast": row % 2 == 0} for row in range(10)]
    assert error_of_ratio(clusters(turns, "ast")) == pytest.approx(error_of_ratio(clusters(alone, "ast")))
    assert error_of_ratio(clusters([{**turn, "row": i} for i, turn in enumerate(turns)], "ast")) < 0.1


def test_only_a_metrics_own_items_count() -> None:
    samples = [{"ast": True}, {"irrelevance": False}, {"ast": "yes"}, {"ast": False}, {"ast": [1, 2, 3]}]
    assert clusters(samples, "ast") == {0: (1, 1), 3: (0, 1)}
    assert error_of_ratio({}) == 0
    assert error_of_ratio({0: (0.0, 0.0), 1: (0.0, 0.0)}) == 0


# --- models beside each other ----------------------------------------------------------------------------------------


def measured(values: dict[str, list[float]], prompts: dict[str, list[str]] | None = None) -> tuple[Any, Any]:
    """Metrics and samples of a step with one task, of one value an item."""
    samples = {
        (name, "task.a"): [
            {"prompt": (prompts or {}).get(name, list(map(str, range(99))))[i], "m.x": value}
            for i, value in enumerate(own)
        ]
        for name, own in values.items()
    }
    errors = {name: {"task.a": {"stderr": {"m.x": standard_error(own)}}} for name, own in values.items()}
    table = {name: {"task.a.m.x": statistics.fmean(own)} for name, own in values.items()}
    return {"table": table, "items": {"task": 1, "task.a": 1}, "details": errors}, samples


def test_a_difference_is_paired_where_the_items_are_the_same() -> None:
    base = [1.0, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    better = [1.0, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    metrics, samples = measured({"base": base, "better": better})
    found = compare(metrics, samples, "base")
    assert found["baseline"] == "base"
    one = found["models"]["better"]["task.a.m.x"]
    paired = standard_error([b - a for a, b in zip(base, better, strict=True)])
    assert one == {"difference": 0.3, "stderr": pytest.approx(paired, abs=1e-6), "paired": True, "beyond": False}
    apart = math.hypot(standard_error(base), standard_error(better))
    assert paired < apart
    metrics, samples = measured({"base": base, "better": better}, {"better": [f"other {i}" for i in range(10)]})
    one = compare(metrics, samples, "base")["models"]["better"]["task.a.m.x"]
    assert one == {"difference": 0.3, "stderr": pytest.approx(apart, abs=1e-6), "paired": False, "beyond": False}


def test_what_is_beyond_two_standard_errors_is_marked() -> None:
    draw = random.Random(1)
    base = [float(draw.random() < 0.4) for _ in range(90)]
    far = [1.0 if draw.random() < 0.4 else value for value in base]
    near = [1.0 if i == 0 else value for i, value in enumerate(base)]
    found = compare(*measured({"base": base, "far": far, "near": near, "same": base}), "base")["models"]
    assert [found[name]["task.a.m.x"]["beyond"] for name in ("far", "near", "same")] == [True, False, False]
    other = compare(*measured({"base": base, "far": far}), "far")["models"]["base"]["task.a.m.x"]
    assert other["difference"] == -found["far"]["task.a.m.x"]["difference"]
    assert other["stderr"] == found["far"]["task.a.m.x"]["stderr"]


def test_without_values_and_errors_nothing_is_marked() -> None:
    metrics = {"table": {"a": {"t.m": 0.1}, "b": {"t.m": 0.9}, "c": {"t.n": 1}}, "items": {"t": 5}, "details": {}}
    found = compare(metrics, {}, "a")["models"]
    assert found["b"] == {"t.m": {"difference": 0.8, "stderr": None, "paired": False, "beyond": False}}
    assert found["c"] == {}
    with pytest.raises(UserError, match="name one of a, b, c"):
        compare(metrics, {}, "d")
    # One item tells nothing of how far others may be.
    [one] = compare(*measured({"a": [0.0], "b": [1.0]}), "a")["models"]["b"].values()
    assert one["beyond"] is False


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Path:
    import torch

    from smolalign.model import load_model, load_tokenizer, save_model

    model = load_model(str(tiny_model))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30)
    save_model(model, load_tokenizer(str(tiny_model)), tmp_path / "worse")
    write_jsonl(tmp_path / "rows.jsonl", chats(12))
    models = {"first": str(tiny_model), "second": "worse", "third": str(tiny_model)}
    rows = {"data": [{"source": "rows.jsonl"}]}
    tasks = {"held-out": {"task": "loss", **rows}, "answers": {"task": "exact", "max_new_tokens": 4, **rows}}
    content = {"kind": "eval", "models": models, "tasks": tasks}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return tmp_path / "eval.yaml"


def test_the_table_of_differences_is_readable_and_in_the_manifest(cli: Cli, recipe: Path) -> None:
    out = recipe.parent / "out"
    ran = cli("eval", recipe, "--compare", "--out", out)
    assert ran.code == 0, ran.err
    manifest = json.loads((out / "eval" / "step.json").read_text(encoding="utf-8"))
    table, found = manifest["metrics"]["table"], manifest["metrics"]["comparison"]
    assert found["baseline"] == "first"
    second = found["models"]["second"]["held-out.loss"]
    assert second["paired"]
    assert second["beyond"]
    assert found["models"]["third"]["held-out.loss"] == {"difference": 0, "stderr": 0, "paired": True, "beyond": False}
    samples = [json.loads(line) for line in (out / "eval/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {name: [s["loss"] for s in samples if s["model"] == name and s["task"] == "held-out"] for name in table}
    tokens = sum(count for _, count in losses["first"])
    assert [count for _, count in losses["first"]] == [count for _, count in losses["second"]]
    by_hand = [
        (a - b - (table["second"]["held-out.loss"] - table["first"]["held-out.loss"]) * count) / tokens
        for (a, count), (b, _) in zip(losses["second"], losses["first"], strict=True)
    ]
    error = math.sqrt(12 / 11 * sum(one * one for one in by_hand))
    assert second["stderr"] == pytest.approx(error, abs=2e-6)
    lines = [line.split() for line in ran.out.splitlines()]
    loss = f"{table['second']['held-out.loss']:.3f} {second['difference']:+.3f} ± {error:.3f} *"
    assert loss in " ".join(next(line for line in lines if line[:2] == ["held-out", "loss"]))
    assert "* differs from first by more than two standard errors" in ran.out
    assert "±" not in cli("eval", recipe, "--out", out).out, "the table of stages stays narrow"
    # Another baseline needs no model, only the samples.
    turned = cli("eval", recipe, "--baseline", "second", "--out", out)
    assert "cached" in turned.out
    assert f"{-second['difference']:+.3f} ± {error:.3f} *" in turned.out
    assert max(map(len, ran.out.splitlines())) <= 100


# --- published figures -----------------------------------------------------------------------------------------------


def test_published_figures_are_those_of_the_model_cards() -> None:
    figures = {
        "smollm2-135m": {"HellaSwag": 42.1, "ARC (average)": 43.9, "PIQA": 68.4, "GSM8K (5-shot)": 1.4},
        "smollm2-360m": {"HellaSwag": 54.5, "ARC (average)": 53.0, "PIQA": 71.7},
        "smollm2-1.7b": {"HellaSwag": 68.7, "ARC (average)": 60.5, "GSM8K (5-shot)": 31.0},
        "smollm2-135m-instruct": {
            "IFEval (average prompt/inst)": 29.9,
            "MT-Bench": 1.98,
            "HellaSwag": 40.9,
            "ARC (average)": 37.3,
            "PIQA": 66.3,
        },
        "smollm2-360m-instruct": {"IFEval (average prompt/inst)": 41.0, "MT-Bench": 3.66, "ARC (average)": 43.7},
        "smollm2-1.7b-instruct": {"IFEval (average prompt/inst)": 56.7, "MT-Bench": 6.13, "GSM8K (5-shot)": 48.2},
    }
    for model, known in figures.items():
        assert {name: PUBLISHED[model][name] for name in known} == known
        assert PUBLISHED[model].keys() <= MEASUREMENTS.keys()


@pytest.mark.parametrize(
    ("name", "source", "shape", "expected"),
    [
        ("x", "HuggingFaceTB/SmolLM2-135M-Instruct@main", (576, 30), "smollm2-135m-instruct"),
        ("x", "HuggingFaceTB/SmolLM2-1.7B", (2048, 24), "smollm2-1.7b"),
        ("dpo", "/runs/mine/dpo/model", (960, 32), "smollm2-360m-instruct"),
        ("base", "/models/a", (576, 30), "smollm2-135m"),
        ("mine", "/models/a", (576, 30), None),
        ("dpo", "/runs/nano/dpo/model", (128, 4), None),
        ("other", "/replies.jsonl", (None, None), None),
    ],
)
def test_a_model_is_known_by_its_shape_and_its_name(
    name: str, source: str, shape: tuple[int | None, int | None], expected: str | None
) -> None:
    found, why = find_published(name, {"source": source, "hidden_size": shape[0], "layers": shape[1]})
    assert found == expected
    assert bool(why) is (expected is None)
    if shape == (576, 30) and expected is None:
        assert "published:smollm2-135m-instruct" in why


def a_step(**tasks: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a model named m: `task=(kind, {metric: (value, error)}, items, shots)`."""
    table: dict[str, float] = {}
    details: dict[str, Any] = {}
    for title, (kind, figures, items, shots) in tasks.items():  # type: ignore[misc]
        table |= {f"{title}.{metric}": value for metric, (value, _) in figures.items()}
        known = {"task": "benchmark", "benchmark": kind} if shots is not None else {"task": kind}
        stderr = {metric: error for metric, (_, error) in figures.items()}
        details[title] = {**known, "stderr": stderr, "items": items, "num_fewshot": shots}
    return {"table": {"m": table}, "details": {"m": details}}


def lines_of(metrics: dict[str, Any], key: str) -> dict[str, Beside]:
    return {line.name: line for line in beside(metrics, "m", key)}


def test_a_figure_stands_beside_the_published_one_with_its_error() -> None:
    figures = {"acc": (0.3, 0.01), "acc_norm": (0.415, 0.005)}
    metrics = a_step(
        hella=("hellaswag", figures, 1000, 0),
        easy=("arc_easy", {"acc_norm": (0.5, 0.03)}, 100, 0),
        hard=("arc_challenge", {"acc_norm": (0.26, 0.04)}, 100, 0),
        follow=("ifeval", {"prompt_strict": (0.2, 0.02), "inst_strict": (0.3, 0.01)}, 541, None),
        math=("gsm8k", {"exact_match_flexible_extract": (0.02, 0.004)}, 1319, 3),
        pick=("openbookqa", {"acc_norm": (0.3, 0.02)}, 500, 0),
    )  # type: ignore[arg-type]
    lines = lines_of(metrics, "smollm2-135m-instruct")
    hella = lines["HellaSwag"]
    assert (hella.here, hella.error, hella.published, hella.within) == (41.5, 0.5, 40.9, True)
    assert hella.difference == pytest.approx(0.6)
    arc = lines["ARC (average)"]
    assert (arc.here, arc.error, arc.within) == (pytest.approx(38), pytest.approx(2.5), True)
    follow = lines["IFEval (average prompt/inst)"]
    assert (follow.here, follow.error, follow.within) == (25, pytest.approx(1.5), False)
    assert "strict or loose" in follow.note
    assert "published with 5 examples, here 3" in lines["GSM8K (5-shot)"].note
    assert (lines["PIQA"].here, lines["PIQA"].published, lines["PIQA"].within) == (None, 66.3, None)
    assert (lines["pick"].here, lines["pick"].published, lines["pick"].within) == (pytest.approx(30), None, None)
    half = lines_of(a_step(easy=("arc_easy", {"acc_norm": (0.5, 0.03)}, 100, 0)), "smollm2-135m")  # type: ignore[arg-type]
    assert half["ARC (average)"].here is None
    assert half["ARC (average)"].note == "arc_challenge was not measured"


def test_where_all_items_came_out_alike_the_published_share_gives_the_error() -> None:
    def gsm8k(items: int) -> Beside:
        figures = {"exact_match_flexible_extract": (0.0, 0.0)}
        return lines_of(a_step(g=("gsm8k", figures, items, 5)), "smollm2-135m")["GSM8K (5-shot)"]  # type: ignore[arg-type]

    assert gsm8k(30).within is True, "none of 30 is no wonder at 1.4 %"
    assert gsm8k(1319).within is False


def test_marks_are_no_shares() -> None:
    metrics = a_step(mt=("mt_bench", {"score": (2.1, 0.1)}, 80, None))  # type: ignore[arg-type]
    line = lines_of(metrics, "smollm2-135m-instruct")["MT-Bench"]
    assert (line.here, line.error, line.within) == (2.1, 0.1, True)
    assert line.difference == pytest.approx(0.12)


def test_our_tasks_are_those_that_recipes_have() -> None:
    from typing import get_args

    from smolalign.recipe.measure import BenchmarkName

    kinds = {*get_args(BenchmarkName), *TASK_NAMES}
    assert {task for one in MEASUREMENTS.values() for task in one.tasks} <= kinds


def test_published_figures_are_shown_beside(cli: Cli, recipe: Path) -> None:
    out = recipe.parent / "out"
    ran = cli("eval", recipe, "--against", "published:smollm2-360m", "--out", out)
    assert ran.code == 0, ran.err
    assert "first beside smollm2-360m as published" in ran.out
    assert any(line.split() == ["PIQA", "not", "measured", "71.7", "–", "–"] for line in ran.out.splitlines())
    unknown = cli("eval", recipe, "--against", "published", "--out", out)
    assert "first: no published figures: no published model has its shape (32 wide, 2 layers)" in unknown.out
