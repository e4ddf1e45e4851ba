"""The card of a model: what the Hub's own library reads of it, what it tells, and what it never tells."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Ran, chats, write_jsonl
from exported import finished_run
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from training import run as run_recipe
from training import write_recipe

from smolalign.commands import step_state
from smolalign.export.card import Card, metadata, render
from smolalign.export.facts import Facts, read_facts
from smolalign.export.licences import DATASETS, MODELS
from smolalign.export.provenance import Made, Provenance, Score, provenance, tokens_seen
from smolalign.export.public import WITHHELD, public, public_text
from smolalign.inputs import resolve_model
from smolalign.pipeline import run_step
from smolalign.recipe.load import load_pipeline_steps, load_recipe
from smolalign.report import Silent
from smolalign.store import read_manifest

Cli = Callable[..., Ran]


@pytest.fixture
def finished() -> Path:
    """A run that nobody changes."""
    return finished_run()


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, beside its recipes."""
    return Path(shutil.copytree(finished.parent, tmp_path / "copy")) / "run"


def card_of(step: Path) -> ModelCard:
    return ModelCard.load(step / "model" / "README.md")


def exported_card(step: Path, **own: Any) -> str:
    """The card as an export writes it, with the scores."""
    manifest = read_manifest(step)
    assert manifest
    return render(Card("name", "a/b", read_facts(step / "model"), provenance(step, manifest), **own))


