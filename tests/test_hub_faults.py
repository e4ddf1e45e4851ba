"""What goes wrong with the Hub is told in one line that says what to do; once it is mended, the same command goes on,
and fetches nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from beside_hub import Bench, bench
from conftest import Ran, write_jsonl
from hub import COMMIT, Fault, Files
from hub_benchmarks import arc
from hub_contents import chat_rows, dataset, smollm2

REFUSED = {"Retry-After": "1"}
ROWS = 24
SMALL = ("trainer.max_steps=1", "trainer.per_device_train_batch_size=1", "--out", "run")
AGAIN = "run the same command again: files that came whole are kept"

CHATS = dataset({"all": {"train": chat_rows(ROWS)}, "other": {"train": chat_rows(4)}}, "data/{config}", shards=3)
MODEL = smollm2("135M", True)
SHARDED = smollm2("135M", True, "40KB")


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A Hub with a set of chats in three files, and models; the working folder has recipes and rows."""
    monkeypatch.chdir(tmp_path)
    one = bench()
    one.empty({"me/chats": CHATS}, {"me/model": MODEL, "me/shards": SHARDED})
    write_jsonl(Path("chats.jsonl"), chat_rows(8))
    recipe("smoltalk")
    yield one
    one.hub.faults.clear()


def recipe(name: str, text: str = "kind: smoltalk", revision: str = "") -> Path:
    """A recipe that reads the set of chats."""
    read = "{source: me/chats, config: all" + (f", revision: {revision}" if revision else "")
    file = Path(f"{name}.yaml")
    file.write_text(f"{text}\ndata: [{read}}}]\n", encoding="utf-8")
    return file


def refused(ran: Ran, *parts: str) -> None:
    """One line that says all of this, and no finished step."""
    assert ran.code == 2, ran
    [line] = ran.err.splitlines()
    assert line.startswith("error ")
    for part in parts:
        assert part in line
    assert not list(Path("run").rglob("step.json"))
    assert "Traceback" not in ran.out


def sft(name: str) -> list[str]:
    return ["sft", "--model", name, "--data", "chats.jsonl", "--out", "run", *SMALL[:2]]


# --- datasets --------------------------------------------------------------------------------------------------------

