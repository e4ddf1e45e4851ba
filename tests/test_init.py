"""`init` tells a person what is in a file, oddities by row, and writes a recipe that checks and trains as it stands."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from beside_hub import beside_hub
from conftest import Ran, chats, pairs, write_jsonl

from smolalign.data import survey as surveying
from smolalign.data.survey import CONFLICT, DAMAGED, ENTITIES, EQUAL, ESCAPED, NUL, TURN_TOKENS, format_of, survey
from smolalign.errors import UserError
from smolalign.recipe.load import load_recipe
from smolalign.report import Silent

Cli = Callable[..., Ran]


@pytest.fixture
def roomy_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with a context of 2048 tokens."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "roomy"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return model


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def chat(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **more}


def sharegpt(count: int) -> list[dict[str, Any]]:
    """Every second row offers two tools, and calls one of them."""
    tools = json.dumps([{"name": name, "parameters": {"type": "object"}} for name in ("add", "sub")])
    rows = []
    for i in range(count):
        turns = [("human", f"Add {i}."), ("function_call", json.dumps({"name": "add", "arguments": {"x": i}}))]
        turns += [("observation", str(i)), ("gpt", f"It is {i}.")]
        kept = turns if i % 2 else [turns[0], turns[3]]
        rows.append({"conversations": [{"from": f, "value": v} for f, v in kept], "tools": tools if i % 2 else ""})
    return rows


def alpaca(count: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {i}.", "input": "Now." * (i % 2), "output": f"Here: {i}."} for i in range(count)]


def looked_at(*lines: Any) -> surveying.Survey:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path("rows.jsonl").write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return survey("rows.jsonl", format_of("rows.jsonl"), Silent())


def init(cli: Cli, *arguments: object) -> tuple[Ran, dict[str, Any]]:
    """The command, which must succeed, and the recipe that it wrote."""
    ran = cli("init", *arguments)
    assert (ran.code, ran.err) == (0, "")
    file = next(word for word in ran.out.split("wrote ")[1].split(";"))
    return ran, yaml.safe_load(Path(file).read_text(encoding="utf-8"))


def refused(ran: Ran, *parts: str) -> None:
    assert ran.code == 2, ran
    [line] = ran.err.splitlines()
    assert not [part for part in parts if part not in line], line
    assert not [path for path in Path.cwd().rglob("*") if path.suffix in (".yaml", ".tmp") and path.stem != "kept"]


# --- the survey ------------------------------------------------------------------------------------------------------


def test_turns_tools_and_system_turns_are_counted() -> None:
    system = {"messages": [{"role": "system", "content": "Be brief."}, *chat("Hi.", "Hello.")["messages"]]}
    found = looked_at(chat("a", "b"), system, chat("c", "d"))
    assert (found.format, found.records, found.rows, found.system, found.turns) == ("openai", 3, 3, 1, [2, 2, 3])
    found = looked_at(*sharegpt(7))
    assert (found.format, found.offering, found.calling, found.tools) == ("sharegpt", 3, 3, {"add", "sub"})


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("So <|im_end|> it ends.", TURN_TOKENS),
        ("[INST] no [/INST]", TURN_TOKENS),
        ("Salt &amp; pepper, 3 &#38; 4", ENTITIES),
        ("one\\ntwo\\nthree", ESCAPED),
        ("nul\0l", NUL),
        ("caf\ufffd", DAMAGED),
    ],
)
def test_what_is_odd_in_a_text_is_told_with_its_row(answer: str, name: str) -> None:
    found = looked_at(chat("a", "b"), chat("c", answer), chat("d", "a < b & c; x[i]; print('\\n')\nok |"))
    assert {key: (seen.rows, seen.origins) for key, seen in found.odd.items()} == {name: (1, ["rows.jsonl:2"])}


def test_equal_rows_and_prompts_with_several_answers_are_told_with_the_earlier_row() -> None:
    found = looked_at(
        chat("a", "1"), chat("b", "2"), "", chat("a", "1"), chat("a", "3"), chat("a", "1"), chat("c", "1")
    )
    assert found.odd[EQUAL].rows == 2
    assert found.odd[EQUAL].origins == ["line 4 like line 1", "line 6 like line 1"]
    assert (found.odd[CONFLICT].rows, found.odd[CONFLICT].origins) == (1, ["line 5 like line 1"])
    assert len(found.prompts) == 4


def test_the_same_prompt_after_another_history_is_no_conflict() -> None:
    def after(call: str) -> dict[str, Any]:
        called = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": call}}]}
        turns = [{"role": "user", "content": "a"}, called, {"role": "tool", "content": "ok"}]
        return {"messages": [*turns, {"role": "assistant", "content": f"Done {call}."}]}

    assert not looked_at(after("1"), after("2")).odd


def test_broken_rows_are_counted_by_reason_and_ten_are_named() -> None:
    ends = [{"messages": [{"role": "user", "content": f"{i}"}]} for i in range(12)]
    broken = ['{"messages": [', '{"a": [', {"messages": [{"role": "bard?", "content": "a"}]}]
    found = looked_at(chat("a", "b"), *ends, *broken, chat("c", " "), chat("d", ""))
    assert (found.records, found.rows, found.broken) == (18, 1, 17)
    first = next(iter(found.flaws.values()))
    assert (first.reason, first.rows, len(first.errors)) == ("no answer at the end", 12, 10)
    assert [found.place(error.where) for error in first.errors][:2] == ["line 2", "line 3"]
    assert found.flaws["empty turn"].rows == 2
    assert found.flaws["broken JSON"].rows == 2, "alike, though the columns differ"


def test_of_many_rows_a_random_sample_and_the_longest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "SAMPLE", 30)
    monkeypatch.setattr(surveying, "LONGEST", 3)
    found = looked_at(*(chat(f"{i}", "x" * (1 + 7 * i % 400)) for i in range(400)))
    places = sorted(int(row.origin.split(":")[1]) for row in found.sample)
    assert len(set(places)) == 30
    assert places[0] < 100 < 300 < places[-1], "spread over the file"
    assert [len(row.messages[1].content) for row in found.longest] == [400, 399, 398]


# --- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "rows"), [("openai", chats(60)), ("sharegpt", sharegpt(60)), ("alpaca", alpaca(60))]
)
def test_the_recipe_checks_and_trains_as_it_is(
    cli: Cli, roomy_model: Path, format: str, rows: list[dict[str, Any]]
) -> None:
    write_jsonl(Path("mine.jsonl"), rows)
    ran, recipe = init(cli, "mine.jsonl", "--model", roomy_model)
    assert f"{format}: 60 records, 60 chats" in ran.out
    assert load_recipe(Path("sft.yaml")).kind == "sft"
    assert recipe["data"] == [{"source": "mine.jsonl", "format": format}]
    checked = cli("check", "sft.yaml")
    assert checked.code == 0, checked.err
    assert "0.0% over max_length" in checked.out
    trained = cli("sft", "sft.yaml", "trainer.max_steps=1", "--out", "run")
    assert trained.code == 0, trained.err
    # What the comments say of the rows held out is what the step holds out.
    held = pq.read_table("run/sft/data/test.parquet").num_rows
    assert f"# {held} of 60 different rows are held out" in Path("sft.yaml").read_text()
    assert recipe["max_length"] % 64 == 0
    longest = int(checked.out.split("longest ")[1].split()[0])
    assert f"# the longest has {longest} tokens" in Path("sft.yaml").read_text()
    assert recipe["max_length"] - 64 < longest <= recipe["max_length"]


def test_equal_broken_and_misordered_rows_ask_for_blocks_with_which_the_step_trains(cli: Cli, tiny_model: Path) -> None:
    rows = [json.dumps(row) for row in chats(60)]
    unanswered = json.dumps({"messages": [{"role": "user", "content": "Hm?"}]})
    Path("mine.jsonl").write_text("\n".join([*rows, *rows[:5], unanswered, "{", "{"]) + "\n")
    ran, recipe = init(cli, "mine.jsonl", "--model", tiny_model)
    assert "! mine.jsonl  1 row: no answer at the end" not in ran.out
    assert "! mine.jsonl  broken 1 row: no answer at the end" in ran.out
    assert "!   line 66: " in ran.out.replace("mine.jsonl  ", "")
    assert recipe["filters"] == {"structure": True}
    assert recipe["deduplicate"] == {"near": None}
    assert 2 / 68 < recipe["max_rejected"] < 0.05
    trained = cli("sft", "sft.yaml", "trainer.max_steps=1", "--out", "run")
    assert trained.code == 0, trained.err
    held = pq.read_table("run/sft/data/test.parquet").num_rows
    assert f"# {held} of 60 different rows are held out" in Path("sft.yaml").read_text()


def test_clean_rows_ask_for_no_such_block(cli: Cli, tiny_model: Path) -> None:
    write_jsonl(Path("mine.jsonl"), chats(60))
    ran, recipe = init(cli, "mine.jsonl", "--model", tiny_model)
    assert not {"filters", "deduplicate", "max_rejected", "max_cut", "lora"} & recipe.keys()
    assert "!" not in ran.out


def test_pairs_give_a_dpo_recipe_that_checks(cli: Cli, tiny_model: Path) -> None:
    write_jsonl(Path("mine.jsonl"), pairs(60))
    ran, recipe = init(cli, "mine.jsonl", "--model", tiny_model)
    assert "60 preference pairs" in ran.out
    assert recipe["kind"] == "dpo"
    checked = cli("check", "dpo.yaml")
    assert checked.code == 0, checked.err


def test_texts_are_told_to_be_for_pretraining(cli: Cli) -> None:
    write_jsonl(Path("mine.jsonl"), [{"text": f"Once {i}."} for i in range(5)])
    ran = cli("init", "mine.jsonl")
    refused(ran, "5 texts without turns", "for pretraining")
    command = shlex.split(ran.err.partition("→ ")[2])
    assert command[:3] == ["smolalign", "pretrain", "nano/pretrain"]
    ahead = cli(*command[1:], "tokenizer.vocab_size=300", "--dry-run")
    assert (ahead.code, ahead.err) == (0, "")
    assert f"{Path('mine.jsonl').absolute()}: text, 5 rows read" in ahead.out


@pytest.mark.parametrize(("rows", "batch", "least"), [(3, 2, 1), (90, 2, 30), (700, 8, 40), (6000, 64, 40)])
def test_an_epoch_has_some_dozens_of_steps_where_there_are_rows_for_them(
    cli: Cli, tiny_model: Path, rows: int, batch: int, least: int
) -> None:
    write_jsonl(Path("mine.jsonl"), chats(rows))
    _, recipe = init(cli, "mine.jsonl", "--model", tiny_model)
    trainer = recipe["trainer"]
    size = trainer["per_device_train_batch_size"] * trainer.get("gradient_accumulation_steps", 1)
    assert size == batch
    assert rows * (1 - recipe["test_fraction"]) / size >= least


def test_adapters_are_taken_where_all_weights_do_not_fit(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smolalign.train import memory

    write_jsonl(Path("mine.jsonl"), chats(60))
    monkeypatch.setattr(memory, "memory_here", lambda: 1000)
    ran, recipe = init(cli, "mine.jsonl", "--model", tiny_model)
    assert recipe["lora"] == {"r": 16, "alpha": 32}
    assert recipe["trainer"]["per_device_train_batch_size"] == 1
    assert recipe["trainer"]["gradient_checkpointing"] is True
    [line] = [line for line in ran.out.splitlines() if "memory" in line]
    assert line.startswith("!")
    assert line.endswith("smolalign check says what to turn")


def test_rows_longer_than_the_model_takes_are_told_and_allowed_to_be_cut(cli: Cli, tiny_model: Path) -> None:
    long = [chat(f"{i}?", "Yes, it is. " * 100) for i in range(15)]
    write_jsonl(Path("mine.jsonl"), [*chats(45), *long])
    ran, recipe = init(cli, "mine.jsonl", "--model", tiny_model)
    assert recipe["max_length"] == 256, "the context of the tiny model"
    assert "25.0% of the rows, such as line 56, are longer than 256 tokens" in ran.out
    assert recipe["max_cut"] == 0.9, "six rows held out may hold many of the long ones"
    checked = cli("check", "sft.yaml")
    assert checked.code == 0, checked.err


def test_without_the_model_lengths_are_estimated_and_that_is_said(cli: Cli) -> None:
    write_jsonl(Path("mine.jsonl"), chats(60))
    ran, recipe = init(cli, "mine.jsonl", "--model", "someone/Model-1.7B")
    assert "estimated from bytes, since the tokenizer of someone/Model-1.7B is not at hand" in ran.out
    assert "lora" in recipe, "the name tells that it is large"
    assert recipe["template"] == "chatml"
    assert "estimated from bytes" in Path("sft.yaml").read_text().split("max_length: ")[1].split("\n")[0]
    _, recipe = init(cli, "mine.jsonl", "--out", "other.yaml")
    assert "lora" not in recipe
    assert (recipe["model"], recipe["template"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2")


def test_paths_are_written_as_the_recipe_sees_them(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    Path("a").mkdir()
    name = 'a/my "chats": é #1.jsonl'
    write_jsonl(Path(name), chats(30))
    _, recipe = init(cli, name, "--model", tiny_model, "--out", "a/own.yaml")
    assert recipe["data"][0]["source"] == Path(name).name
    _, recipe = init(cli, name, "--model", tiny_model, "--out", "b/c/own.yaml")
    assert recipe["data"][0]["source"] == str(tmp_path / name)
    for file in ("a/own.yaml", "b/c/own.yaml"):
        assert cli("check", file).code == 0


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_recipe_that_is_there_is_never_overwritten(cli: Cli) -> None:
    write_jsonl(Path("mine.jsonl"), chats(3))
    Path("kept.yaml").write_text("mine")
    refused(cli("init", "mine.jsonl", "--out", "kept.yaml"), "kept.yaml is there already", "--out")
    assert Path("kept.yaml").read_text() == "mine"


def test_sources_and_models_that_are_not_there_are_told(cli: Cli) -> None:
    write_jsonl(Path("chats.jsonl"), chats(3))
    refused(cli("init", "chat.jsonl"), 'no such file or folder: "chat.jsonl"', "did you mean chats.jsonl?")
    refused(cli("init", "@sft"), "@sft is a step of a run")
    refused(cli("init", "chats.jsonl", "--model", "@sft"), "@sft is a step of a run")
    refused(cli("init", "chats.jsonl", "--model", "./gone"), "gone")
    Path("empty.jsonl").touch()
    refused(cli("init", "empty.jsonl"), "empty.jsonl: is empty")


def test_a_file_without_one_good_row_is_refused_with_the_three_commonest_reasons(cli: Cli) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}]}] * 4 + [chat("a", "")] * 3
    rows += [{"messages": [{"role": "x", "content": "a"}]}] * 2
    lines = [json.dumps(row) for row in rows] + ["{"]
    Path("bad.jsonl").write_text("\n".join(lines))
    ran = cli("init", "bad.jsonl")
    refused(
        ran, "none of 10 rows", "4 × no answer at the end, such as line 1", "3 × empty turn, such as line 5", "2 × "
    )
    assert "broken JSON" not in ran.err


def test_the_first_record_of_a_layout_that_is_known_decides(cli: Cli) -> None:
    Path("rows.jsonl").write_text("{\n" + json.dumps({"odd": 1}) + "\n" + json.dumps(chat("a", "b")) + "\n")
    assert format_of("rows.jsonl") == "openai"
    Path("rows.jsonl").write_text(json.dumps({"odd": 1}) + "\n")
    with pytest.raises(UserError, match="no known format has the keys odd"):
        format_of("rows.jsonl")


# --- the Hub ---------------------------------------------------------------------------------------------------------

CARD = """\
---
configs:
- config_name: plain
  data_files: [{split: train, path: plain/rows.jsonl}]
