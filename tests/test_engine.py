"""The same assembly on datatrove's executors: the same bytes, the same errors, and nothing left behind."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import slurm_stand_in
from conftest import Ran, write_jsonl

from smolalign.data.assembly.engine import stages as engines
from smolalign.data.assembly.engine.file import Engine, read_engine
from smolalign.data.assembly.engine.work import Share, Stage, executor_of, write_stage
from smolalign.errors import Failed, UserError
from smolalign.report import Silent
from smolalign.store import read_json

Cli = Callable[..., Ran]

LOCAL = "engine: local\ntasks: 4\nworkers: 2\n"
SLURM = "engine: slurm\ntasks: 3\ntime: 20:00:00\npartition: cpu\nmax_array_size: 2\n"
RECIPE = """\
kind: smoltalk
data: [{source: a.jsonl}, {source: b.jsonl, repeat: 2}]
deduplicate: {near: 0.8}
decontaminate: {against: [{source: questions.jsonl}]}
test_fraction: 0.2
max_rejected: 0.1
"""


def record(prompt: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def words(seed: str, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices([f"w{number}" for number in range(5000)], k=count))


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a recipe whose sources are cut into several parts, and hold all that is dropped for some reason."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smolalign.data.records._PART_BYTES", 30_000)
    monkeypatch.setattr("smolalign.data.assembly.plan._BUCKET_ROWS", 100)
    for seconds in engines._SECONDS_BETWEEN_LOOKS:
        monkeypatch.setitem(engines._SECONDS_BETWEEN_LOOKS, seconds, 0.05)
    question = words("question")
    for name in "ab":
        rows = [record(f"{name} {number}", words(f"{name} {number}")) for number in range(100)]
        rows += [record("a 1", words("a 1")), record("q", question), {"messages": [{"role": "user"}]}]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    write_jsonl(tmp_path / "questions.jsonl", [{"question": question}])
    (tmp_path / "smoltalk.yaml").write_text(RECIPE)
    (tmp_path / "local.yaml").write_text(LOCAL)
    (tmp_path / "slurm.yaml").write_text(SLURM)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-in for Slurm, whose commands are on the path."""
    monkeypatch.setenv("PATH", f"{slurm_stand_in.install(tmp_path / 'slurm')}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path / "slurm"))
    monkeypatch.setattr("smolalign.data.assembly.engine.slurm._SECONDS_BETWEEN_LOOKS", 0.05)
    return tmp_path / "slurm"


def made(out: str) -> dict[str, bytes]:
    """The shards, the rows set aside and the report of a run."""
    folder = Path(out, "smoltalk")
    files = [*sorted((folder / "data").iterdir()), folder / "rejected.jsonl", folder / "data_report.json"]
    return {file.name: file.read_bytes() for file in files}


def jobs(slurm: Path) -> list[str]:
    return sorted(path.name for path in slurm.glob("[0-9]*"))


# --- the same result -------------------------------------------------------------------------------------------------


def test_the_local_executor_gives_the_very_files_of_the_pool(cli: Cli) -> None:
    assert cli("smoltalk", "smoltalk.yaml", "--out", "pool").code == 0
    ran = cli("smoltalk", "smoltalk.yaml", "--out", "local", "--engine", "local.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert "preparing in 4 tasks on local" in ran.out
    assert "🛠" not in ran.out
    assert made("local") == made("pool")
    assert len(made("pool")) == 4
    steps = [read_json(Path(out, "smoltalk", "step.json")) or {} for out in ("pool", "local")]
    for name in ("fingerprint", "output", "metrics", "data"):
        assert steps[0][name] == steps[1][name]
    # What was made on an engine is done without one as well.
    assert "cached" in cli("smoltalk", "smoltalk.yaml", "--out", "local").out


PRETRAIN = """\
kind: pretrain
data: [{source: texts.jsonl}]
tokenizer: {vocab_size: 300}
"""


@pytest.mark.slow
def test_an_engine_tokenizes_to_the_very_files_of_the_pool(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    # More rows than Parquet has in a group, which is the least that a shard of tokens holds.
    write_jsonl(Path("texts.jsonl"), [{"text": words(f"text {number}")} for number in range(2500)])
    Path("pretrain.yaml").write_text(PRETRAIN)
    monkeypatch.setattr("smolalign.data.tokens.tokenize._SHARD_BYTES", (20_000, 20_000))
    found = []
    for engine in ([], ["--engine", "local.yaml"]):
        monkeypatch.setenv("XDG_CACHE_HOME", f"cache{len(engine)}")
        ran = cli("tokenize", "pretrain.yaml", "--out", f"run{len(engine)}", *engine)
        assert ran.code == 0, ran.err
        home = Path(f"cache{len(engine)}/smolalign/tokens")
        found.append({file.relative_to(home): file.read_bytes() for file in home.rglob("0*") if file.is_file()})
    assert len(found[0]) > 4
    assert found[0] == found[1]
    assert "tokenizing texts.jsonl in" in ran.out


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_very_files_of_the_pool(cli: Cli) -> None:
    Path("ray.yaml").write_text("engine: ray\ntasks: 3\nmem_per_cpu_gb: 0.5\n")
    assert cli("smoltalk", "smoltalk.yaml", "--out", "pool").code == 0
    ran = cli("smoltalk", "smoltalk.yaml", "--out", "ray", "--engine", "ray.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert made("ray") == made("pool")


def test_slurm_gives_the_very_files_of_the_pool(cli: Cli, slurm: Path) -> None:
    assert cli("smoltalk", "smoltalk.yaml", "--out", "pool").code == 0
    (slurm / "busy").write_text("3")
    ran = cli("smoltalk", "smoltalk.yaml", "--out", "slurm-run", "--engine", "slurm.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert made("slurm-run") == made("pool")
    # Three tasks in arrays of two at most, one task that chooses, two shards; and nothing else.
    assert jobs(slurm) == ["1", "2", "3", "4"]
    assert (slurm / "busy").read_text() == "0"
    assert not list(slurm.glob("*/cancelled"))
    assert not (Path("slurm-run") / "smoltalk" / ".slurm-jobs").exists()
    script = (slurm / "1" / "script").read_text()
    for line in ("time=20:00:00", "array=0-1", "job-name=smolalign", "partition=cpu"):
        assert f"#SBATCH --{line}\n" in script


# --- taken up --------------------------------------------------------------------------------------------------------


def start(out: str, *engine: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "smolalign.cli", "smoltalk", "smoltalk.yaml", "--out", out, *engine]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(there: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        assert process is None or process.poll() is None
        time.sleep(0.01)


def at_work(folder: str) -> list[int]:
    """Processes that were started with the folder in their command line, and all that those have started."""
    groups, leaders = {}, set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            groups[int(process.name)] = os.getpgid(int(process.name))
            if f"launch('{folder}" in (process / "cmdline").read_text(errors="replace"):
                leaders.add(groups[int(process.name)])
    return [process for process, group in groups.items() if group in leaders]


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends the processes on Linux only")
def test_a_killed_run_ends_its_workers_and_goes_on_to_the_very_same_files(tmp_path: Path) -> None:
    for name in "abcd":
        write_jsonl(tmp_path / f"{name}.jsonl", [record(f"{name} {i}", words(f"{name} {i}", 300)) for i in range(2000)])
    text = RECIPE.replace("{source: a.jsonl}", "{source: a.jsonl}, {source: c.jsonl}, {source: d.jsonl}")
    (tmp_path / "smoltalk.yaml").write_text(text)
    (tmp_path / "local.yaml").write_text("engine: local\ntasks: 2\nworkers: 2\n")
    process = start("killed", "--engine", "local.yaml")
    work = tmp_path / "killed" / "smoltalk" / "checkpoints" / "assembly"
    wait_for(lambda: list(work.glob("unit-*.json")), process)
    group = at_work(str(work))
    assert len(group) >= 4  # the executor, its manager and two workers
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in group))
    written = {file: file.stat().st_mtime_ns for file in work.glob("unit-*.json")}
    assert 1 <= len(written) < 4
    again = start("killed", "--engine", "local.yaml")
    while again.poll() is None:
        for file, moment in written.items():
            with contextlib.suppress(FileNotFoundError):
                assert file.stat().st_mtime_ns == moment
        time.sleep(0.01)
    assert again.wait() == 0
    ended = read_json(tmp_path / "killed" / "smoltalk" / "step.json") or {}
    assert ended["resumed"]
    assert start("whole").wait() == 0
    assert ended["output"] == (read_json(tmp_path / "whole" / "smoltalk" / "step.json") or {})["output"]


def test_jobs_of_a_killed_run_are_cancelled_before_the_next_goes_on(cli: Cli, slurm: Path) -> None:
    (slurm / "hold").write_text("1")
    process = start("out", "--engine", "slurm.yaml")
    wait_for(Path("out/smoltalk/.slurm-jobs").exists, process)
    process.kill()
    process.wait()
    assert not list(slurm.glob("*/cancelled"))
    Path("smoltalk.yaml").write_text(RECIPE.replace("0.2", "0.3"))
    assert cli("smoltalk", "smoltalk.yaml", "--out", "out", "--engine", "slurm.yaml").code == 0
    assert [path.parent.name for path in slurm.glob("*/cancelled")] == ["1"]
    assert cli("smoltalk", "smoltalk.yaml", "--out", "pool").code == 0
    assert made("out") == made("pool")


def test_a_run_that_is_broken_off_cancels_its_jobs(slurm: Path) -> None:
    (slurm / "hold").write_text("1")
    process = start("out", "--engine", "slurm.yaml")
    wait_for((slurm / "1" / "pid").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode().strip()) == (130, "stopped; run the same command again to go on")
    assert (slurm / "1" / "cancelled").exists()
    assert not Path("out/smoltalk/.slurm-jobs").exists()


def test_tasks_that_slurm_killed_are_told_and_done_by_the_next_run(
    cli: Cli, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines._Jobs, "patience", 0.2)
    (slurm / "kill").write_text("1_1")
    ran = cli("smoltalk", "smoltalk.yaml", "--out", "out", "--engine", "slurm.yaml")
    work = Path("out/smoltalk/checkpoints/assembly").absolute()
    assert ran.code == 2
    logs = next(work.glob("engine/preparing-*/logs"))
    assert ran.err.strip() == (
        f"error {logs}: Slurm's jobs 1, 2 left 1 of 4 parts undone (1_1 OUT_OF_MEMORY) → "
        "raise mem_per_cpu_gb; run the same command again to go on"
    )
    staged = {file.name: file.stat().st_mtime_ns for file in work.glob("unit-*.json")}
    assert len(staged) == 3
    (slurm / "kill").unlink()
    assert cli("smoltalk", "smoltalk.yaml", "--out", "out", "--engine", "slurm.yaml").code == 0
    assert "#SBATCH --array=0-0\n" in (slurm / "3" / "script").read_text()
    assert cli("smoltalk", "smoltalk.yaml", "--out", "pool").code == 0
    assert made("out") == made("pool")


# --- errors ----------------------------------------------------------------------------------------------------------


def spoil(file: Path) -> None:
    """Rows in Parquet of which the first group can be read and the second not."""
    rows = [record(f"p {number}", words(f"p {number}")) for number in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=1000)
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    content = bytearray(file.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 200] = b"\xff" * 200
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("kind", "wrong", "where"),
    [
        ("local", "source", "preparing"),
        ("slurm", "source", "preparing"),
        ("local", "broken", "preparing"),
        ("slurm", "filter", "choosing"),
    ],
)
def test_an_error_is_the_very_line_that_it_is_without_an_engine(
    cli: Cli, slurm: Path, kind: str, wrong: str, where: str
) -> None:
    text = RECIPE
    if wrong == "source":
        spoil(Path("c.parquet"))
        text = text.replace("{source: a.jsonl}", "{source: c.parquet}")
    elif wrong == "filter":
        text += "filters: {words: {min: 100000}}\n"
    else:
        text = text.replace("max_rejected: 0.1", "max_rejected: 0.001")
    Path("smoltalk.yaml").write_text(text)
    without = cli("smoltalk", "smoltalk.yaml", "--out", "out")
    shutil.rmtree("out")
    ran = cli("smoltalk", "smoltalk.yaml", "--out", "out", "--engine", f"{kind}.yaml")
    assert (ran.code, ran.err) == (without.code, without.err)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert list(Path("out/smoltalk/checkpoints/assembly/engine").glob(f"{where}-*"))
    assert not Path("out/smoltalk/.slurm-jobs").exists()
    # A process that was killed may take a moment to leave.
    wait_for(lambda: not at_work(str(Path("out").absolute())))


def test_jobs_that_may_be_at_work_and_cannot_be_ended_from_here_are_told(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolalign.data.assembly.engine.slurm._SECONDS_TO_LEAVE", 0.0)
    note = Path("out/smoltalk/.slurm-jobs")
    note.parent.mkdir(parents=True)
    note.write_text("7\n8\n")
    ran = cli("smoltalk", "smoltalk.yaml", "--out", "out")
    assert (ran.code, ran.err) == (
        2,
        "error out/smoltalk/.slurm-jobs: Slurm's jobs 7, 8 cannot be ended: squeue: No such file or directory → "
        "scancel 7 8 where Slurm answers, then remove that file\n",
    )
    note.unlink()
    assert cli("smoltalk", "smoltalk.yaml", "--out", "out").code == 0


def test_what_slurm_says_to_a_job_that_it_refuses_is_told(cli: Cli, slurm: Path) -> None:
    Path("slurm.yaml").write_text(SLURM.replace("cpu", "gone"))
    ran = cli("smoltalk", "smoltalk.yaml", "--engine", "slurm.yaml")
    assert ran.code == 2
    assert "Slurm refused the jobs: sbatch: error: invalid partition specified: gone → mend slurm.yaml" in ran.err
    Path("slurm.yaml").write_text(f"{SLURM}job_id_position: 0\n")
    ran = cli("smoltalk", "smoltalk.yaml", "--engine", "slurm.yaml")
    assert "'Submitted' is no job's id → scancel it, and set job_id_position in slurm.yaml" in ran.err


def touch(folder: Path, number: int) -> None:
    if (folder / "fail").exists() and number == 2:
        raise ZeroDivisionError("by nought")
    if (folder / "die").exists() and number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{number}").touch()


def run_locally(folder: Path, **options: Any) -> list[int]:
    run = engines.stages_on(Engine("local", 3, options, Path("e.yaml")), folder / "home", folder / "note", Silent())
    return list(run("touching", touch, [(folder, number) for number in range(7)]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_or_killed_task_never_passes_and_nothing_old_counts_as_done(tmp_path: Path, workers: int) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(Failed, match="ZeroDivisionError: by nought"):
        run_locally(tmp_path, workers=workers)
    (tmp_path / "fail").rename(tmp_path / "die")
    with pytest.raises(UserError, match=r"a worker process was killed|left \d of 7 parts undone"):
        run_locally(tmp_path, workers=workers)
    (tmp_path / "die").unlink()
    for number in range(7):
        (tmp_path / str(number)).unlink(missing_ok=True)
    assert sorted(run_locally(tmp_path, workers=workers)) == list(range(7))
    assert all((tmp_path / str(number)).exists() for number in range(7))


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- local", "engine.yaml: an engine is a mapping that begins with engine:"),
        ("tasks: 3", "engine.yaml:1: no engine → use one of local, slurm, ray"),
        ("tasks: 3\nengine: slrum", "engine.yaml:2: unknown engine 'slrum' → did you mean slurm?"),
        ("engine: local", "engine.yaml:1: tasks is missing → add tasks:"),
        ("engine: local\ntasks: 0", "engine.yaml:2: tasks: input should be greater than or equal to 1, but is 0"),
        ("engine: local\ntasks: 2\nworker: 1", "engine.yaml:3: unknown key worker → did you mean workers?"),
        ("engine: local\ntasks: 2\npartition: cpu", "engine.yaml:3: unknown key partition → known keys: engine, tasks"),
        ("engine: local\ntasks: 2\nworkers: 0", "engine.yaml:3: workers: input should be greater than or equal to 1"),
        ("engine: local\ntasks: 2\ntasks: 3", "engine.yaml:3: the key 'tasks' stands twice → keep one of them"),
        ("engine: slurm\ntasks: 2\ntime: 1:00:00", "engine.yaml:1: partition is missing → add partition:"),
        ("engine: slurm\ntasks: 2\npartition: cpu\ntime: [1]", "engine.yaml:4: time: input should be a valid string"),
        ("engine: local\ntasks: 2\nlogging_dir: x", "engine.yaml:3: logging_dir is set by smolalign → leave it out"),
        ("engine: local\ntasks: 2\npipeline: x", "engine.yaml:3: pipeline is set by smolalign → leave it out"),
        ("engine: ray\ntasks: 2\ndepends: x", "engine.yaml:3: depends is set by smolalign → leave it out"),
        ("engine: local\ntasks: {", "engine.yaml:3: not YAML: expected the node content"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_in_a_line(cli: Cli, text: str, message: str) -> None:
    Path("engine.yaml").write_text(f"{text}\n")
    ran = cli("smoltalk", "smoltalk.yaml", "--engine", "engine.yaml")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith(f"error {message}")
    assert not Path("runs").exists()


def test_everything_that_is_wrong_with_the_file_is_said_at_once(cli: Cli) -> None:
    Path("engine.yaml").write_text("engine: slurm\ndepends: x\npartitoin: cpu\n")
    lines = cli("smoltalk", "smoltalk.yaml", "--engine", "engine.yaml").err.splitlines()
    assert [line.split(": ", 1)[1].split(" →")[0] for line in lines] == [
        "depends is set by smolalign",
        "tasks is missing",
        "time is missing",
        "partition is missing",
        "unknown key partitoin",
    ]


def test_options_of_commands_reach_slurm_as_they_are_written(slurm: Path) -> None:
    Path("slurm.yaml").write_text(
        "engine: slurm\ntasks: 5\ntime: 1:30:00\npartition: 7\nqos:\nrequeue: no\nmem_per_cpu_gb: 4\n"
        "sbatch_args: {account: 0123, exclusive: }\n"
    )
    engine = read_engine(Path("slurm.yaml"))
    stage = Stage("slurm", engine.tasks, engine.options, touch, [(Path(), 0)] * 9, Path("note"))
    executor = executor_of(Path("stage"), stage)
    script = executor.get_launch_file_contents(executor.get_sbatch_args(executor.tasks), "true")
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"time=1:30:00", "partition=7", "mem-per-cpu=4G", "account=0123", "exclusive", "array=0-4"} <= set(lines)
    assert not [line for line in lines if line.startswith(("qos", "requeue"))]
    # The environment of the run, unless the file names another.
    assert f'export PATH="{Path(sys.executable).parent}:$PATH"' in script
    stage.options["venv_path"] = "/shared/venv/bin/activate"
    assert "source /shared/venv/bin/activate" in executor_of(Path("stage"), stage).get_launch_file_contents({}, "true")


def test_ray_is_given_what_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    Path("ray.yaml").write_text(
        "engine: ray\ntasks: 8\nworkers: 4\nmem_per_cpu_gb: 1.5\nray_remote_kwargs: {max_restarts: 2}\n"
    )
    engine = read_engine(Path("ray.yaml"))
    executor = executor_of(
        Path("stage"), Stage("ray", engine.tasks, engine.options, touch, [(Path(), 0)] * 9, Path("n"))
    )
    assert type(executor).__name__ == "RayPipelineExecutor"
    assert (executor.tasks, executor.workers, executor.mem_per_cpu_gb) == (8, 4, 1.5)
    assert executor.ray_remote_kwargs == {"max_restarts": 2}


def test_ranks_divide_the_tasks_among_them(tmp_path: Path) -> None:
    write_stage(tmp_path / "stage", Stage("local", 3, {}, touch, [(tmp_path, number) for number in range(7)], tmp_path))
    Share(str(tmp_path / "stage")).run(None, 1, 3)
    assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == ["1", "4"]


@pytest.mark.parametrize(
    ("text", "missing", "message"),
    [
        (LOCAL, "datatrove", "--engine needs datatrove, which is not installed → pip install 'smolalign[cluster]'"),
        ("engine: ray\ntasks: 2\n", "ray", "engine.yaml: Ray is not installed → pip install ray"),
        (SLURM, "sbatch", "engine.yaml: there is no sbatch on this machine → run it where Slurm's jobs are submitted"),
    ],
)
def test_what_an_engine_needs_and_is_not_there_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str, missing: str, message: str
) -> None:
    found = importlib.import_module
    gone = ImportError(missing)

    def import_module(name: str) -> Any:
        if missing == "datatrove" and name.startswith("datatrove"):
            raise gone
        return found(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    Path("engine.yaml").write_text(text)
    ran = cli("smoltalk", "smoltalk.yaml", "--engine", "engine.yaml")
    assert (ran.code, ran.err) == (2, f"error {message}\n")


def test_a_dry_run_says_the_engine_and_starts_nothing(cli: Cli, slurm: Path) -> None:
    ran = cli("smoltalk", "smoltalk.yaml", "--dry-run", "--engine", "slurm.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert "engine: slurm, at most 3 tasks a stage (slurm.yaml)" in ran.out
    assert not jobs(slurm)