def row(card: str, *cells: str, section: str = "") -> list[str]:
    """The cells of the one line of a table, in a section if it is named, that begins so."""
    start = "| " + " | ".join(cells) + " |"
    part = card.partition(f"\n## {section}\n")[2].partition("\n## ")[0] if section else card
    (line,) = [line for line in part.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def edit_manifest(step: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((step / "step.json").read_text(encoding="utf-8"))
    change(manifest)
    (step / "step.json").write_text(json.dumps(manifest), encoding="utf-8")


# --- what a step leaves ----------------------------------------------------------------------------------------------


def test_each_step_that_trains_leaves_a_card_that_the_hubs_library_reads(finished: Path) -> None:
    data = card_of(finished / "sft").data
    assert isinstance(data, ModelCardData)
    assert data.to_dict() == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["smolalign", "pretraining", "sft", "trl", "conversational"],
    }
    assert "sft" not in card_of(finished / "pretrain").data.tags
    assert not (finished / "smoltalk" / "model").exists()


def test_the_card_tells_rows_in_rows_dropped_and_why_and_rows_trained_on(finished: Path) -> None:
    text = card_of(finished / "sft").text
    assert row(text, "`smoltalk`", "`chats.jsonl`")[2:] == ["43", "equal to another row: 3", "40", "not known"]
    assert row(text, "`sft`", "`@smoltalk`")[2:] == ["35", "none", "35", "see above"]
    manifest = read_manifest(finished / "sft")
    assert manifest
    tokens = f"{manifest['truncation']['tokens']:,}"
    assert row(text, "`sft`", "all")[2:] == ["35", tokens, "0 (0)", "0 (0)"]
    assert row(text, "`sft`", "held out")[2] == "5"
    seen = f"{tokens_seen(finished / 'sft' / 'metrics.jsonl'):,}"
    assert row(text, "`sft`", "sft", "`@pretrain`")[3:6] == ["35", "12", seen]


def test_rows_that_are_cut_are_in_the_card(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [
        *chats(3),
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So. " * 99}]},
    ]
    recipe = write_recipe(
        tmp_path, "sft", rows, trainer={}, model=str(tiny_model), template="chatml", max_length=64, max_cut=0.5
    )
    text = card_of(run_recipe(cli, "sft", recipe)).text
    cut = row(text, "`sft`", "`rows.jsonl`", section="Rows trained on")[4]
    assert re.fullmatch(r"1 \([1-9]\d+\)", cut), cut


def test_the_card_tells_what_it_was_trained_with_and_where(finished: Path) -> None:
    text = card_of(finished / "sft").text
    assert row(text, "`learning_rate`")[1:] == ["0.001", "0.001"]
    assert row(text, "`rows_per_step`")[1:] == ["4", "4"]
    assert row(text, "`adam_beta2`")[1:] == ["0.999", "0.999"]
    manifest = read_manifest(finished / "sft")
    assert manifest
    hardware = manifest["hardware"]
    assert hardware["cpu"]
    assert hardware["cores"] >= 1
    assert hardware["memory_bytes"] > 2**28
    assert hardware["gpu"] is None
    where = next(line for line in text.splitlines() if line.startswith("| `sft` |") and hardware["cpu"] in line)
    assert f"torch {manifest['versions']['torch']}" in where
    assert f"| {manifest['seed']} |" in where


def test_the_recipes_in_the_card_read_back(finished: Path, tmp_path: Path) -> None:
    text = card_of(finished / "sft").text
    blocks = re.findall(r"```yaml\n(.*?)\n```", text, flags=re.DOTALL)
    assert [yaml.safe_load(block)["kind"] for block in blocks] == ["pretrain", "smoltalk", "sft"]
    (tmp_path / "sft.yaml").write_text(blocks[-1], encoding="utf-8")
    step: Any = load_recipe(tmp_path / "sft.yaml").step
    assert (step.model, step.data[0].source, step.trainer["max_steps"]) == ("@pretrain", "@smoltalk", 12)


def test_the_example_in_the_card_runs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = card_of(finished / "sft").text
    (code,) = re.findall(r"```python\n(.*?)\n```", text, flags=re.DOTALL)
    monkeypatch.chdir(finished.parent)
    said: list[str] = []
    exec(code.replace("=128", "=4"), {"print": said.append})
    assert isinstance(said[0], str)


# --- the card and what is cached -------------------------------------------------------------------------------------


def test_another_card_runs_no_step_again(run: Path) -> None:
    steps = load_pipeline_steps(load_recipe(run.parent / "pipeline.yaml"))
    (run / "pretrain" / "model" / "README.md").write_text("another", encoding="utf-8")
    (run / "sft" / "model" / "README.md").unlink()
    assert {name: step_state(name, recipe, run) for name, recipe in steps.items()} == dict.fromkeys(steps, "is cached")


def test_a_step_run_again_has_the_same_output_though_its_card_tells_another_time(run: Path) -> None:
    steps = load_pipeline_steps(load_recipe(run.parent / "pipeline.yaml"))
    first, card = read_manifest(run / "pretrain"), run / "pretrain" / "model" / "README.md"
    card.write_text("of a run that took another time", encoding="utf-8")
    run_step("pretrain", steps["pretrain"], run, Silent(), fresh=True)
    again = read_manifest(run / "pretrain")
    assert first is not None
    assert again is not None
    assert again["output"] == first["output"]
    assert "of a run that took another time" not in card.read_text(encoding="utf-8")
    assert step_state("sft", steps["sft"], run) == "is cached"


def test_a_model_folder_is_the_same_input_whatever_its_card(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "sft", chats(2), trainer={}, model="model")
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    digests = [resolve_model("model", load_recipe(recipe), tmp_path)[1]]
    for text in ("one", "two"):
        (model / "README.md").write_text(text, encoding="utf-8")
        digests.append(resolve_model("model", load_recipe(recipe), tmp_path)[1])
    assert len(set(digests)) == 1
    (model / "generation_config.json").write_text("{}", encoding="utf-8")
    assert resolve_model("model", load_recipe(recipe), tmp_path)[1] not in digests


# --- the chain -------------------------------------------------------------------------------------------------------


def test_a_step_that_ran_again_since_is_told_as_not_known(run: Path) -> None:
    edit_manifest(run / "pretrain", lambda manifest: manifest.update(output="other"))
    text = exported_card(run / "sft")
    assert "- Not known: the step pretrain has run again since; what it was before is not known." in text
    assert "Recipe of <code>pretrain</code>" not in text
    shutil.rmtree(run / "pretrain")
    assert "- Not known: the step pretrain is not there any more." in exported_card(run / "sft")


def test_rows_that_were_assembled_anew_are_told_as_not_known(run: Path) -> None:
    rows = next((run / "smoltalk" / "data").glob("train-*.parquet"))
    shutil.copy(next((run / "smoltalk" / "data").glob("test-*.parquet")), rows)
    assert "the step smoltalk has run again since" in exported_card(run / "sft")


def test_the_chain_goes_on_in_the_run_that_a_model_came_from(run: Path, tmp_path: Path, cli: Cli) -> None:
    recipe = write_recipe(tmp_path / "other", "sft", chats(4), trainer={}, model=str(run / "sft" / "model"))
    step = run_recipe(cli, "sft", recipe, "template=chatml")
    assert "Made with smolalign: `pretrain` → `smoltalk` → `sft` → `sft`." in card_of(step).text
    # Another model lies there by now.
    edit_manifest(run / "sft", lambda manifest: manifest.update(output="other"))
    assert "Training began with `model`." in exported_card(step)


def test_a_base_on_the_hub_is_named_with_its_licence() -> None:
    step = made("sft", {"model": "HuggingFaceTB/SmolLM2-135M@main", "data": []})
    origin = Provenance([step], root="HuggingFaceTB/SmolLM2-135M@main")
    data, text = parsed(Card("x", "x", FACTS, origin))
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert data["license"] == "unknown"
    assert "- `HuggingFaceTB/SmolLM2-135M@main`: apache-2.0." in text


def test_sets_are_named_with_their_licences_where_these_are_known_and_never_guessed() -> None:
    sources = [
        "HuggingFaceTB/smol-smoltalk",
        "HuggingFaceH4/ultrafeedback_binarized",
        "somebody/something",
        "/a/b.jsonl",
    ]
    entries = [{"source": Path(name).name, "rows_in": 3, "rows_out": 2, "dropped": {}} for name in sources]
    step = made("sft", {"data": [{"source": name} for name in sources]}, data=entries)
    data, text = parsed(Card("x", "x", FACTS, Provenance([step])))
    assert data["datasets"] == sources[:3]
    assert "language" not in data
    said = ["apache-2.0", "mit", "not known", "not known"]
    assert [row(text, "`sft`", f"`{e['source']}`")[-1] for e in entries] == said
    known = made("sft", {"data": [{"source": name} for name in sources[:2]]}, data=entries[:2])
    assert parsed(Card("x", "x", FACTS, Provenance([known])))[0]["language"] == ["en"]


def test_the_embedded_data_has_the_projects_licence() -> None:
    from smolalign.recipe.shipped import SHIPPED

    source = str(SHIPPED / "data" / "nano" / "train" / "chats.jsonl")
    step = made("sft", {"data": [{"source": source}]}, data=[{"source": "chats.jsonl", "dropped": {}}])
    data, text = parsed(Card("x", "x", FACTS, Provenance([step])))
    assert row(text, "`sft`", "`chats.jsonl`")[-1] == "apache-2.0"
    assert (data["language"], "datasets" in data) == (["en"], False)


def test_the_table_of_licences_names_hub_ids_and_the_hubs_identifiers() -> None:
    for name, published in {**DATASETS, **MODELS}.items():
        assert name.count("/") == 1
        assert re.fullmatch(r"[a-z0-9.-]+|not named by its card", published.licence)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_this_model_with_their_standard_errors(run: Path) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["metrics"]["table"]["sft"]["answers.exact"] = 0.25
        manifest["metrics"]["details"]["sft"] = {"answers": {"stderr": {"exact": 0.21651}}}

    edit_manifest(run / "eval", add)
    card = ModelCard(exported_card(run / "sft"))
    scores = {score.metric_name: score for score in card.data.eval_results}
    assert scores.keys() == {"exact", "stops", "loss"}
    assert (scores["exact"].metric_value, scores["exact"].dataset_type) == (0.25, "exact")
    assert card.data.model_name == "name"
    assert row(card.text, "`answers`", "`exact`")[2:4] == ["0.25 ± 0.2165", "4"]
    assert row(card.text, "`answers`", "`exact`")[4] == "exact, a sample of 4 rows, chats.jsonl"
    before = ModelCard(exported_card(run / "pretrain")).data.eval_results
    assert {score.metric_value for score in before} != {score.metric_value for score in card.data.eval_results}


def test_scores_of_weights_that_were_there_before_are_left_out(run: Path) -> None:
    edit_manifest(run / "eval", lambda manifest: manifest["inputs"].update({"@sft": "another model"}))
    text = exported_card(run / "sft")
    assert "model-index" not in text
    assert "## Scores" not in text


def test_a_benchmark_is_named_as_the_hub_names_it() -> None:
    task = {"task": "benchmark", "benchmark": "arc_easy", "num_fewshot": 5, "chat": True, "data": []}
    score = Score("easy", "acc_norm", 0.437, 0.01, 2376, task, "eval")
    unusable = Score("easy", "broken", float("nan"), None, 1, task, "eval")
    data, text = parsed(Card("x", "x", FACTS, Provenance([], scores=[score, unusable])))
    assert data["model-index"] == [
        {
            "name": "x",
            "results": [
                {
                    "task": {"type": "text-generation", "name": "easy"},
                    "dataset": {"type": "allenai/ai2_arc", "name": "ARC (easy)", "config": "ARC-Easy"},
                    "metrics": [{"type": "accuracy", "value": 0.437, "name": "acc_norm"}],
                }
            ],
        }
    ]
    assert row(text, "`easy`", "`acc_norm`")[4] == r"arc\_easy, 5 examples, through the chat template"


# --- what never leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/user/data/chats.jsonl", "chats.jsonl"),
        ("/home/user/my data/chats 2.jsonl", "chats 2.jsonl"),
        ("~/secret/place/x.jsonl", "x.jsonl"),
        ("cannot read /home/user/x.jsonl:3, or '/srv/y/z'", "cannot read x.jsonl:3, or 'z'"),
        ("file:///home/user/x", "x"),
        ("HuggingFaceTB/smoltalk", "HuggingFaceTB/smoltalk"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("data/chats.jsonl and/or 1/2", "data/chats.jsonl and/or 1/2"),
        ("token hf_abcdefghijklmnopqrstuv!", f"token {WITHHELD}!"),
    ],
)
def test_folders_of_the_machine_and_secrets_are_taken_out_of_texts(text: str, kept: str) -> None:
    assert public_text(text) == kept


def test_secrets_are_withheld_by_their_names_and_special_tokens_are_not() -> None:
    given = {"hub_token": "abc", "api_key": "x", "eos_token": "<|im_end|>", "count_tokens_with": "@sft", "token": None}
    kept = {"hub_token": WITHHELD, "api_key": WITHHELD, "eos_token": "<|im_end|>", "count_tokens_with": "@sft"}
    assert public({"trainer": [given]}) == {"trainer": [{**kept, "token": None}]}


def test_no_folder_of_the_machine_and_no_token_is_in_a_card(tmp_path: Path, tiny_model: Path, cli: Cli) -> None:
    trainer = {"hub_token": "hf_" + "s" * 30}
    write_jsonl(tmp_path / "more rows.jsonl", chats(3))
    recipe = write_recipe(tmp_path, "sft", chats(3), trainer=trainer, model=str(tiny_model), template="chatml")
    sources = f'data=[{{"source": "{tmp_path / "more rows.jsonl"}"}}, {{"source": "rows.jsonl"}}]'
    text = exported_card(run_recipe(cli, "sft", recipe, sources, "lora.r=2"))
    assert "more rows.jsonl" in text
    assert f"hub_token: {WITHHELD}" in text
    for private in (str(tmp_path), str(tiny_model.parent), "hf_sss", str(Path.home()) + "/"):
        assert private not in text


# --- whatever the names and values -----------------------------------------------------------------------------------

FACTS = Facts(1000, ["float32"], {"model_type": "llama", "hidden_size": 32}, chat=True)
ANYTHING = st.text(max_size=30) | st.sampled_from(
    [
        "---",
        "\n---\n",
        "a: b",
        "`x` | y",
        "```\n",
        "<script>",
        "- x",
        "null",
        "1e-3",
        "yes",
        "\ud800",
        "é\u2028x",
        "/a/b/c",
        "# x",
    ]
)
NUMBERS = st.floats(0, 1e9) | st.integers(0, 10**12)


def made(name: str, recipe: dict[str, Any], **manifest: Any) -> Made:
    return Made({"name": name, "kind": "sft", "recipe": recipe, **manifest}, Path("/nowhere") / "run" / "sft", None)


def parsed(card: Card) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card as the Hub's library reads them."""
    found = ModelCard(render(card))
    return found.data.to_dict(), found.text


@st.composite
def cards(draw: Callable[..., Any]) -> Card:
    text, name = ANYTHING, ANYTHING.filter(str.strip)
    counts = {
        key: draw(st.integers(0, 10**9))
        for key in ("rows", "tokens", "rows_cut", "tokens_cut", "rows_dropped", "tokens_dropped")
    }
    manifest = {
        "metrics": {"train_loss": draw(NUMBERS), "eval_x": draw(NUMBERS), draw(text): draw(text)},
        "data": [
            {"source": draw(text), "rows_in": 1, "rows_out": 1, "dropped": {draw(text): {"rows": 1, "tokens": 1}}}
        ],
        "truncation": {**counts, "by_source": {draw(text): counts}, "held_out": None},
        "hyperparameters": {draw(text): draw(text), "learning_rate": draw(NUMBERS)},
        "hardware": {"cpu": draw(text), "cores": 2, "memory_bytes": 10**9, "gpu": None},
        "versions": {"torch": draw(text), "commit": draw(text)},
        "wall_seconds": draw(st.floats(0, 1e7)),
        "seed": 1,
    }
    recipe = {"model": draw(text), "data": [{"source": draw(text)}], "trainer": {draw(text): draw(text)}}
    step = Made(
        {"name": draw(text), "kind": draw(text), "recipe": recipe, **manifest},
        Path("/run/sft"),
        draw(st.none() | st.integers(0, 99)),
    )
    score = Score(
        draw(text), draw(name), draw(NUMBERS), draw(st.none() | NUMBERS), 3, {"task": draw(name), "data": []}, "eval"
    )
    origin = Provenance([step], [draw(text)], draw(st.none() | text), [score])
    return Card(draw(name), draw(name), FACTS, origin, draw(st.none() | st.just("mit")))


@given(cards())
@settings(max_examples=80, deadline=None)
def test_cards_of_odd_names_and_values_are_read_as_they_were_meant(card: Card) -> None:
    text = render(card)
    text.encode()
    block = re.match(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))", text)
    assert block
    assert yaml.safe_load(block[2]) == public(metadata(card))
    found = ModelCard(text)
    assert len(found.data.eval_results) == 1
    body = text[block.end() :]
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)
    tables = re.findall(r"(?m)(?:^\|.*\n)+", outside)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(widths) == 1, table
    assert re.findall(r"(?m)^## (.+)$", outside) == [
        "Use",
        "How it was made",
        "Data",
        "Rows trained on",
        "Scores",
        "On rows held out",
        "Hyperparameters",
        "Where, and with what",
        "Licence",
    ]
    tags = re.findall(r"(?<!\\)<(?!/?(?:details|summary|code)>)", re.sub(r"`[^`\n]*`", "", outside))
    assert not tags, outside


def test_tokens_of_a_run_that_was_taken_up_are_added(tmp_path: Path) -> None:
    logged = [
        {"step": 1, "num_tokens": 10},
        {"step": 2, "num_tokens": 20},
        {"eval_loss": 1},
        {"step": 3, "num_tokens": 9},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged), encoding="utf-8")
    assert tokens_seen(tmp_path / "metrics.jsonl") == 29
    assert tokens_seen(tmp_path / "nothing.jsonl") is None
