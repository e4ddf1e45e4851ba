"""A killed evaluation goes on where it stopped, and ends with what one that was not killed ends with, to the byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, chats, pairs, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lm_eval")

from benchmark_sets import write_files

from smolalign.errors import UserError
from smolalign.eval.journal import Finished, Journal

Cli = Callable[..., Ran]


class Killed(BaseException):
    """What a test ends a run with."""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Count what journals keep, and end the run at some of it; gives the keys that were kept."""
    keep = Journal.keep

    def prepare(at_most: int | None = None) -> list[str]:
        keys: list[str] = []

        def counted(self: Journal, key: str, value: Any) -> None:
            if at_most is not None and len(keys) == at_most:
                raise Killed
            keep(self, key, value)
            keys.append(key)

        monkeypatch.setattr(Journal, "keep", counted)
        return keys

    return prepare


@pytest.fixture(scope="module")
def recipe(roomy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eval recipe of all kinds of measurement, of two models."""
    folder = tmp_path_factory.mktemp("all")
    write_files(folder / "benchmarks")
    write_jsonl(folder / "chats.jsonl", chats(7))
    write_jsonl(folder / "pairs.jsonl", pairs(6))
    ask = {"key": 1, "prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write_jsonl(folder / "input_data.jsonl", [{**ask, "prompt": f"Say {i}."} for i in range(4)])
    rows = [{"source": "chats.jsonl"}]
    files = {name: {"task": "benchmark", "benchmark": name, "files": f"benchmarks/{name}"} for name in ("piqa", "bbh")}
    tasks = {
        "answers": {"task": "exact", "data": rows, "max_new_tokens": 5},
        "style": {"task": "style", "data": rows, "max_new_tokens": 5},
        "pairs": {"task": "preference", "data": [{"source": "pairs.jsonl"}], "reference": "one"},
        "loss": {"task": "loss", "data": rows},
        "follow": {"task": "ifeval", "data": [{"source": "input_data.jsonl"}], "max_new_tokens": 5},
        "piqa": files["piqa"],
        "bbh": {**files["bbh"], "max_rows": 1},
    }
    models = {"one": str(roomy_model), "two": str(roomy_model)}
    content = {"kind": "eval", "models": models, "tasks": tasks, "batch_size": 2, "showcase": [{"prompt": "Hi"}]}
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def found(folder: Path) -> tuple[bytes, Any]:
    metrics = json.loads((folder / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    return (folder / "eval" / "samples.jsonl").read_bytes(), metrics


@pytest.mark.parametrize("at_once", [2, 9, 23])
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    at_once: int, cli: Cli, recipe: Path, kept: Callable[..., list[str]], tmp_path: Path
) -> None:
    # A short chain is enough where each run keeps two answers.
    short = [f"tasks.{name}.max_rows=3" for name in ("answers", "style", "pairs", "loss", "follow", "piqa")]
    change = ["models={one: " + yaml.safe_load(recipe.read_text())["models"]["one"] + "}", *short]
    change = change if at_once == 2 else []
    whole = kept()
    ran = cli("eval", recipe, *change, "--out", tmp_path / "whole")
    assert ran.code == 0, ran.err
    runs, again = 0, list[str]()
    while not (tmp_path / "killed" / "eval" / "step.json").exists():
        keys = kept(at_once)
        runs += 1
        try:
            assert cli("eval", recipe, *change, "--out", tmp_path / "killed").code == 0
        except Killed:
            # A kill tears the line that is being written.
            for journal in (tmp_path / "killed/eval/checkpoints/eval").glob("*.jsonl"):
                with journal.open("ab") as stream:
                    stream.write(b'["torn", ' if runs % 2 else b"[")
        again += keys
    assert found(tmp_path / "killed") == found(tmp_path / "whole")
    assert runs > len(whole) / at_once / 2
    assert set(again) == set(whole)
    # A batch that was cut off in its middle is computed again; nothing else is.
    assert len(again) <= len(whole) + runs * 4
    assert not (tmp_path / "killed/eval/checkpoints").exists()


def test_measurements_that_are_done_are_not_made_again(
    cli: Cli, recipe: Path, kept: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smolalign.eval import run

    assert cli("eval", recipe, "--out", tmp_path / "whole").code == 0
    monkeypatch.setattr(run, "write_text", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        cli("eval", recipe, "--out", tmp_path / "killed")
    monkeypatch.undo()
    loaded: list[str] = []
    load = run.load_model
    monkeypatch.setattr(run, "load_model", lambda reference: loaded.append(reference) or load(reference))  # type: ignore[func-returns-value]
    keys = kept()
    ran = cli("eval", recipe, "--out", tmp_path / "killed")
    assert ran.code == 0, ran.err
    assert "taking up" in ran.out
    assert not keys
    assert len(loaded) == 1, "the showcase alone needs its model"
    assert found(tmp_path / "killed") == found(tmp_path / "whole")
    assert "taking up" not in cli("eval", recipe, "--out", tmp_path / "killed", "--fresh").out


def test_a_process_that_is_killed_outright_leaves_what_it_found(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "smolalign.cli", "eval", str(recipe), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {})
    journals, ended = tmp_path / "killed/eval/checkpoints/eval", time.monotonic() + 120
    while not list(journals.glob("*.json*")) and process.poll() is None and time.monotonic() < ended:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    ran = cli("eval", recipe, "--out", tmp_path / "killed")
    assert ran.code == 0, ran.err
    assert "taking up" in ran.out
    assert cli("eval", recipe, "--out", tmp_path / "whole").code == 0
    assert found(tmp_path / "killed") == found(tmp_path / "whole")


@given(st.lists(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4), max_size=6), st.data())
def test_a_journal_gives_back_all_lines_that_are_whole(values: list[Any], data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "journal.jsonl"
        first = Journal(file, "model")
        recalled = first.of("reply", list(range(len(values))))
        for index, value in enumerate(values):
            recalled.keep(index, value)
        first.close()
        content = file.read_bytes() if values else b""
        left = data.draw(st.integers(0, len(content)))
        file.write_bytes(content[:left])
        whole = content[:left].count(b"\n")
        second = Journal(file, "model")
        assert second.of("reply", list(range(len(values)))).known == dict(enumerate(values[:whole]))
        again = second.of("reply", list(range(len(values))))
        for index, value in enumerate(values):
            again.keep(index, value)
        second.close()
        assert file.read_bytes() == content
        assert not Journal(file, "another").of("reply", list(range(len(values)))).known
        assert not Journal(file, "model").of("score", list(range(len(values)))).known


def test_the_place_of_a_question_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "model")
    journal.of("reply", ["a", "b"]).keep(0, "x")
    journal.close()
    again = Journal(tmp_path / "journal.jsonl", "model")
    assert again.of("reply", ["a", "a"]).known == {0: "x"}
    assert again.of("reply", ["b", "a"]).known == {}


def test_a_record_that_is_not_whole_counts_for_nothing(tmp_path: Path) -> None:
    finished = Finished(tmp_path)
    finished.write({"measured": {}}, "model", "task")
    assert finished.read("model", "task") == {"measured": {}}
    assert finished.read("model", "other") is None
    [file] = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:-3])
    assert finished.read("model", "task") is None


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    journal = Journal(tmp_path / "journal.jsonl")
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="cannot write"):
        journal.of("reply", ["a"]).keep(0, "x")
