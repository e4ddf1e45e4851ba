"""Whatever a person gets wrong ends in one clear line and exit code 2, with nothing left half-written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, chats, pairs, write_jsonl

Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with a good data file in it."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "chats.jsonl", chats(12))


def recipe(model: object, *lines: str, kind: str = "sft", data: str = "chats.jsonl") -> Path:
    """A small recipe whose further lines a test spoils; the first of those is line 6."""
    text = [f"kind: {kind}", f'model: "{model}"', "template: chatml", "data:", f"  - source: {data}", *lines]
    file = Path("step.yaml")
    file.write_text("\n".join(text) + "\n", encoding="utf-8")
    return file


def refused(ran: Ran, *parts: str, errors: int = 1) -> list[str]:
    """The error lines of a command that ended as it should, which hold all the parts; nothing is half-written."""
    lines = ran.err.strip().splitlines()
    assert ran.code == 2, ran
    assert "Traceback" not in ran.out + ran.err
    assert len(lines) == errors, ran.err
    assert all(line.startswith("error ") for line in lines), ran.err
    for part in parts:
        assert any(part in line for line in lines), f"{part!r} is not in:\n{ran.err}"
    left = [path.relative_to(Path.cwd()).as_posix() for path in Path.cwd().rglob("*")]
    assert not [name for name in left if name.endswith(".tmp") or Path(name).name == "step.json"]
    assert not [name for name in left if Path(name).name in ("model", "adapter", "data")]
    return lines


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_lenght: 64", "step.yaml:6: unknown key max_lenght → did you mean max_length?"),
        ("lora: {rank: 8, alpa: 8}", "step.yaml:6: unknown key lora.alpa → did you mean alpha?"),
        ("zzzz: 1", "step.yaml:6: unknown key zzzz → known keys: "),
        ("max_length: long", "step.yaml:6: max_length: input should be a valid integer"),
        ("max_length: long", "but is 'long'"),
        ("max_length: 4", "step.yaml:6: max_length: input should be greater than or equal to 8, but is 4"),
        ("eval_data: [{sorce: a.jsonl}]", "step.yaml:6: unknown key eval_data.0.sorce → did you mean source?"),
        ("eval_data: [{split: a}]", "eval_data.0.source is missing → add source:"),
        ("template: jinja", "step.yaml:6: the key 'template' stands twice → keep one of them"),
        ("max_length: [1", "step.yaml:7: not YAML:"),
        ("quantize: nf4", "quantize: nf4 trains nothing without a lora block"),
        ("quantize: nf3", "step.yaml:6: quantize: input should be 'int8' or 'nf4', but is 'nf3'"),
        ("trainer: {learning_rat: 1}", "step.yaml: unknown key trainer.learning_rat → did you mean learning_rate?"),
        ("trainer: {output_dir: x}", "step.yaml: trainer.output_dir cannot be set → use --out"),
        (
            "trainer: {activation_checkpointing: true}",
            "step.yaml: trainer.activation_checkpointing cannot be set → use trainer.gradient_checkpointing",
        ),
        ("trainer: {max_length: 9}", "step.yaml: trainer.max_length cannot be set → use the recipe's max_length"),
        ("trainer: {lr_scheduler_type: zig}", "step.yaml: trainer: zig is not a valid SchedulerType"),
        ("trainer: {eval_strategy: steps}", "trainer.eval_strategy is steps, but no rows are held out → set eval_data"),
        ("trainer: {learning_rate: fast}", "step.yaml: trainer.learning_rate: input should be a valid number, but is"),
        ("trainer: {max_steps: 2.5}", "step.yaml: trainer.max_steps: input should be a valid integer, but is 2.5"),
        ("trainer: {bf16: perhaps}", "step.yaml: trainer.bf16: input should be a valid boolean, but is 'perhaps'"),
    ],
)
def test_a_wrong_recipe_line_is_named_with_its_place_and_mend(
    cli: Cli, tiny_model: Path, line: str, message: str
) -> None:
    ran = cli("check", recipe(tiny_model, line))
    refused(ran, message, errors=max(1, ran.err.count("error ")))


@pytest.mark.parametrize("field", ["learning_rat: 1", "seed: 3", "optim: none_such", "eval_strategy: epoch"])
def test_a_wrong_trainer_field_also_stops_the_step_itself(cli: Cli, tiny_model: Path, field: str) -> None:
    ran = cli("sft", recipe(tiny_model, f"trainer: {{{field}}}"), "--out", "run")
    refused(ran, "step.yaml: ", "none_such" if "optim" in field else f"trainer.{field.split(':')[0]}")


def test_every_wrong_field_is_told_at_once_with_its_own_line(cli: Cli, tiny_model: Path) -> None:
    file = recipe(tiny_model, "seed: minus", "max_cut: 2", "lora:", "  r: 0", "  alfa: 3")
    lines = refused(cli("sft", file), errors=4)
    assert sorted(re.search(r"step\.yaml:(\d+):", line)[1] for line in lines) == ["10", "6", "7", "9"]  # type: ignore[index]


def test_every_wrong_step_of_a_pipeline_is_told_at_once(cli: Cli, tiny_model: Path) -> None:
    recipe(tiny_model, "max_lenght: 9")
    text = "kind: pipeline\nsteps:\n  one: step.yaml\n  two: gone.yaml\n  three: {kind: sftt}\n"
    Path("chain.yaml").write_text(text, encoding="utf-8")
    ran = cli("run", "chain.yaml")
    refused(ran, "step.yaml:6: unknown key max_lenght", "chain.yaml:4: steps.two: no file 'gone.yaml'", errors=3)
    refused(ran, "chain.yaml:5: unknown kind 'sftt' → did you mean sft?", errors=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "step.yaml: a recipe is a mapping that begins with kind:"),
        ("- 1\n", "a recipe is a mapping"),
        ("seed: 1\n", "step.yaml:1: no kind → use one of pretrain, quality, smoltalk"),
        ("\nkind: sftt\n", "step.yaml:2: unknown kind 'sftt' → did you mean sft?"),
        ("kind: [sft]\n", "step.yaml:1: unknown kind ['sft']"),
        ("kind: sft\n  model: x\n", "step.yaml:2: not YAML: mapping values are not allowed here"),
        ("kind: sft\nmodel: {a: 1, a: 2}\n", "step.yaml:2: the key 'a' stands twice"),
        ("kind: pipeline\nsteps: {../up: {kind: sft}}\n", "step.yaml:2: steps.../up"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(cli: Cli, text: str, message: str) -> None:
    Path("step.yaml").write_text(text, encoding="utf-8")
    refused(cli("check", "step.yaml"), message)


def test_a_recipe_that_is_not_utf8_is_refused(cli: Cli) -> None:
    Path("step.yaml").write_bytes("kind: sft\nrun: Zürich\n".encode("latin-1"))
    refused(cli("check", "step.yaml"), "step.yaml: not UTF-8 text (byte 16) → save it as UTF-8")


@pytest.mark.parametrize("command", ["sft", "check", "preview", "run"])
def test_a_missing_recipe_is_refused_with_the_nearest_name(cli: Cli, command: str) -> None:
    refused(cli(command, "nano/sftt"), "no recipe 'nano/sftt': no such file", "did you mean nano/sft?")


def test_a_folder_is_no_recipe(cli: Cli) -> None:
    Path("mine").mkdir()
    refused(cli("sft", "mine"), "mine is a folder, not a recipe → name a .yaml file in it")


def test_the_command_for_another_kind_is_named(cli: Cli, tiny_model: Path) -> None:
    file = recipe(tiny_model)
    refused(cli("dpo", file), "step.yaml: a recipe of kind sft, not dpo → smolalign sft step.yaml")
    refused(cli("run", file), "step.yaml: a recipe of kind sft, not pipeline → smolalign sft step.yaml")
    refused(cli("sft", "nano"), "a recipe of kind pipeline, not sft → smolalign run nano")


def test_model_without_data_is_refused(cli: Cli, tiny_model: Path) -> None:
    refused(cli("sft", "--model", tiny_model), "sft needs a recipe, or --model and --data")
    refused(cli("sft", "--data", "chats.jsonl"), "sft needs a recipe, or --model and --data")
    refused(cli("sft", recipe(tiny_model), "--model", tiny_model), "a recipe and --model or --data together")


def test_chat_with_a_step_folder_names_the_model_inside(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("run")
    (run / "sft" / "model").mkdir(parents=True)
    refused(cli("chat", run / "sft"), f"sft: it has no config.json → did you mean {run}/sft/model?")
    refused(cli("chat", run), "it has no config.json → name a step's model/ folder")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "override 'seed' is not key.path=value → write for example seed=7"),
        ("=7", "override '=7' is not key.path=value"),
        ("sed=7", "unknown key sed → did you mean seed?"),
        ("data.1.source=x", "override 'data.1.source=x': '1' is no index of that list of 1"),
        ("seed.x=1", "override 'seed.x=1': "),
        ("seed=[", "override 'seed=[': the value is not YAML"),
        ("seed=many", "seed: input should be a valid integer"),
    ],
)
def test_a_wrong_override_is_refused(cli: Cli, tiny_model: Path, override: str, message: str) -> None:
    refused(cli("sft", recipe(tiny_model, "seed: 1"), override), message)


def test_an_override_that_names_no_step_of_the_pipeline_is_refused(cli: Cli) -> None:
    refused(
        cli("run", "nano", "sfft.seed=1"), "override 'sfft.seed=1' names no step of this pipeline → did you mean sft?"
    )
    refused(cli("run", "nano", "seed=1"), "override 'seed=1' names no step of this pipeline")


def test_an_eval_reference_that_is_no_model_is_refused(cli: Cli, tiny_model: Path) -> None:
    text = f"kind: eval\nmodels: {{base: '{tiny_model}'}}\ntasks:\n"
    text += "  p: {task: preference, reference: bas, data: [{source: p.jsonl}]}\n"
    Path("step.yaml").write_text(text, encoding="utf-8")
    refused(cli("check", "step.yaml"), "tasks.p.reference 'bas' is none of the models: base")


# --- data ------------------------------------------------------------------------------------------------------------


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


CALL = {"type": "function", "function": {"name": "fly", "arguments": {}}}
TOOL = {"type": "function", "function": {"name": "walk", "description": "Walk.", "parameters": {"type": "object"}}}
UNKNOWN_TOOL = {
    "messages": [{"role": "user", "content": "Go!"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "tools": [TOOL],
}
BAD_ROWS = [
    pytest.param([chat(("user", "Hi"))], "bad.jsonl:3: the chat has no assistant turn", id="no assistant turn"),
    pytest.param(
        [chat(("user", "Hi"), ("user", "Hello?"), ("assistant", "Yes."))],
        "bad.jsonl:3: turn 2 is a user turn right after a user turn",
        id="roles out of order",
    ),
    pytest.param(
        [chat(("assistant", "Yes."), ("user", "Hi"), ("assistant", "Yes."))],
        "bad.jsonl:3: the chat starts with an assistant turn",
        id="assistant first",
    ),
    pytest.param(
        [{"instruction": "Add.", "input": "", "output": "Yes."}],
        "bad.jsonl:3: this row looks like alpaca",
        id="mixed formats",
    ),
    pytest.param(
        [UNKNOWN_TOOL], 'bad.jsonl:3: turn 2 (assistant) calls "fly", which is not offered (tools: walk)', id="tool"
    ),
    pytest.param([chat(("user", "Hi"), ("assistant", " "))], "bad.jsonl:3: turn 2 (assistant) is empty", id="empty"),
    pytest.param([["a", "list"]], "bad.jsonl:3: the line is a list, not an object", id="no object"),
]


@pytest.mark.parametrize("command", ["sft", "check"])
@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_a_bad_row_is_named_by_its_line(cli: Cli, tiny_model: Path, command: str, rows: Any, message: str) -> None:
    write_jsonl(Path("bad.jsonl"), [*chats(2), *rows, *chats(1)])
    refused(cli(command, recipe(tiny_model, data="bad.jsonl"), "--out", "run"), message)


@pytest.mark.parametrize("command", ["sft", "check", "preview"])
def test_broken_json_is_named_by_its_line(cli: Cli, tiny_model: Path, command: str) -> None:
    good = write_jsonl(Path("bad.jsonl"), chats(2)).read_text()
    Path("bad.jsonl").write_text(good + '{"messages": [}\n')
    refused(cli(command, recipe(tiny_model, data="bad.jsonl"), "--out", "run"), "bad.jsonl:3: ", "JSON")


@pytest.mark.parametrize("command", ["sft", "check"])
def test_text_that_is_not_utf8_is_named_by_its_line(cli: Cli, tiny_model: Path, command: str) -> None:
    good = write_jsonl(Path("bad.jsonl"), chats(1)).read_bytes()
    Path("bad.jsonl").write_bytes(good + good.replace(b"What", b"Wh\xe4t"))
    refused(
        cli(command, recipe(tiny_model, data="bad.jsonl"), "--out", "run"), "bad.jsonl:2: byte 0xe4", "is not UTF-8"
    )


@pytest.mark.parametrize("command", ["sft", "check", "preview"])
def test_an_empty_or_missing_file_is_refused(cli: Cli, tiny_model: Path, command: str) -> None:
    Path("none.jsonl").touch()
    refused(cli(command, recipe(tiny_model, data="none.jsonl"), "--out", "run"), "none.jsonl: is empty")
    ran = cli(command, recipe(tiny_model, data="chat.jsonl"), "--out", "run")
    refused(ran, "step.yaml: no such file or folder:", "chat.jsonl", "did you mean", "chats.jsonl?")


def test_rows_of_the_wrong_kind_are_refused(cli: Cli, tiny_model: Path) -> None:
    refused(
        cli("dpo", recipe(tiny_model, kind="dpo")), "format openai gives chats, but this step needs preference pairs"
    )


def test_an_unknown_format_is_refused(cli: Cli, tiny_model: Path) -> None:
    ran = cli("sft", recipe(tiny_model, "    format: opena1"))
    refused(ran, 'unknown format "opena1" → did you mean openai?')


@pytest.mark.parametrize("command", ["sft", "check"])
def test_rows_longer_than_max_length_beyond_max_cut_are_refused(cli: Cli, tiny_model: Path, command: str) -> None:
    ran = cli(command, recipe(tiny_model, "max_length: 24"), "--out", "run")
    refused(
        ran,
        "of 12 rows are longer than max_length 24 tokens",
        "more than max_cut 0.1 allows; most are of chats.jsonl: 12 of its 12 rows → raise max_length",
    )


def test_pairs_longer_than_max_length_beyond_max_cut_are_refused(cli: Cli, tiny_model: Path) -> None:
    write_jsonl(Path("pairs.jsonl"), pairs(6))
    ran = cli("dpo", recipe(tiny_model, "max_length: 16", kind="dpo", data="pairs.jsonl"), "--out", "run")
    refused(ran, "of 6 rows are longer than max_length 16 tokens")


# --- models, steps, folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sft", "check", "preview"])
def test_what_is_no_model_is_refused(cli: Cli, command: str) -> None:
    Path("folder").mkdir()
    refused(cli(command, recipe("./folder")), "step.yaml: ./folder is no model folder: it has no config.json")
    refused(cli(command, recipe("./gone")), "step.yaml: no model ./gone → name a checkpoint folder")
    refused(cli(command, recipe("gone.gguf")), "step.yaml: no model gone.gguf")
    refused(
        cli(command, recipe("./chats.jsonl")), "step.yaml: ./chats.jsonl is no model → name a folder or a .gguf file"
    )


def test_a_model_folder_without_weights_or_tokenizer_is_refused(cli: Cli, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    refused(cli("sft", recipe("./weightless"), "--out", "run"), "cannot load the model", "weightless")
    Path("torn").mkdir()
    Path("torn/config.json").write_text("{")
    refused(cli("sft", recipe("./torn"), "--out", "run"), "cannot load the model", "torn")


def test_a_gguf_that_is_none_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    Path("x.gguf").write_bytes(b"GGUX" + bytes(64))
    refused(cli("sft", recipe("x.gguf"), "--out", "run"), "cannot load the model", "x.gguf")


@pytest.mark.parametrize("command", ["sft", "check", "preview"])
def test_a_hub_model_without_network_is_refused(cli: Cli, command: str) -> None:
    ran = cli(command, recipe("nobody/nothing"), "--out", "run")
    refused(ran, "cannot load the model nobody/nothing from the Hub: HF_HUB_OFFLINE=1 forbids the network, and")


@pytest.mark.parametrize("command", ["sft", "check", "preview"])
def test_a_hub_dataset_without_network_is_refused(cli: Cli, tiny_model: Path, command: str) -> None:
    ran = cli(command, recipe(tiny_model, data="nobody/nothing"), "--out", "run")
    refused(
        ran,
        "nobody/nothing (split train): HF_HUB_OFFLINE=1 forbids the network, and the dataset is not in the local cache",
    )


def test_hub_datasets_that_are_out_of_reach_are_told_in_one_line_by_config_and_split(cli: Cli) -> None:
    Path("mix.yaml").write_text(
        "kind: smoltalk\ndata:\n"
        "  - {source: nobody/nothing, config: a}\n"
        "  - {source: nobody/nothing, config: b}\n"
        "  - {source: nobody/else, split: train_sft}\n"
        "  - {source: gone.jsonl}\n"
        "decontaminate: {against: [{source: nobody/bench, config: main}]}\n"
    )
    ran = cli("check", "mix.yaml")
    assert ran.code == 2
    other, line = ran.err.splitlines()
    assert "gone.jsonl" in other
    assert line == (
        "error HF_HUB_OFFLINE=1 forbids the network, and 4 datasets are not in the local cache: nobody/nothing "
        "(configs a, b; split train); nobody/else (split train_sft); nobody/bench (config main; split test) → "
        "check the ids, or download them once and give their local paths"
    )


@pytest.mark.parametrize("command", ["sft", "check", "preview"])
def test_a_step_that_has_not_run_is_refused(cli: Cli, tiny_model: Path, command: str) -> None:
    ran = cli(command, recipe("@pretrain"), "--out", "run")
    refused(ran, "step.yaml: @pretrain", "has not been", "run/pretrain", "name the run's folder with --out")
    refused(
        cli(command, recipe(tiny_model, data='"@smoltalk"'), "--out", "run"), "step.yaml: @smoltalk", "run/smoltalk"
    )


def test_an_output_below_a_file_is_refused(cli: Cli, tiny_model: Path) -> None:
    Path("plain").write_text("a file")
    for command in ("sft", "check"):
        refused(cli(command, recipe(tiny_model), "--out", "plain/run"), "cannot write there", "→ choose another --out")
    refused(cli("recipes", "copy", "nano/sft", "plain/mine.yaml"), "plain/mine.yaml: cannot write there")
    assert Path("plain").read_text() == "a file"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root may write to")
def test_an_unwritable_output_is_refused(cli: Cli, tiny_model: Path) -> None:
    for command in ("sft", "check") if os.geteuid() else ("sft",):
        refused(
            cli(command, recipe(tiny_model), "--out", "/proc/smolalign"), "cannot write there", "choose another --out"
        )


def test_a_folder_with_a_persons_own_files_is_left_alone(cli: Cli, tiny_model: Path) -> None:
    mine = Path("sft/data")
    mine.mkdir(parents=True)
    write_jsonl(mine / "mine.jsonl", chats(2))
    ran = cli("sft", recipe(tiny_model), "--out", ".")
    assert ran.code == 2
    assert ran.err == "error sft: holds data, which no step left there → choose another --out\n"
    assert (mine / "mine.jsonl").exists()


def test_a_step_that_names_itself_is_refused_and_its_output_kept(cli: Cli, tiny_model: Path) -> None:
    """Its folder would be emptied before it is read."""
    from smolalign.store import finish, step_folder

    with step_folder(Path("run/sft"), "old", fresh=False):
        shutil.copytree(tiny_model, "run/sft/model")
        finish(Path("run/sft"), {"kind": "sft", "output": "x", "fingerprint": "old"})
    for command, message in (("sft", "the step sft reads @sft"), ("check", "@sft comes no earlier than the step sft")):
        ran = cli(command, recipe("@sft"), "--out", "run")
        assert (ran.code, message in ran.err) == (2, True), ran.err
    assert Path("run/sft/model/config.json").exists()


def test_preview_of_what_trains_on_nothing_is_refused(cli: Cli) -> None:
    refused(cli("preview", "nano/smoltalk"), "a step of kind smoltalk trains on nothing")
    refused(cli("preview", "nano"), "a step of kind pipeline trains on nothing")


def test_copying_over_a_file_is_refused(cli: Cli) -> None:
    Path("mine.yaml").write_text("mine")
    refused(cli("recipes", "copy", "nano/sft", "mine.yaml"), "mine.yaml is there already → choose another name")
    assert Path("mine.yaml").read_text() == "mine"


def test_debug_shows_the_traceback_and_a_failure_of_ours_ends_with_1(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import smolalign.commands

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(smolalign.commands, "run_one", broken)
    ran = cli("sft", recipe(tiny_model))
    assert (ran.code, ran.err.splitlines()[0]) == (1, "failed: RuntimeError: a bug")
    monkeypatch.setenv("SMOLALIGN_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        cli("sft", recipe(tiny_model))
