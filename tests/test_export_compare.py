"""`smolalign export --compare`: the table of formats, with figures that are those of the project's own measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, write_jsonl
from test_export import refused
from test_export_quantized import int8, wide_model  # noqa: F401

from smolalign.export import measure
from smolalign.export.compare import DEFAULT_SIZE, _texts

Cli = Callable[..., Ran]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models are measured in this process, and listed: starting one for each takes seconds."""
    measured: list[str] = []

    def here(job: measure.Job) -> measure.Figures:
        measured.append(job.model)
        return measure.measure(job)

    monkeypatch.setattr(measure, "in_own_process", here)
    monkeypatch.setattr(measure, "NEW_TOKENS", 4)
    monkeypatch.setattr(measure, "TIMES", 1)
    return measured


def test_each_format_is_written_and_measured_on_the_same_texts(
    tiny_model: Path, tmp_path: Path, cli: Cli, at_once: list[str]
) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"text": "the red kite flies over the hill"}, {"text": "a blue lamp"}])
    told, out = tmp_path / "table.json", tmp_path / "out"
    command = ["export", tiny_model, "--compare", "--to", "merged,int8", "--data", tmp_path / "texts.jsonl"]
    ran = cli(*command, "--json", told, "--out", out)
    assert ran.code == 0, ran.err
    assert at_once == [str(tiny_model), str(out / "merged"), str(out / "int8")]
    table = json.loads(told.read_text(encoding="utf-8"))
    original, merged, int8 = table["rows"]  # noqa: F811
    assert [row["name"] for row in table["rows"]] == ["original", "merged", "int8"]
    assert int8["size_bytes"] == sum(f.stat().st_size for f in (out / "int8").iterdir() if f.name != "README.md")
    assert int8["size_share"] == int8["size_bytes"] / original["size_bytes"]
    assert (merged["perplexity_change"], merged["agreement"]) == (0, 1)
    assert int8["perplexity_change"] == pytest.approx(int8["perplexity"] / original["perplexity"] - 1)
    assert 0 < abs(int8["perplexity_change"]) < 0.01
    assert all(row["load_seconds"] > 0 and row["tokens_per_second"] > 0 for row in table["rows"])
    assert "texts.jsonl (2 documents, 43 bytes)" in ran.out
    # The project's own measurement of the same texts.
    evaluated = cli(
        "eval", tiny_model, "--tasks", "perplexity", "--data", tmp_path / "texts.jsonl", "--out", tmp_path / "e"
    )
    assert evaluated.code == 0, evaluated.err
    manifest = json.loads(next((tmp_path / "e").rglob("step.json")).read_text(encoding="utf-8"))
    ours = next(
        v for k, v in next(iter(manifest["metrics"]["table"].values())).items() if k.endswith("token_perplexity")
    )
    assert original["perplexity"] == pytest.approx(ours, rel=1e-5)


def test_without_data_the_text_is_our_own_and_named() -> None:
    documents, named = _texts(None)
    assert named.startswith("data/nano/heldout/pretrain.jsonl (")
    assert DEFAULT_SIZE <= sum(len(one.text) for one in documents) < 2 * DEFAULT_SIZE


def test_mistakes_of_a_comparison_end_in_one_line(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    refused(cli("export", tiny_model, "--compare", "--to", "merged,int9"), "no format 'int9' to compare")
    refused(cli("export", tiny_model, "--compare", "--to", "hub"), "no format 'hub' to compare")
    refused(cli("export", tiny_model, "--to", "merged", "--json", tmp_path / "t"), "--json is for --compare")
    refused(cli("export", tiny_model, "--compare", "--data", tmp_path / "gone.jsonl"), "gone.jsonl")
    refused(cli("export", tiny_model, "--compare", "--dtype", "float16"), "--dtype is not for --compare")


def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    int8: Path,  # noqa: F811
    tiny_model: Path,
    tmp_path: Path,
    cli: Cli,
    at_once: list[str],
) -> None:
    (tmp_path / "nf4").mkdir()
    (tmp_path / "nf4" / "mine").touch()
    refused(cli("export", int8, "--compare"), "is quantized already (int8)")
    refused(cli("export", tiny_model, "--compare", "--to", "gguf", "--types", "q6_k"), "no type 'q6_k' of weights")
    refused(cli("export", tiny_model, "--compare", "--to", "merged,nf4", "--out", tmp_path), "nf4 is there already")
    assert at_once == []
    assert [path.name for path in tmp_path.iterdir()] == ["nf4"]


@pytest.mark.slow
def test_each_model_is_measured_in_a_process_of_its_own(
    wide_model: Path,  # noqa: F811
    tmp_path: Path,
    cli: Cli,
) -> None:
    ran = cli("export", wide_model, "--compare", "--to", "nf4", "--json", tmp_path / "table.json")
    assert ran.code == 0, ran.err
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == ["original", "nf4"]
    assert rows[1]["size_bytes"] < rows[0]["size_bytes"]
    job = measure.Job(str(tmp_path / "gone"), [])
    with pytest.raises(Exception, match="gone"):
        measure.in_own_process(job)