DATA_FAULTS: dict[str, tuple[Fault, str]] = {
    "gated": (
        Fault("datasets/me/chats", 401, "GatedRepo"),
        "it is gated → accept its terms at http://127.0.0.1",
    ),
    "gated to this token": (Fault("parquet", 403, "GatedRepo"), "it is gated → accept its terms at"),
    "a token that is none": (
        Fault("datasets/me", 401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
        "the Hub does not accept your token → log in anew with `hf auth login`, or unset HF_TOKEN",
    ),
    "forbidden": (Fault("README", 403), "the Hub forbids it (403) → log in"),
    "too many requests": (
        Fault("datasets/me/chats", 429, headers=REFUSED),
        "the Hub wants fewer requests (429 Too Many Requests) → wait some minutes and run the same command again",
    ),
    "too many requests for files": (Fault("stored", 429, headers=REFUSED), "(429 Too Many Requests) → wait"),
    "down": (
        Fault(".", 500),
        f"the Hub fails (500 Internal Server Error) → later, {AGAIN}",
    ),
    "down where files lie": (Fault("stored", 503), f"the Hub fails (503 Service Unavailable) → later, {AGAIN}"),
    "cut for good": (Fault("stored", cut=0), f"the connection to the Hub broke off → {AGAIN}"),
    "stalled": (Fault("/api/", stall=4), f"the Hub does not answer in time → {AGAIN}"),
    "a file that is not there": (
        Fault("resolve.*00001-of", 404, "EntryNotFound", headers={"X-Repo-Commit": COMMIT}),
        "the Hub does not give data/all/train-00001-of-00003.parquet, which it lists → name another revision",
    ),
}


@pytest.mark.parametrize("case", DATA_FAULTS)
def test_a_dataset_that_does_not_come_is_told_in_one_line(beside: Bench, case: str) -> None:
    fault, message = DATA_FAULTS[case]
    beside.hub.faults.append(fault)
    refused(beside.run("smoltalk", "smoltalk.yaml", "--out", "run"), "me/chats (config all; split train): ", message)
    assert len(beside.hub.asked) < 30
    beside.hub.faults.clear()
    ran = beside.run("smoltalk", "smoltalk.yaml", "--out", "run")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(Path("run/smoltalk/data_report.json").read_text())["rows_train"] == ROWS
    assert_fetched_once(beside, "parquet")


def assert_fetched_once(beside: Bench, path: str) -> None:
    """Each file of a kind came whole once, whatever came of it in halves."""
    whole = [one.path for one in beside.hub.fetched(path) if not one.cut]
    assert len(whole) == len(set(whole)) > 0


@pytest.mark.parametrize("revision", ["v9", "d" * 40])
@pytest.mark.parametrize("command", ["smoltalk", "check"])
def test_a_revision_that_is_none_is_named(beside: Bench, command: str, revision: str) -> None:
    beside.hub.faults.append(Fault("d{40}", 404, "RevisionNotFound"))
    file = recipe("smoltalk", revision=revision)
    ran = beside.run(command, file, "--out", "run")
    said = f"me/chats (config all; split train; revision {revision}): it has no revision {revision}"
    refused(ran, said, "→ name a branch, a tag or a commit of it")


def test_a_branch_a_tag_and_a_commit_are_revisions(beside: Bench) -> None:
    beside.hub.refs = {"main": COMMIT, "v1": "e" * 40}
    for number, revision in enumerate(("v1", "e" * 40, "main")):
        ran = beside.run("smoltalk", recipe("smoltalk", revision=revision), "--out", f"run{number}")
        assert (ran.code, ran.err) == (0, "")
    assert_fetched_once(beside, "parquet")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("stored.*00001-of", cut=700, times=1),
        Fault("stored", cut=700),
        Fault("datasets/me/chats", 429, headers=REFUSED, times=3),
        Fault("resolve", 500, times=3),
        Fault("README", cut=0, times=2),
    ],
    ids=["cut once", "cut again and again", "three requests too many", "down for a moment", "cut before a byte"],
)
def test_what_the_library_tries_again_is_not_noticed(beside: Bench, fault: Fault) -> None:
    beside.hub.faults.append(fault)
    ran = beside.run("smoltalk", "smoltalk.yaml", "--out", "run")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(Path("run/smoltalk/data_report.json").read_text())["rows_train"] == ROWS
    if fault.cut:
        assert any(one.range == "bytes=512-" for one in beside.hub.fetched("stored"))


def test_files_that_came_before_the_fault_are_not_fetched_again(beside: Bench) -> None:
    beside.hub.faults.append(Fault("stored.*all/train-00002", 500))
    refused(beside.run("smoltalk", "smoltalk.yaml", "--out", "run"), "the Hub fails (500")
    before = {one.path for one in beside.hub.fetched("parquet")}
    assert len(before) == 2
    beside.hub.faults.clear()
    beside.hub.asked.clear()
    assert beside.run("smoltalk", "smoltalk.yaml", "--out", "run").code == 0
    assert not before & {one.path for one in beside.hub.fetched("parquet")}
    beside.hub.asked.clear()
    assert beside.run("smoltalk", "smoltalk.yaml", "--out", "run").code == 0
    assert not beside.hub.asked


def test_a_set_that_holds_no_rows_or_no_parquet_says_so(beside: Bench) -> None:
    beside.empty({"me/chats": {"README.md": "# Nothing yet\n"}})
    refused(beside.run("smoltalk", recipe("smoltalk"), "--out", "run"), "me/chats (config all; split train)")
    torn: Files = {name: b"PAR1" * 300 if name.endswith("parquet") else text for name, text in CHATS.items()}
    beside.empty({"me/chats": torn})
    ran = beside.run("smoltalk", "smoltalk.yaml", "--out", "run")
    refused(ran, "cannot be read: ", "→ if a file was cut off in the cache: `hf cache rm dataset/me/chats`")


