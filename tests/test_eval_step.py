"""The eval step measures its models side by side: the table, the samples, the showcase, and who is whose reference."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, chats, pairs, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from smolalign import console, console_eval
from smolalign.model import load_model, load_tokenizer, save_model

Cli = Callable[..., Ran]

TOOL = {"name": "f", "parameters": {}}


def eval_recipe(folder: Path, models: dict[str, str], **fields: Any) -> Path:
    write_jsonl(folder / "chats.jsonl", chats(6))
    write_jsonl(folder / "pairs.jsonl", pairs(5))
    recipe = {
        "kind": "eval",
        "models": models,
        "batch_size": 4,
        "tasks": {
            "chat": {"task": "exact", "data": [{"source": "chats.jsonl"}], "max_new_tokens": 4, "max_rows": 3},
            "pairs": {"task": "preference", "data": [{"source": "pairs.jsonl"}], "reference": "first"},
            "held-out": {"task": "loss", "data": [{"source": "chats.jsonl"}]},
        },
        "showcase": [{"prompt": "Hi", "system": "Be kind."}, {"prompt": "Call", "tools": [TOOL]}],
        **fields,
    }
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


def test_the_eval_step_gives_a_table_samples_and_a_showcase(
    cli: Cli, tiny_model: Path, sharp_model: Path, tmp_path: Path
) -> None:
    # The reference is the second row, so it is measured before the first and still printed after it.
    models = {
        "zeroth": str(sharp_model),
        "first": str(tiny_model),
        "second": str(sharp_model),
        "third": str(tiny_model),
    }
    ran = cli("eval", eval_recipe(tmp_path, models), "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    folder = tmp_path / "out" / "eval"
    metrics = json.loads((folder / "step.json").read_text(encoding="utf-8"))["metrics"]
    table = metrics["table"]
    assert list(table) == list(models)
    assert metrics["items"] == {"chat": 3, "pairs": 5, "held-out": 6}
    columns = ["chat.exact", "chat.stops", "pairs.chosen_likelier", "held-out.loss"]
    assert list(table["first"]) == columns
    assert list(table["zeroth"]) == columns, "no reward before the reference"
    assert list(table["second"]) == [*columns[:2], "pairs.reward_accuracy", *columns[2:]]
    assert table["third"]["pairs.reward_accuracy"] == 0, "the reference itself gains nothing"
    assert table["first"]["held-out.loss"] == table["third"]["held-out.loss"] != table["second"]["held-out.loss"]
    printed = ran.out[ran.out.rindex("held-out") :]
    assert [name for name in printed.split() if name in models] == list(models)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(s["model"], s["task"]) for s in samples] == [
        (name, task) for name in models for task, count in metrics["items"].items() for _ in range(count)
    ]
    gains = {
        name: [
            s["log_prob_chosen"] - s["log_prob_rejected"] for s in samples if (s["model"], s["task"]) == (name, "pairs")
        ]
        for name in models
    }
    by_hand = sum(a > b for a, b in zip(gains["second"], gains["first"], strict=True)) / 5
    assert table["second"]["pairs.reward_accuracy"] == pytest.approx(by_hand)
    assert [item["prompt"] for item in metrics["showcase"]] == ["Hi", "Call"]
    assert metrics["showcase"][0]["system"] == "Be kind."
    assert metrics["showcase"][1]["tools"] == ["f"]


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"])
def test_scoring_answers_needs_a_template_that_marks_them(
    template: str | None, cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = template
    save_model(load_model(str(tiny_model)), tokenizer, tmp_path / "model")
    ran = cli("eval", eval_recipe(tmp_path, {"first": "model"}), "--out", tmp_path / "out")
    assert ran.code == 2
    assert "chat template" in ran.err
    assert "set template: smollm2" in ran.err
    assert "Traceback" not in ran.err
    ran = cli("eval", tmp_path / "eval.yaml", "template=chatml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err


TASK, METRIC = st.sampled_from(["a", "calls", "preference"]), st.sampled_from(["x", "well_formed", "likelier"])


@given(st.sets(st.tuples(TASK, METRIC), min_size=1), st.integers(20, 60))
@settings(deadline=None)
def test_a_table_wider_than_the_screen_goes_on_below(names: set[tuple[str, str]], width: int) -> None:
    columns = [f"{task}.{metric}" for task, metric in sorted(names)]
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "out", screen)
        console_eval.print_stage_table({"table": {"m": dict.fromkeys(columns, 0.5), "other": {}}})
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    found = [cell for line in lines if line.split()[:1] == ["m"] for cell in line.split()[1:]]
    assert found == ["50.0"] * len(columns)
    heads = " ".join(lines)
    assert all(heads.count(word) == sum(word in column for column in columns) for word in ("likelier", "formed"))
    assert max(map(len, lines)) <= width
