"""`smolalign launch`: job files that run a chain on a cluster, and what is refused before one is written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import slurm_stand_in
import torch
import yaml
from conftest import CHAIN, Ran, write_chain
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from training import logged, weights

from smolalign.cluster.job import Job, job_name
from smolalign.cluster.skypilot import Sky, sky_task
from smolalign.cluster.slurm import Slurm, slurm_script
from smolalign.store import read_json, read_manifest

Cli = Callable[..., Ran]
PYTHON = sys.executable

EVAL = """\
kind: eval
models: {sft: "@sft"}
tasks: {held: {task: loss, data: [{source: "@smoltalk", split: test}]}}
"""


@pytest.fixture
def chain(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline in a folder with a blank and a quote in its name, which is where the commands are given."""
    folder = tmp_path / "it's here"
    file = write_chain(folder, ("smoltalk", "sft"))
    shutil.copytree(tiny_model, folder / "model")
    sft = CHAIN["sft"].replace('"@pretrain"', "./model").replace("per_device_train_batch_size: 4, ", "")
    sft = sft.replace("max_steps: 12", "max_steps: 16, optim: sgd")
    (folder / "sft.yaml").write_text(f"{sft}global_batch_size: 8\n")
    monkeypatch.chdir(folder)
    return file


# --- Slurm, for real --------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Slurm's commands; the folder in which it remembers its jobs."""
    monkeypatch.setenv("PATH", f"{slurm_stand_in.install(tmp_path / 'slurm')}:{os.environ['PATH']}")
    state = tmp_path / "jobs"
    state.mkdir()
    monkeypatch.setenv("STAND_IN", str(state))
    yield state
    for job in state.iterdir():
        if not (job / "ended").exists():
            kill(job)


def kill(job: Path) -> None:
    """End a job, and all that runs for it, as if the machine were gone."""
    (job / "ended").touch()
    for file in ("pid", "shell"):
        with suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(int((job / file).read_text()), signal.SIGKILL)


def submit(file: str) -> str:
    ended = subprocess.run(["sbatch", file], capture_output=True, text=True, check=True)
    return ended.stdout.split()[-1]