@pytest.mark.parametrize("command", ["dpo", "sft", "run", "eval", "check"])
def test_every_command_that_reads_rows_tells_it(beside: Bench, command: str) -> None:
    for name, kind in {"sft": "sft", "check": "sft", "dpo": "dpo"}.items():
        recipe(name, f"kind: {kind}\nmodel: me/model\ntemplate: smollm2")
    Path("run.yaml").write_text("kind: pipeline\nsteps: {smoltalk: smoltalk.yaml}\n", encoding="utf-8")
    measured = "{chats: {task: loss, data: [{source: me/chats, config: all}]}}"
    Path("eval.yaml").write_text(f"kind: eval\nmodels: {{m: me/model}}\ntasks: {measured}\n", encoding="utf-8")
    beside.hub.faults.append(Fault("datasets/me/chats", 401, "GatedRepo"))
    refused(beside.run(command, f"{command}.yaml", "--out", "run"), "me/chats (", "it is gated → accept its terms")


# --- models ----------------------------------------------------------------------------------------------------------

MODEL_FAULTS: dict[str, tuple[Fault, str]] = {
    "gated": (Fault("me/model", 401, "GatedRepo"), "it is gated → accept its terms at http://127.0.0.1"),
    "gated files": (Fault("resolve", 403, "GatedRepo"), "it is gated → accept its terms at"),
    "a token that is none": (
        Fault("me/model", 401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
        "the Hub does not accept your token → log in anew",
    ),
    "too many requests": (
        Fault("me/model", 429, headers=REFUSED),
        "the Hub wants fewer requests (429 Too Many Requests) → wait some minutes",
    ),
    "down": (Fault("me/model", 500), f"the Hub fails (500 Internal Server Error) → later, {AGAIN}"),
    # Transformers would make a tokenizer without tokens of what is left.
    "a tokenizer that does not come": (Fault("tokenizer.json", 500), "the Hub fails (500"),
    "weights that do not come": (Fault("stored", 500), "the Hub fails (500"),
    "cut for good": (Fault("stored", cut=0), f"the connection to the Hub broke off → {AGAIN}"),
    "no answer": (Fault("/api/", stall=0.1), f"the connection to the Hub broke off → {AGAIN}"),
    "a file that is not there": (
        Fault("resolve.*tokenizer.json", 404, "EntryNotFound", headers={"X-Repo-Commit": COMMIT}),
        "the Hub does not give tokenizer.json, which it lists",
    ),
}


@pytest.mark.parametrize("case", MODEL_FAULTS)
def test_a_model_that_does_not_come_is_told_in_one_line(beside: Bench, case: str) -> None:
    fault, message = MODEL_FAULTS[case]
    beside.hub.faults.append(fault)
    refused(beside.run(*sft("me/model")), f"cannot load the model me/model from the Hub: {message}")
    assert len(beside.hub.asked) < 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/none", "no such model on the Hub, or no access to it → check the id, or name a local checkpoint"),
        ("me/model@v9", "it has no revision v9 → name a branch, a tag or a commit of it"),
    ],
)
def test_a_model_that_is_none_is_named(beside: Bench, name: str, message: str) -> None:
    refused(beside.run(*sft(name)), f"cannot load the model {name} from the Hub: {message}")


def test_weights_that_came_before_the_fault_are_not_fetched_again(beside: Bench) -> None:
    beside.hub.faults.append(Fault("stored.*model-00004", 500))
    refused(beside.run(*sft("me/shards")), "me/shards from the Hub: the Hub fails (500")
    beside.hub.faults[:] = [Fault("stored.*model-00004", cut=700, times=2)]
    ran = beside.run(*sft("me/shards"))
    assert (ran.code, ran.err) == (0, "")
    assert_fetched_once(beside, "safetensors")
    assert [one.range for one in beside.hub.fetched("model-00004")] == ["", "bytes=512-", "bytes=1024-"]
    assert (Path("run/sft/model") / "model.safetensors").is_file()


def _without(*names: str, **files: str | bytes) -> Files:
    return {**{name: content for name, content in MODEL.items() if name not in names}, **files}


