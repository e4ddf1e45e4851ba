"""`smolalign export`: a plain checkpoint folder, and a push to a stand-in of the Hub, with all that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from conftest import ROOT, Ran, chats
from exported import finished_run
from hub_upload import OWNER, READ_TOKEN, TOKEN, Fault, Hub, hub_to_write
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training import run as run_recipe
from training import write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

Cli = Callable[..., Ran]
REPO = f"{OWNER}/small"
MODEL_FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def finished() -> Path:
    """A run that nobody changes."""
    return finished_run()


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(finished, tmp_path / "copy" / "run"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub, which the libraries of this process take for the Hub, with a token that may write."""
    with hub_to_write() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        address = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits between its tries; here it does not."""
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.01)))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(cli: Cli, model: object, *options: object, repo: str = REPO) -> Ran:
    ran = cli("export", model, "--to", "hub", "--repo", repo, *options)
    assert TOKEN not in ran.out + ran.err
    return ran


def refused(ran: Ran, *said: str) -> None:
    """One line, exit code 2."""
    assert ran.code == 2, ran.out + ran.err
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    for text in said:
        assert text in ran.err


def logits(folder: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is 2 + 2?"}], return_dict=False)
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits


# --- a plain checkpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["", "sft", "sft/model"])
def test_a_run_its_last_step_and_its_model_are_the_same_export(
    named: str, finished: Path, tmp_path: Path, cli: Cli
) -> None:
    ran = cli("export", finished / named, "--to", "merged", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out").keys() == MODEL_FILES
    assert torch.equal(logits(tmp_path / "out"), logits(finished / "sft" / "model"))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert {score.metric_name for score in card.data.eval_results} == {"exact", "stops", "loss"}


@pytest.mark.parametrize(
    ("folder", "named"), [(".", "."), ("sft", "."), ("sft", "model"), ("eval", "../sft"), ("eval", "..")]
)
def test_a_model_is_found_from_within_its_folders(
    folder: str, named: str, finished: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished / folder)
    assert cli("export", named, "--to", "merged", "--out", tmp_path / "out").code == 0
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Made with smolalign: `pretrain` → `smoltalk` → `sft`." in text
    assert "## Scores" in text


def test_an_earlier_step_is_exported_by_its_name(finished: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("export", finished / "pretrain", "--to", "merged", "--out", tmp_path / "out").code == 0
    assert torch.equal(logits(tmp_path / "out"), logits(finished / "pretrain" / "model"))
    assert "`sft`" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_adapters_are_merged_into_their_base(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    trained = {"max_steps": 4, "learning_rate": 0.1}
    recipe = write_recipe(
        tmp_path, "sft", chats(4), trainer=trained, model=str(tiny_model), lora={"r": 4}, template="chatml"
    )
    step = run_recipe(cli, "sft", recipe)
    alone = Path(shutil.copytree(step / "adapter", tmp_path / "adapter"))
    ran = cli("export", alone, "--to", "merged", "--out", tmp_path / "merged")
    assert ran.code == 0, ran.err
    assert f"adapters of {alone} merged into" in ran.out
    assert files_of(tmp_path / "merged").keys() == MODEL_FILES
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, str(alone))(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=1e-4)
    # The step's own adapters are in its model/ already, and the step says how they were trained.
    assert cli("export", step / "adapter", "--to", "merged", "--out", tmp_path / "of-step").code == 0
    assert "Recipe of <code>sft</code>" in (tmp_path / "of-step" / "README.md").read_text(encoding="utf-8")


def test_what_is_no_part_of_the_checkpoint_stays_and_is_named(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for name in ("optimizer.pt", "trainer_state.json", "training_args.bin", ".env", "modeling_own.py"):
        (model / name).write_text("private")
    (model / "checkpoint-10").mkdir()
    (model / "checkpoint-10" / "model.safetensors").write_text("old")
    (model / "LICENSE").write_text("do what you want")
    ran = cli("export", model, "--to", "merged", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out").keys() == {*MODEL_FILES, "LICENSE"}
    left = ".env, checkpoint-10/, modeling_own.py, optimizer.pt, trainer_state.json, training_args.bin"
    assert f"left out: {left}" in ran.out


def test_configurations_lose_what_names_folders_of_the_machine(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for name in ("config.json", "tokenizer_config.json"):
        found = json.loads((model / name).read_text(encoding="utf-8"))
        (model / name).write_text(json.dumps({**found, "name_or_path": str(model)}), encoding="utf-8")
    assert cli("export", model, "--to", "merged", "--out", tmp_path / "out").code == 0
    for name, content in files_of(tmp_path / "out").items():
        assert str(tmp_path).encode() not in content, name
    assert torch.equal(logits(tmp_path / "out"), logits(tiny_model))


def test_a_card_that_a_person_wrote_is_kept(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    assert cli("export", model, "--to", "merged", "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "README.md").read_bytes() == (model / "README.md").read_bytes()
    refused(
        cli("export", model, "--to", "merged", "--out", tmp_path / "other", "--license", "mit"), "a card of its own"
    )


def test_the_licence_that_is_named_is_in_the_card(finished: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("export", finished, "--to", "merged", "--out", tmp_path / "out", "--license", "apache-2.0").code == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0"
    assert "This model: apache-2.0." in card.text


def test_a_dry_run_lists_files_and_card_and_writes_nothing(finished: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("export", finished, "--to", "merged", "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0, ran.err
    size = (finished / "sft" / "model" / "model.safetensors").stat().st_size
    assert f"model.safetensors      {size / 1e3:7.1f} kB" in ran.out
    assert "7 files, " in ran.out
    assert "## How it was made" in ran.out
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_nothing(
    finished: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    refused(cli("export", finished, "--to", "merged", "--out", tmp_path / "out"), "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(finished: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine").write_text("a person's file")
    refused(cli("export", finished, "--to", "merged", "--out", tmp_path), "is there already", "--out")
    refused(cli("export", finished, "--to", "merged", "--out", tmp_path / "mine"), "is there already")
    assert files_of(tmp_path) == {"mine": b"a person's file"}
    (tmp_path / "empty").mkdir()
    assert cli("export", finished, "--to", "merged", "--out", tmp_path / "empty").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "--to", "merged"], "--to merged needs a folder to write → add --out FOLDER"),
        (["{run}", "--to", "hub"], "--to hub needs a repo → add --repo OWNER/NAME"),
        (["{run}", "--to", "mergd", "--out", "{new}"], "no format 'mergd' to export to → did you mean merged?"),
        (["{run}", "--to", "zip", "--out", "{new}"], "use one of merged, hub"),
        (["{run}", "--to", "merged", "--out", "{new}", "--private"], "--private is not for --to merged"),
        (["{run}", "--to", "hub", "--repo", "a/b", "--out", "{new}"], "--out is not for --to hub"),
        (["{run}", "--to", "merged", "--out", "{new}", "--license", "My own"], "no licence's identifier"),
        (["{run}/eval", "--to", "merged", "--out", "{new}"], "is a step of kind eval, which makes no model"),
        (["{run}/sft/data_report.json", "--to", "merged", "--out", "{new}"], "is no model"),
        (["{run}/sft/nothing", "--to", "merged", "--out", "{new}"], "no model"),
        (["{empty}", "--to", "merged", "--out", "{new}"], "holds no model: it has no config.json"),
        (["no/such-model", "--to", "merged", "--out", "{new}"], "no/such-model"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], said: str, finished: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    places = {"run": finished, "new": tmp_path / "new", "empty": tmp_path / "empty"}
    refused(cli("export", *(argument.format(**places) for argument in arguments)), said)
    assert not (tmp_path / "new").exists()


def test_a_run_with_two_last_models_asks_which(run: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(run / "sft", run / "other")
    ran = cli("export", run, "--to", "merged", "--out", tmp_path / "out")
    refused(ran, "ends in several models", f"name one: {run / 'other'}, {run / 'sft'}")


def test_weights_that_are_not_whole_are_refused(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-100])
    refused(cli("export", model, "--to", "merged", "--out", tmp_path / "out"), "the weights in model.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    ran = cli("export", model, "--to", "merged", "--out", tmp_path / "out")
    refused(ran, "model-00002-of-00002.safetensors is missing")
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_changed_by_hand_is_exported_without_a_history(run: Path, tmp_path: Path, cli: Cli) -> None:
    config = run / "sft" / "model" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "temperature": 0.7}))
    ran = cli("export", run, "--to", "merged", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "are not those that the step wrote" in ran.out
    assert "How it was made" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


# --- the Hub ---------------------------------------------------------------------------------------------------------


def test_a_push_makes_a_private_repo_with_one_commit(finished: Path, hub: Hub, cli: Cli) -> None:
    ran = push(cli, finished, "--private", "--license", "mit")
    assert ran.code == 0, ran.err
    repo = hub.repos[REPO]
    assert repo.private
    assert len(repo.log) == 1
    pushed = repo.files()
    assert pushed.keys() == {*MODEL_FILES, ".gitattributes"}
    for name, content in files_of(finished / "sft" / "model").items():
        assert name == "README.md" or pushed[name] == content, name
    assert f"{hub.address}/{REPO}/commit/{repo.branches['main']}" in ran.out
    card = ModelCard(pushed["README.md"].decode())
    assert (card.data.license, card.data.model_name) == ("mit", "small")
    assert f'model="{REPO}"' in card.text
    assert not any(str(finished).encode() in content for content in pushed.values())


def test_the_pushed_model_loads_from_the_hub_with_the_same_logits(finished: Path, tmp_path: Path) -> None:
    """In a process of its own, told by the environment alone, and by Xet, which the library sends by unless it is told
    not to: push twice, load with Transformers, export what was pushed."""
    pytest.importorskip("hf_xet")
    code = (
        "import sys, torch; from smolalign import cli, console\n"
        "def run(*arguments):\n"
        "    sys.argv = ['smolalign', 'export', *arguments]\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        f"run({str(finished)!r}, '--to', 'hub', '--repo', {REPO!r})\n"
        f"run({str(finished)!r}, '--to', 'hub', '--repo', {REPO!r})\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({REPO!r})\n"
        "ids = tokenizer.apply_chat_template([{'role': 'user', 'content': 'What is 2 + 2?'}], return_dict=False)\n"
        f"torch.save(AutoModelForCausalLM.from_pretrained({REPO!r})(torch.tensor([ids])).logits, 'logits.pt')\n"
        f"run({REPO!r}, '--to', 'merged', '--out', 'back')\n"
    )
    with hub_to_write() as hub:
        settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        env = {**os.environ, **settings, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        env.pop("HF_HUB_DISABLE_XET", None)
        ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        pushed = hub.repos[REPO].files()
        assert len(hub.repos[REPO].log) == 1
        assert (hub.asked("POST /v1/xorbs"), hub.asked("PUT /lfs")) == (1, 0)
    assert "holds all of it already" in ended.stdout
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits(finished / "sft" / "model"))
    back = files_of(tmp_path / "back")
    assert back == {name: content for name, content in pushed.items() if name != ".gitattributes"}


def test_the_same_push_again_changes_and_sends_nothing(finished: Path, hub: Hub, cli: Cli) -> None:
    push(cli, finished)
    commits = dict(hub.repos[REPO].branches)
    hub.requests.clear()
    ran = push(cli, finished)
    assert ran.code == 0, ran.err
    assert "holds all of it already" in ran.out
    assert hub.repos[REPO].branches == commits
    assert hub.asked("PUT|/commit/") == 0


def test_a_new_version_is_a_commit_on_top_and_removes_weights_that_it_replaces(run: Path, hub: Hub, cli: Cli) -> None:
    push(cli, run)
    first = hub.repos[REPO].branches["main"]
    shards = {"model-00001-of-00002.safetensors": b"old", "pytorch_model.bin": b"old", "notes.md": b"mine"}
    hub.repos[REPO].commit("main", {**hub.repos[REPO].files(), **shards})
    weights = load_file(run / "sft" / "model" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, run / "sft" / "model" / "model.safetensors", metadata={"format": "pt"})
    ran = push(cli, run)
    assert ran.code == 0, ran.err
    assert "model-00001-of-00002.safetensors of the model before is removed" in ran.out
    changed = {path: how for how, path in hub.repos[REPO].log[-1]["changed"]}
    assert changed == {
        "model-00001-of-00002.safetensors": "deletedFile",
        "pytorch_model.bin": "deletedFile",
        "model.safetensors": "lfsFile",
        "README.md": "file",
    }
    assert hub.repos[REPO].files()["notes.md"] == b"mine"
    assert first in hub.repos[REPO].commits


def test_a_branch_is_made_and_main_stays(finished: Path, hub: Hub, cli: Cli) -> None:
    hub.repo(REPO)
    ran = push(cli, finished, "--revision", "try/2")
    assert ran.code == 0, ran.err
    assert hub.repos[REPO].files("try/2").keys() >= MODEL_FILES
    assert hub.repos[REPO].files("main").keys() == {".gitattributes"}


def test_a_repo_with_another_model_is_left_alone_unless_forced(finished: Path, hub: Hub, cli: Cli) -> None:
    other = json.loads((finished / "sft" / "model" / "config.json").read_text())
    files = {"config.json": json.dumps({**other, "num_hidden_layers": 30}).encode(), "model.safetensors": b"theirs"}
    hub.repo(REPO, files)
    refused(push(cli, finished), f"{REPO} holds another model: its num_hidden_layers is 30, not 2", "--force")
    assert hub.repos[REPO].log == []
    assert push(cli, finished, "--force").code == 0
    hub.repo(f"{OWNER}/quants", {"model.Q4_1.gguf": b"theirs"})
    refused(push(cli, finished, repo=f"{OWNER}/quants"), "holds weights in another format")


def test_private_never_publishes_by_way_of_a_public_repo(finished: Path, hub: Hub, cli: Cli) -> None:
    hub.repo(REPO)
    refused(push(cli, finished, "--private"), f"{REPO} is public, and --private does not hide what is pushed to it")
    assert hub.repos[REPO].log == []


def test_a_dry_run_needs_neither_network_nor_token(finished: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    ran = push(cli, finished, "--dry-run")
    assert ran.code == 0, ran.err
    assert "model.safetensors" in ran.out
    assert f'model="{REPO}"' in ran.out
    assert "license: unknown; say what you give the model out under with --license" in ran.out


def test_no_token_and_no_network_are_said_in_one_line(
    finished: Path, hub: Hub, cli: Cli, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refused(push(cli, finished), "no token for the Hub → set HF_TOKEN, or log in: hf auth login")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 32)
    refused(push(cli, finished), "the Hub does not accept the token")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    refused(push(cli, finished), "the token may only read")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(push(cli, finished), "HF_HUB_OFFLINE=1 forbids the network")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(push(cli, finished), "the Hub cannot be reached")
    assert hub.repos == {}


def test_a_repo_of_somebody_else_is_refused_in_one_line(finished: Path, hub: Hub, cli: Cli) -> None:
    refused(push(cli, finished, repo="others/small"), "no rights to write to others/small")
    hub.repo("others/there")
    refused(push(cli, finished, repo="others/there"), "no rights to write to others/there")
    assert hub.repos["others/there"].log == []


@pytest.mark.parametrize("name", ["small", "a/b/c", "ada/two words", "ada/..", "ada/x--y", "ada/x.git", "ada/", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(name: str, finished: Path, hub: Hub, cli: Cli) -> None:
    refused(push(cli, finished, repo=name), "OWNER/NAME")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("POST", "/commit/", 429), "the Hub asks to wait: too many requests"),
        (Fault("POST", "/commit/", 503), "the Hub failed (503)"),
        (Fault("POST", "/commit/", 412), "was changed meanwhile"),
        (Fault("POST", "/commit/", 409), "was changed meanwhile"),
        (Fault("POST", "/commit/", "cut"), "the connection was cut"),
        (Fault("PUT", "/lfs/", 403), "no rights to write"),
        (Fault("PUT", "/lfs/", 500, times=99), "the Hub failed (500)"),
        (Fault("PUT", "/lfs/", "cut", times=99), "the connection was cut"),
        (Fault("POST", "/preupload/", 429, times=99), "the Hub asks to wait"),
        (Fault("POST", "/api/repos/create", 402), "the Hub refused it (402)"),
        (Fault("POST", "/api/validate-yaml", 400), "Invalid metadata in README.md"),
        (Fault("GET", "whoami", 429), "the Hub asks to wait"),
    ],
    ids=lambda value: f"{value.method} {value.path} {value.what}" if isinstance(value, Fault) else "",
)
def test_what_goes_wrong_is_one_line_and_the_same_command_completes(
    fault: Fault, said: str, finished: Path, hub: Hub, cli: Cli, impatient: None
) -> None:
    hub.faults.append(fault)
    refused(push(cli, finished), said)
    assert REPO not in hub.repos or hub.repos[REPO].log == []
    hub.faults.clear()
    arrived, sent = len(hub.lfs), hub.asked("PUT")
    assert push(cli, finished).code == 0
    assert hub.repos[REPO].files().keys() >= MODEL_FILES
    # What had arrived is not sent twice.
    assert hub.asked("PUT") - sent == 1 - arrived


def test_faults_that_pass_are_waited_out(finished: Path, hub: Hub, cli: Cli, impatient: None) -> None:
    hub.faults += [
        Fault("POST", "/preupload/", 429, times=2, headers={"Retry-After": "0"}),
        Fault("PUT", "/lfs/", "cut", times=2),
        Fault("POST", "/objects/batch", 502),
    ]
    ran = push(cli, finished)
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert hub.repos[REPO].files().keys() >= MODEL_FILES


def test_somebody_elses_commit_in_between_is_not_overwritten(
    finished: Path, hub: Hub, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.repo(REPO)
    from huggingface_hub import HfApi

    real = HfApi.create_commit

    def slowly(self: HfApi, *arguments: Any, **named: Any) -> Any:
        repo.commit("main", {**repo.files(), "theirs.md": b"theirs"})
        return real(self, *arguments, **named)

    monkeypatch.setattr(HfApi, "create_commit", slowly)
    refused(push(cli, finished), "was changed meanwhile", "run the same command again")
    assert repo.files().keys() == {".gitattributes", "theirs.md"}