- config_name: graded
  data_files: [{split: train_sft, path: graded/train.jsonl}, {split: test_sft, path: graded/test.jsonl}]
---
"""


def with_hub(*commands: str) -> list[Ran]:
    """Commands run one after the other beside a Hub that has two datasets and no model."""
    lines = "".join(json.dumps(row) + "\n" for row in chats(40))
    many = {"README.md": CARD, **{f"{path}.jsonl": lines for path in ("plain/rows", "graded/train", "graded/test")}}
    datasets = {"me/chats": {"data/train.jsonl": lines}, "me/many": many}
    return beside_hub(datasets, *(command.split() for command in commands))


def test_a_hub_dataset_gives_a_recipe_that_names_it_and_checks(tiny_model: Path) -> None:
    made, checked, bare, below = with_hub(
        f"init me/many --config graded --split train_sft --model {tiny_model}",
        "check sft.yaml",
        f"init me/chats --out below/mine.yaml --model {tiny_model}",
        "check below/mine.yaml",
    )
    assert [(ran.code, ran.err) for ran in (made, checked, bare, below)] == [(0, "")] * 4
    assert "me/many (config graded; split train_sft)  openai: 40 records, 40 chats" in made.out
    text = Path("sft.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Written by smolalign init for me/many (config graded; split train_sft): 40 chats")
    named = {"source": "me/many", "config": "graded", "split": "train_sft", "format": "openai"}
    assert yaml.safe_load(text)["data"] == [named]
    assert "me/many (config graded; split train_sft): openai, 40 rows read" in checked.out
    assert yaml.safe_load(Path("below/mine.yaml").read_text())["data"] == [{"source": "me/chats", "format": "openai"}]
    assert "me/chats: openai, 40 rows read" in below.out


def test_a_hub_dataset_that_cannot_be_read_is_told_in_one_line() -> None:
    told = {
        "me/many": "me/many (split train): the dataset has several configs → set `config` to one of: plain, graded",
        "me/many --config x": 'me/many (config x; split train): no config "x" → configs: plain, graded',
        "me/many --config graded": 'many (config graded; split train): no split "train" → splits: train_sft, test_sft',
        "me/none": "me/none (split train): no such dataset on the Hub, or no access to it → check the id",
        "me/chats --revision v9": "me/chats (split train; revision v9): it has no revision v9 → name a branch",
        "me/many:graded": '"me/many:graded" → give config, split and revision of a Hub dataset by themselves',
        "me/many --split test_sft": "me/many (split test_sft) holds rows to measure on, never to train on",
    }
    ended = with_hub(*(f"init {arguments}" for arguments in told))
    for ran, message in zip(ended, told.values(), strict=True):
        refused(ran, message)


def test_a_hub_dataset_that_is_not_in_the_cache_takes_the_network(cli: Cli) -> None:
    refused(cli("init", "me/chats"), "me/chats (split train): HF_HUB_OFFLINE=1 forbids the network")


def test_a_config_is_for_the_hub(cli: Cli) -> None:
    write_jsonl(Path("mine.jsonl"), chats(3))
    refused(cli("init", "mine.jsonl", "--config", "a"), 'config "a" applies to Hub datasets', "→ remove `config`")
