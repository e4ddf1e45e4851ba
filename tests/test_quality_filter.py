"""`filters.quality`: rows stay by the score of a quality step's scorer, or of a published classifier."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beside_hub import bench
from conftest import Ran, write_jsonl
from hub import Files

from smolalign.data.assembly.assemble import assemble
from smolalign.data.assembly.page import render_page
from smolalign.data.assembly.plan import Assembly
from smolalign.data.load import load_rows
from smolalign.errors import UserError
from smolalign.quality.learn import learn
from smolalign.quality.load import classifier_folder, forget_scorers, scorer_of
from smolalign.quality.scorer import whole_scores
from smolalign.recipe.data import DataSource, Filters
from smolalign.report import Silent
from smolalign.store import read_json

Cli = Callable[..., Ran]
WORDS = ["water", "heat", "because", "example", "buy", "cheap", "click", "now", "number", "sum"]
ID = "HuggingFaceFW/fineweb-edu-classifier"


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of words that say nothing, of different lengths."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scorer for which `because` and `example` are worth much."""
    folder = tmp_path_factory.mktemp("scorer")
    seen = texts(150)
    wanted = [min(5.0, 60 * (text.count("because") + text.count("example")) / len(text)) for text in seen]
    learn(seen, np.array(wanted), 4000, 0, Silent()).save(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the published ones' shape: BERT with one output, random weights, cut at 40 tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("classifier")
    vocabulary = {name: place for place, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=40, pad_token="[PAD]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=1,
        problem_type="regression",
        initializer_range=0.6,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = BertForSequenceClassification(config)
    torch.nn.init.constant_(model.classifier.bias, 2.5)
    model.save_pretrained(folder)
    return folder


def files_of(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def write_rows(folder: Path, rows: list[str]) -> Path:
    return write_jsonl(folder / "rows.jsonl", [{"text": text} for text in rows])


def filtered(tmp_path: Path, reference: Path, source: Path, least: int, workers: int = 1) -> Any:
    filters = Filters.model_validate({"quality": {"scorer": str(reference), "min": least}})
    assembly = Assembly([DataSource(source=str(source))], ["rows"], "document", 0, filters)
    return assemble(assembly, tmp_path / "work", tmp_path / "out", tmp_path / "aside", Silent(), workers)


@pytest.mark.parametrize("which", ["scorer", "classifier"])
def test_rows_stay_by_their_rounded_score_and_all_are_counted(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    reference, rows = request.getfixturevalue(which), texts(60, seed=1)
    wanted = whole_scores(scorer_of(str(reference)).score(rows))
    least = min(5, max(1, int(np.median(wanted))))
    found = filtered(tmp_path, reference, write_rows(tmp_path, rows), least)
    [source] = found.report["sources"]
    assert source["dropped"]["quality"]["rows"] == (wanted < least).sum() > 0
    assert source["scores"] == {"min": least, "rows": np.bincount(wanted, minlength=6).tolist()}
    assert source["rows_kept"] == (wanted >= least).sum() > 0
    kept = [row.text for file in found.train for row in load_rows(str(found.folder / file), "document").rows]
    assert sorted(kept) == sorted(text for text, score in zip(rows, wanted, strict=True) if score >= least)
    example = found.report["examples"]["quality"][0]
    assert float(example["detail"]) < least
    assert f"From {least} on they are kept." in render_page(found.report, "a run")


@pytest.mark.slow
def test_several_processes_keep_the_same_rows(scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolalign.data.records._PART_BYTES", 1000)
    source, reports = write_rows(tmp_path, texts(60, seed=1)), []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        reports.append(filtered(folder, scorer, source, 2, workers).report)
        assert len(read_json(folder / "work/plan.json")["units"]) > 4  # type: ignore[index]
    assert reports[0] == reports[1]
    assert reports[0]["sources"][0]["dropped"]["quality"]["rows"] > 0


def test_pretraining_reads_what_the_filter_keeps(scorer: Path, tmp_path: Path, cli: Cli) -> None:
    rows = texts(60, seed=1)
    wanted = whole_scores(scorer_of(str(scorer)).score(rows))
    least = min(5, max(1, int(np.median(wanted))))
    write_rows(tmp_path, rows)
    recipe = tmp_path / "pretrain.yaml"
    beside = os.path.relpath(scorer, tmp_path)
    recipe.write_text(PRETRAIN.format(scorer=beside, least=least, more=least + 1))
    ran = cli("pretrain", recipe, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert f"in {(wanted >= least).sum()} documents" in ran.out
    manifest = json.loads((tmp_path / "run/pretrain/step.json").read_text())
    assert beside in manifest["inputs"]
    by_step, by_own, unfiltered = manifest["data"]
    assert by_step["dropped"]["quality"]["rows"] == (wanted < least).sum() > 0
    assert by_step["scores"]["rows"] == by_own["scores"]["rows"] == np.bincount(wanted, minlength=6).tolist()
    # A source's own filters are in place of the step's.
    assert by_own["rows_out"] == (wanted >= least + 1).sum() < by_step["rows_out"]
    assert (unfiltered["dropped"], unfiltered["rows_out"]) == ({}, len(rows))


PRETRAIN = """\
kind: pretrain
data:
  - {{source: rows.jsonl}}
  - {{source: rows.jsonl, name: own, filters: {{quality: {{scorer: {scorer}, min: {more}}}}}}}
  - {{source: rows.jsonl, name: whole, filters: {{}}}}
filters: {{quality: {{scorer: {scorer}, min: {least}}}}}
tokenizer: {{vocab_size: 300}}
architecture: {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
  num_key_value_heads: 2}}
stages: [{{name: all, tokens: 256}}]
max_length: 64
global_batch_size: 2
trainer: {{per_device_train_batch_size: 2, warmup_steps: 0}}
"""


def test_a_classifier_scores_each_text_as_if_it_stood_alone(classifier: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    rows = [*texts(40, seed=2), "", "because " * 500]
    with torch.no_grad():
        alone = [
            model(**tokenizer(text, return_tensors="pt", padding="longest", truncation=True)).logits.item()
            for text in rows
        ]
    assert np.ptp(alone) > 1
    assert scorer_of(str(classifier)).score(rows) == pytest.approx(alone, abs=1e-4)
    assert scorer_of(str(classifier)).score([]).shape == (0,)


def spoiled(files: Files, config: Mapping[str, Any] | None = None, without: str = "") -> Files:
    described = {**json.loads(files["config.json"]), **(config or {})}
    return {**{name: file for name, file in files.items() if name != without}, "config.json": json.dumps(described)}


@pytest.mark.parametrize(
    ("config", "without", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "", "is no classifier with one output, a score (LlamaForCausalLM)"),
        ({"id2label": {"0": "no", "1": "yes"}}, "", "(BertForSequenceClassification with 2 outputs)"),
        ({}, "model.safetensors", "it has no weights in safetensors"),
        ({}, "tokenizer.json", "it has no tokenizer.json"),
        ({"model_type": "odd", "auto_map": {"AutoConfig": "x.Y"}}, "", "cannot load the classifier"),
    ],
)
def test_what_is_no_such_classifier_is_one_line(
    classifier: Path, tmp_path: Path, config: dict[str, Any], without: str, said: str
) -> None:
    for name, content in spoiled(files_of(classifier), config, without).items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        scorer_of(str(tmp_path))
    assert said in error.value.line()
    assert "\n" not in error.value.line()


def test_pickled_weights_are_refused(classifier: Path, tmp_path: Path) -> None:
    for name, content in files_of(classifier).items():
        (tmp_path / name.replace("model.safetensors", "pytorch_model.bin")).write_bytes(content)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a pickle runs code"):
        classifier_folder(str(tmp_path), weights=True)


def write_chat_step(folder: Path, scorer: str) -> Path:
    rows = [{"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": "Yes."}]} for one in TEXTS]
    write_jsonl(folder / "chats.jsonl", rows)
    recipe = folder / "smoltalk.yaml"
    recipe.write_text(f"kind: smoltalk\ndata: [{{source: chats.jsonl}}]\nfilters: {{quality: {{scorer: {scorer}}}}}\n")
    return recipe


TEXTS = texts(40, seed=3)


def test_a_classifier_is_taken_from_the_hub(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = files_of(classifier)
    bench().empty(models={ID: files, "a/llama": spoiled(files, {"architectures": ["LlamaForCausalLM"]})})
    recipe = write_chat_step(tmp_path, f"{ID}@main")
    checked = bench().run("check", recipe)
    assert f"{ID}@main: a classifier, bert" in checked.out, checked.err
    assert not bench().hub.fetched("safetensors")
    ran = bench().run("smoltalk", recipe, "--out", "run")
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "run/smoltalk/data_report.json").read_text())
    said = [f"{text}\nYes." for text in TEXTS]
    expected = whole_scores(scorer_of(str(classifier)).score(said))
    assert report["sources"][0]["scores"]["rows"] == np.bincount(expected, minlength=6).tolist()
    assert "educational value of chats.jsonl, in rows: 0: " in ran.out
    for command in ("check", "smoltalk"):
        refused = bench().run(command, write_chat_step(tmp_path, "a/llama"), *(["--out", "r"] * (command != "check")))
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert "a/llama is no classifier with one output, a score (LlamaForCausalLM)" in refused.err


def test_a_step_of_the_same_run_is_the_scorer(tmp_path: Path, cli: Cli) -> None:
    rows = [{"text": text, "score": 5 if "because" in text else 0} for text in texts(60)]
    write_jsonl(tmp_path / "annotated.jsonl", rows)
    write_chat_step(tmp_path, '"@quality"')
    (tmp_path / "quality.yaml").write_text("kind: quality\ndata: [{source: annotated.jsonl}]\ntest_fraction: 0.2\n")
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("kind: pipeline\nsteps: {quality: quality.yaml, smoltalk: smoltalk.yaml}\n")
    assert "nothing wrong was found" in cli("check", pipeline, "--out", tmp_path / "run").out
    ran = cli("run", pipeline, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "run/smoltalk/step.json").read_text())
    assert manifest["data"][0]["dropped"]["quality"]["rows"] > 0
    made = json.loads((tmp_path / "run/quality/step.json").read_text())
    assert manifest["inputs"]["@quality"] == made["output"]
    assert "everything is cached" in cli("run", pipeline, "--out", tmp_path / "run").out
    write_jsonl(tmp_path / "annotated.jsonl", rows[:-10])
    again = cli("run", pipeline, "--out", tmp_path / "run")
    assert again.code == 0
    assert "cached" not in again.out


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ('"@nothing"', "@nothing is no earlier step and has not been run"),
        ('"@before"', "@before gives no scorer: it is a step of kind smoltalk"),
        ("./gone", "no scorer ./gone"),
        (".", "it has neither scorer.json nor config.json"),
        ("quality", "write quality/scorer"),
    ],
)
def test_check_says_what_is_no_scorer(tmp_path: Path, cli: Cli, scorer: str, said: str) -> None:
    write_chat_step(tmp_path, scorer)
    (tmp_path / "quality/scorer").mkdir(parents=True)
    (tmp_path / "quality/scorer/scorer.json").write_text("{}")
    (tmp_path / "before.yaml").write_text("kind: smoltalk\ndata: [{source: chats.jsonl}]\n")
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("kind: pipeline\nsteps: {before: before.yaml, smoltalk: smoltalk.yaml}\n")
    ran = cli("check", pipeline, "--out", tmp_path / "run")
    assert ran.code == 2
    assert said in ran.err


def test_a_scorer_beside_a_recipe_is_known_by_its_content(scorer: Path, tmp_path: Path) -> None:
    from smolalign.pipeline import resolve
    from smolalign.recipe.load import load_recipe

    recipe = load_recipe(write_chat_step(tmp_path, "own"))
    (tmp_path / "own").mkdir()
    fingerprints = []
    for name, text in (("", ""), ("README.md", "words"), ("scorer.json", "{}")):
        for file in scorer.iterdir() if not name else ():
            (tmp_path / "own" / file.name).write_bytes(file.read_bytes())
        if name:
            (tmp_path / "own" / name).write_text(text)
        resolved = resolve(recipe, tmp_path / "run")
        fingerprints.append(resolved.fingerprint)
        assert resolved.step.filters.quality.scorer == str(tmp_path / "own")  # type: ignore[attr-defined]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.fixture(autouse=True)
def unloaded() -> None:
    forget_scorers()