BROKEN: dict[str, tuple[Files, str]] = {
    "torn config": (_without(**{"config.json": '{"a'}), "config.json is not JSON: "),
    "config that is a list": (_without(**{"config.json": "[]"}), "config.json is no JSON object → download it anew"),
    "no config": (_without("config.json"), "it has no config.json → name "),
    "unknown architecture": (
        _without(**{"config.json": '{"model_type": "smolthing"}'}),
        "The checkpoint you are trying to load has model type",
    ),
    "no weights": (_without("model.safetensors"), "it has no weights in safetensors, and no others are loaded"),
    "pickled weights": (
        _without("model.safetensors", **{"pytorch_model.bin": b"\x80\x04."}),
        "it has no weights in safetensors, and no others are loaded → name a model with model.safetensors",
    ),
    "cut weights": (
        _without(**{"model.safetensors": bytes(MODEL["model.safetensors"][:3000])}),  # type: ignore[arg-type]
        "model.safetensors is cut off or broken (Error",
    ),
    "no tokenizer": (_without("tokenizer.json"), "it has no tokenizer.json → name a checkpoint with its tokenizer"),
    "torn tokenizer": (_without(**{"tokenizer.json": '{"x'}), "tokenizer.json is not JSON: "),
    "a shard that is missing": (
        {name: content for name, content in SHARDED.items() if name != "model-00002-of-00009.safetensors"},
        "1 of its 9 weight files are missing, such as model-00002-of-00009.safetensors → download it anew",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_model_that_is_not_whole_says_what_is_wrong(beside: Bench, case: str) -> None:
    files, message = BROKEN[case]
    beside.empty({}, {"me/model": files})
    refused(beside.run(*sft("me/model")), f"cannot load the model me/model: {message}")
    assert not beside.hub.fetched("pytorch_model.bin")


def test_weights_that_were_cut_off_in_the_cache_are_told_and_can_be_had_anew(beside: Bench) -> None:
    assert beside.run(*sft("me/model")).code == 0
    [link] = beside.cache.rglob("model.safetensors")
    stored = link.resolve()
    stored.write_bytes(stored.read_bytes()[:3000])
    again = [*sft("me/model"), "--fresh", "--out", "run2"]
    ran = beside.run(*again)
    assert ran.code == 2
    assert "model.safetensors is cut off or broken" in ran.err
    assert "→ download it anew: `hf cache rm model/me/model`, then the same command" in ran.err
    link.unlink()
    stored.unlink()
    assert beside.run(*again).code == 0


def test_a_model_that_was_downloaded_is_read_without_the_hub(beside: Bench) -> None:
    assert beside.run(*sft("me/model")).code == 0
    beside.hub.faults.append(Fault(".", 500))
    assert beside.run(*sft("me/model"), "--fresh").code == 0


# --- benchmarks ------------------------------------------------------------------------------------------------------


def test_a_benchmark_that_does_not_come_is_told_and_then_measured(beside: Bench) -> None:
    rows = {split: [arc(number) for number in range(4)] for split in ("train", "validation", "test")}
    beside.empty({"allenai/ai2_arc": dataset({"ARC-Easy": rows})}, {"me/model": MODEL})
    text = "kind: eval\nmodels: {mine: me/model}\ntasks: {arc: {task: benchmark, benchmark: arc_easy}}\n"
    Path("arc.yaml").write_text(text, encoding="utf-8")
    said = "cannot read arc_easy from the Hub (allenai/ai2_arc): "
    for fault, message in (
        (Fault("datasets", 401, "GatedRepo"), "it is gated → accept its terms at"),
        (Fault("stored", cut=0), f"the connection to the Hub broke off → {AGAIN}; or set files to the folder"),
        (Fault("/api/datasets", stall=4), "the Hub does not answer in time"),
    ):
        beside.hub.faults[:] = [fault]
        refused(beside.run("eval", "arc.yaml", "--out", "run"), said, message)
    beside.hub.faults.clear()
    ran = beside.run("eval", "arc.yaml", "--out", "run")
    assert (ran.code, ran.err) == (0, "")
    [step] = Path("run").glob("*/step.json")
    assert json.loads(step.read_text())["metrics"]["items"] == {"arc": 4}