def until(there: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def written(cli: Cli, *arguments: object) -> str:
    """The command to submit with, of a job file that was written."""
    ran = cli("launch", *arguments)
    assert ran.code == 0, ran.err
    return ran.out.splitlines()[-1].partition("submit it with:  ")[2]


def test_a_job_that_was_killed_is_submitted_again_and_goes_on(chain: Path, cluster: Path, cli: Cli) -> None:
    name, file = shlex.split(written(cli, chain, "sft.seed=9", "--slurm", "--gpus", 2, "--out", "runs/a b"))
    assert name == "sbatch"
    first = submit(file)
    sft = Path("runs/a b/sft")
    until(lambda: (sft / "checkpoints" / "checkpoint-4" / "trainer_state.json").exists())
    kill(cluster / first)
    second = submit(file)
    until((cluster / second / "ended").exists)
    log = Path(f"a-b-{second}.log").read_text()
    assert (cluster / second / "states").read_text() == f"{second}|0\n", log
    assert "smoltalk  cached" in log
    assert "sft: resuming from checkpoint-" in log
    assert log.splitlines()[-1] == "Talk to it:  smolalign chat runs/a b/sft/model"
    manifest: Any = read_manifest(sft)
    assert (manifest["resumed"], manifest["processes"], manifest["seed"]) == (True, 2, 9)
    assert logged(sft, "step")[-1] == 16


@pytest.mark.slow
def test_two_machines_train_what_one_process_trains_also_when_the_time_is_up(
    chain: Path, cluster: Path, cli: Cli
) -> None:
    pipeline = yaml.safe_load(chain.read_text())
    pipeline["steps"]["eval"] = yaml.safe_load(EVAL)
    chain.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    ran = cli("run", chain, "--out", "alone")
    assert ran.code == 0, ran.err
    file = shlex.split(written(cli, chain, "--slurm", "--nodes", 2, "--config", "fsdp2", "--out", "two"))[1]
    job = submit(file)
    sft = Path("two/sft")
    until(lambda: (sft / "checkpoints" / "checkpoint-4" / "trainer_state.json").exists())
    os.kill(int((cluster / job / "shell").read_text()), signal.SIGUSR1)
    until((cluster / job / "ended").exists)
    log = Path(f"two-{job}.log").read_text()
    assert (cluster / job / "states").read_text() == f"{job}|0\n", log
    assert log.count("the time is up: back into the queue") == 1
    assert "sft: resuming from checkpoint-" in log
    alone = Path("alone/sft")
    assert logged(sft, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-4)
    for key, value in weights(alone).items():
        torch.testing.assert_close(weights(sft)[key], value, rtol=1e-4, atol=1e-5)
    tables = [read_json(Path(run) / "eval" / "step.json")["metrics"]["table"] for run in ("two", "alone")]  # type: ignore[index]
    assert tables[0]["sft"] == pytest.approx(tables[1]["sft"], abs=1e-3)
    # What one process does is done by one machine, and told once.
    assert log.count("smoltalk  cached") == log.count("Talk to it:") == 1


# --- the files --------------------------------------------------------------------------------------------------------


def test_a_slurm_file_asks_for_what_was_asked_for_and_is_good_bash(
    chain: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/data/hub cache")
    monkeypatch.setenv("HF_TOKEN", "secret")
    wanted = ["--time", "1-12:00", "--partition", "gpu", "--account", "lab", "--gpu-type", "h100", "--cpus", "96"]
    written(cli, chain, "--slurm", "--gpus", 4, "--nodes", 2, *wanted, "--out-file", "jobs/x.sh")
    text = Path("jobs/x.sh").read_text()
    asked = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    options = dict(line.partition("=")[::2] for line in asked)
    assert options == {
        "job-name": "it-s-here",
        "nodes": "2",
        "ntasks-per-node": "1",
        "cpus-per-task": "96",
        "gpus-per-node": "h100:4",
        "time": "1-12:00",
        "partition": "gpu",
        "account": "lab",
        "output": "it-s-here-%j.log",
        "open-mode": "append",
        "signal": "B:USR1@120",
        "requeue": "",
    }
    assert "export HF_HOME='/data/hub cache'\n" in text
    assert "secret" not in text
    assert "--out 'runs/it'\"'\"'s here' --launch accelerate --processes 8 --config ddp &\n" in text
    assert subprocess.run(["bash", "-n", "jobs/x.sh"], check=False).returncode == 0
    if shellcheck := shutil.which("shellcheck"):
        checked = subprocess.run([shellcheck, "jobs/x.sh"], capture_output=True, text=True, check=False)
        assert checked.stdout == ""


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), min_size=1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(words=["\x85", "a'\"$(b)`c`\\\n#"], nodes=2, name="")
@given(
    words=st.lists(TEXT, max_size=4),
    nodes=st.integers(1, 3),
    name=st.text(min_size=1),
)
def test_every_word_reaches_the_command_as_it_is(
    words: list[str], nodes: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through bash, Slurm's srun, YAML and SkyPilot's shell."""
    told, programs = tmp_path / "told", tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    tell = f"#!{PYTHON}\nimport json, sys\nopen({str(told)!r}, 'w').write(json.dumps(sys.argv[1:]))\n"
    (tmp_path / "smolalign-env" / "bin").mkdir(parents=True, exist_ok=True)
    for program in (programs / "python", tmp_path / "smolalign-env" / "bin" / "smolalign"):
        program.write_text(tell)
        program.chmod(0o755)
    for program, does in (("srun", 'shift; exec "$@"'), ("scontrol", "echo one; echo two")):
        (programs / program).write_text(f"#!/bin/bash\n{does}\n")
        (programs / program).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    job = Job(job_name(name), ("run", *words), trains=True, gpus=2, nodes=nodes, config="fsdp2")
    expected = ["run", *words, "--launch", "accelerate", "--processes", str(2 * nodes), "--config", "fsdp2"]
    slurm = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NNODES": str(nodes), "SLURM_JOB_NODELIST": "x"}
    bash(slurm_script(job, Slurm(), tmp_path), tmp_path, {"PATH": f"{programs}:{os.environ['PATH']}", **slurm})
    assert json.loads(told.read_text())[2:] == expected + (["--machine", f"1/{nodes}@one:20007"] if nodes > 1 else [])
    task = yaml.safe_load(sky_task(job, Sky("H100", "disk"), [], []))
    sky = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    bash(task["run"], tmp_path, {"HOME": str(tmp_path), **sky})
    assert json.loads(told.read_text()) == expected + (["--machine", f"1/{nodes}@10.0.0.1:29500"] if nodes > 1 else [])
    assert task["name"] == job.name


def bash(script: str, folder: Path, environment: dict[str, str]) -> None:
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_a_sky_task_brings_the_recipe_and_what_it_reads_and_runs(chain: Path, cli: Cli, tmp_path: Path) -> None:
    options = ["--skypilot", "--gpus", 8, "--gpu-type", "H100", "--storage", "s3://runs"]
    command = written(cli, chain, *options)
    assert shlex.split(command) == ["sky", "jobs", "launch", "-n", "it-s-here", "it-s-here.sky.yaml"]
    task = yaml.safe_load(Path("it-s-here.sky.yaml").read_text())
    here = chain.parent
    names = ("chats.jsonl", "model", "pipeline.yaml", "sft.yaml", "smoltalk.yaml")
    mounts = {f"~/smolalign-job/{name}": str(here / name) for name in names}
    assert task["file_mounts"] == {**mounts, "/smolalign-runs": {"source": "s3://runs", "mode": "MOUNT_CACHED"}}
    assert task["resources"]["accelerators"] == "H100:8"
    assert task["num_nodes"] == 1
    assert "smolalign==" in task["setup"]
    assert f"torch=={torch.__version__.partition('+')[0]}" in task["setup"]
    for part in ("setup", "run"):
        assert subprocess.run(["bash", "-n", "-c", task[part]], check=False).returncode == 0
    # On a machine that has just these files, the very command finds all that it needs.
    home = tmp_path / "home"
    for there, local in mounts.items():
        place = home / there.removeprefix("~/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if Path(local).is_dir() else shutil.copy)(local, place)
    program = home / "smolalign-env" / "bin" / "smolalign"
    program.parent.mkdir(parents=True)
    runs = shlex.quote(str(home / "runs"))
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -m smolalign.cli "$@" --out {runs} --step smoltalk\n')
    program.chmod(0o755)
    bash(task["run"], home, {"HOME": str(home)})
    assert (home / "runs" / "smoltalk" / "step.json").is_file()


def test_skypilot_reads_the_tasks(chain: Path, cli: Cli, tmp_path: Path) -> None:
    """SMOLALIGN_SKYPILOT names a folder that `pip install --target FOLDER skypilot` filled."""
    folder = os.environ.get("SMOLALIGN_SKYPILOT")
    if folder is None:
        pytest.skip("SMOLALIGN_SKYPILOT names no folder with skypilot in it")
    for number, options in enumerate((["--storage", "disk", "--nodes", 2], [], ["--storage", "gs://runs"])):
        devices = ["--gpu-type", "A100-80GB", "--gpus", 2]
        written(cli, chain, "--skypilot", *devices, "--out-file", f"{number}.yaml", *options)
    code = (
        "import sys, yaml, sky, jsonschema; from sky.utils import schemas\n"
        "for file in sys.argv[1:]:\n"
        "    task = yaml.safe_load(open(file))\n"
        "    jsonschema.validate(task, schemas.get_task_schema())\n"
        "    jsonschema.validate(task['resources'], schemas.get_resources_schema())\n"
        "    mounts = task['file_mounts'].values()\n"
        "    [jsonschema.validate(m, schemas.get_storage_schema()) for m in mounts if isinstance(m, dict)]\n"
        "task = sky.Task.from_yaml(sys.argv[1])\n"
        "print(task.num_nodes, *task.resources)"
    )
    environment = {**os.environ, "PYTHONPATH": folder, "HOME": str(tmp_path)}
    command = [PYTHON, "-c", code, "1.yaml", "0.yaml", "2.yaml"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[-2] == "1 <Cloud>({'A100-80GB': 2})"


def test_a_shipped_recipe_goes_by_its_name_and_one_gpu_needs_no_launcher(
    cli: Cli, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    written(cli, "nano/smoltalk", "--skypilot", "--gpu-type", "L4")
    task = yaml.safe_load(Path("nano.sky.yaml").read_text())
    assert "file_mounts" not in task
    assert task["run"].splitlines()[-1].endswith('/bin/smolalign" smoltalk nano/smoltalk --out runs/nano')


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ([], "for which cluster? → add either --slurm or --skypilot"),
        (["--slurm", "--skypilot"], "for which cluster?"),
        (
            ["--slurm", "--gpus", "3"],
            "sft.yaml:8: global_batch_size 8 does not divide among 3 processes → take 1, 2, 4 or 8",
        ),
        (["--slurm", "--time", "a day"], "--time 'a day' is no time limit of Slurm → write for example 24:00:00"),
        (["--slurm", "--partition", "a b"], "--partition 'a b' is no name that Slurm takes"),
        (["--slurm", "--storage", "s3://x"], "--storage is for --skypilot → leave out --storage"),
        (["--slurm", "--config", "zero"], "no launch configuration 'zero'"),
        (["--slurm", "sft.max_lenght=3"], "unknown key max_lenght"),
        (["--slurm", "sft.model=./gone"], "no model ./gone"),
        (["--skypilot"], "--skypilot needs the kind of GPU → add --gpu-type"),
        (["--skypilot", "--gpu-type", "H100:8"], "--gpu-type 'H100:8' is no accelerator of SkyPilot"),
        (["--skypilot", "--gpu-type", "H100", "--time", "1:00:00"], "--time is for --slurm"),
        (
            ["--skypilot", "--gpu-type", "H100", "--nodes", "2"],
            "several machines need a folder that all see at once → ",
        ),
        (
            ["--skypilot", "--gpu-type", "H100", "--nodes", "2", "--storage", "s3://x"],
            "several machines need a folder that all see at once, which a bucket is not",
        ),
        (
            ["--skypilot", "--gpu-type", "H100", "--config", "mine.yaml"],
            "--config mine.yaml is not on the rented machine",
        ),
        (["--skypilot", "--gpu-type", "H100", "sft.model=ABSOLUTE"], "is a path on this machine alone"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_here(options: list[str], what: str, chain: Path, cli: Cli) -> None:
    before = sorted(chain.parent.iterdir())
    ran = cli("launch", chain, *[word.replace("ABSOLUTE", str(chain.parent / "model")) for word in options])
    assert ran.code == 2
    assert what in ran.err
    assert len(ran.err.splitlines()) == 1
    assert sorted(chain.parent.iterdir()) == before


def test_gpus_that_would_have_nothing_to_do_are_refused(chain: Path, cli: Cli) -> None:
    ran = cli("launch", "smoltalk.yaml", "--slurm", "--gpus", 8)
    assert ran.code == 2
    assert "nothing in it trains, and one process is all that it uses of 8 GPUs → --gpus 1" in ran.err


def test_another_job_file_is_not_overwritten(chain: Path, cli: Cli) -> None:
    written(cli, chain, "--slurm", "--out-file", "x.sh")
    written(cli, chain, "--slurm", "--out-file", "x.sh")
    ran = cli("launch", chain, "--slurm", "--time", "10", "--out-file", "x.sh")
    assert ran.code == 2
    assert "x.sh is there already, and differs" in ran.err


def test_a_batch_that_grows_with_the_processes_is_told(chain: Path, cli: Cli) -> None:
    ran = cli("launch", chain, "--slurm", "--out-file", "kept.sh")
    assert "✓ sft  global_batch_size 8: for 1, 2, 4 or 8 processes" in ran.out
    ran = cli("launch", chain, "sft.global_batch_size=null", "--slurm", "--gpus", 4)
    assert ran.code == 0
    assert "! sft  32 rows a step, 8 in one process: global_batch_size is what keeps them" in ran.out


# --- run --launch, run --step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--step", "sfd"], "no step 'sfd' in this pipeline → did you mean sft?"),
        (["--launch", "accelerate", "--processes", "3"], "sft.yaml:8: global_batch_size 8 does not divide among 3"),
        (["--machine", "0/2@a:1"], "--machine goes with --launch"),
        (
            ["--launch", "accelerate", "--processes", "2", "--machine", "2/2@a:1"],
            "--machine '2/2@a:1' is not NUMBER/MACHINES@HOST:PORT",
        ),
        (
            ["--launch", "accelerate", "--processes", "3", "--machine", "0/2@a:1"],
            "3 processes do not divide among 2 machines",
        ),
        (
            ["--launch", "accelerate", "--processes", "2", "--machine", "0/2@a:1", "--fresh"],
            "--fresh on several machines",
        ),
    ],
)
def test_a_chain_that_cannot_be_launched_so_is_refused(options: list[str], what: str, chain: Path, cli: Cli) -> None:
    ran = cli("run", chain, *options)
    assert ran.code == 2
    assert what in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_failure_of_a_step_that_takes_one_process_is_told_once(chain: Path) -> None:
    Path("chats.jsonl").write_text('{"messages": 3}\n')
    command = [sys.executable, "-m", "smolalign.cli", "run", chain, "--launch", "accelerate", "--processes", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "chats.jsonl" in ended.stderr
