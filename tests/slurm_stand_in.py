"""Slurm's commands as far as datatrove and smolalign use them: jobs are run for real, by bash. Of an array one task
runs at a time; a job that is none runs as one script, whose `srun` starts a task for each of its nodes.

Each command is a link to this file. What is known of a job lies in `$STAND_IN/JOB`. Tasks named in `$STAND_IN/kill` end
as if memory had run out, and jobs named in `$STAND_IN/hold` do not begin. `$STAND_IN/busy` is how
often the controller will not answer.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

STATE = Path(os.environ.get("STAND_IN", "/nowhere"))


def install(folder: Path) -> Path:
    """Put the commands into `folder/bin`; returns that."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        (programs / name).chmod(0o755)
    return programs


def sbatch(arguments: list[str]) -> None:
    script = Path(arguments[-1]).read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    if options.get("partition") == "gone":
        sys.exit("sbatch: error: invalid partition specified: gone")
    job = 1 + len(list(STATE.glob("[0-9]*")))
    folder = STATE / str(job)
    folder.mkdir()
    (folder / "script").write_text(script)
    if "array" not in options:
        _start(folder, "plain", str(job), options["nodes"], options["output"])
        return
    (folder / "dependency").write_text(" ".join(a for a in arguments if a.startswith("--dependency")))
    offset = next(a for a in arguments if a.startswith("--export=ALL,")).removeprefix("--export=ALL,")
    _start(folder, "runner", str(job), options["array"], options["output"], offset)


def _start(folder: Path, *words: str) -> None:
    with (folder / "runner").open("w") as log:
        runner = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(str(runner.pid))
    print(f"Submitted batch job {folder.name}")


def plain(job: str, nodes: str, output: str) -> None:
    """The cluster with a job that is no array: its script runs until it ends, and again where it asked for that."""
    folder, restarts = STATE / job, 0
    while True:
        own = {"SLURM_JOB_ID": job, "SLURM_NNODES": nodes, "SLURM_JOB_NODELIST": f"{nodes} of them"}
        own |= {"SLURM_CPUS_PER_TASK": "1"} | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})
        with open(output.replace("%j", job), "a") as log:
            script = subprocess.Popen(
                ["bash", str(folder / "script")], env=os.environ | own, stdout=log, stderr=log, start_new_session=True
            )
        (folder / "shell").write_text(str(script.pid))
        while script.poll() is None and not (folder / "requeue").exists():
            time.sleep(0.02)
        if not (folder / "requeue").exists():
            break
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()
        (folder / "requeue").unlink()
        restarts += 1
    (folder / "states").write_text(f"{job}|{script.returncode}\n")
    (folder / "ended").touch()


def runner(job: str, array: str, output: str, offset: str) -> None:
    """The cluster: it runs a job's tasks, elsewhere than in the folder that the job was submitted from."""
    before = re.findall(r"\d+$", (STATE / job / "dependency").read_text())
    while _named(job, "hold") or not all((STATE / other / "ended").exists() for other in before):
        time.sleep(0.02)
    last = int(re.fullmatch(r"0-(\d+)(?:%\d+)?", array)[1])  # type: ignore[index]
    for task in range(last + 1):
        state = "OUT_OF_MEMORY"
        if not _named(f"{job}_{task}", "kill"):
            name, _, value = offset.partition("=")
            own = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": job, "SLURM_NODELIST": "here", name: value}
            with open(output.replace("%A", job).replace("%a", str(task)), "w") as log:
                code = subprocess.call(
                    ["bash", str(STATE / job / "script")], cwd="/", env=os.environ | own, stdout=log, stderr=log
                )
            state = "FAILED" if code else "COMPLETED"
        with (STATE / job / "states").open("a") as stream:
            stream.write(f"{job}_{task}|{state}\n")
    (STATE / job / "ended").touch()


def _named(word: str, file: str) -> bool:
    return (STATE / file).exists() and word in (STATE / file).read_text().split()


def srun(arguments: list[str]) -> None:
    if arguments[0] != "-l":
        _tasks(arguments[1:])
    assert arguments[:3] == ["-l", "-n", "1"], arguments
    os.execvp(arguments[3], arguments[3:])


def _tasks(command: list[str]) -> NoReturn:
    """One task a node; where one fails, the others end."""
    count = int(os.environ["SLURM_NNODES"])
    tasks = [subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": str(node)}) for node in range(count)]
    codes: list[int | None] = [None]
    while None in codes and not any(codes):
        time.sleep(0.02)
        codes = [task.poll() for task in tasks]
    for task in tasks:
        task.kill()
        task.wait()
    sys.exit(max(abs(code or 0) for code in codes))


def squeue(arguments: list[str]) -> None:
    jobs = next(a for a in arguments if a.startswith("--jobs=")).removeprefix("--jobs=").split(",")
    if (STATE / "busy").exists() and (times := int((STATE / "busy").read_text())):
        (STATE / "busy").write_text(str(times - 1))
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    known = [job for job in jobs if (STATE / job).is_dir()]
    if not known:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for job in known:
        if not (STATE / job / "ended").exists():
            print("RUNNING")


def sacct(arguments: list[str]) -> None:
    jobs = next(a for a in arguments if a.startswith("--jobs=")).removeprefix("--jobs=").split(",")
    for job in jobs:
        if (STATE / job / "states").exists():
            print((STATE / job / "states").read_text(), end="")


def scancel(jobs: list[str]) -> None:
    for job in jobs:
        if not (STATE / job / "ended").exists():
            os.killpg(int((STATE / job / "pid").read_text()), signal.SIGKILL)
            (STATE / job / "cancelled").touch()
            (STATE / job / "ended").touch()


def scontrol(arguments: list[str]) -> None:
    if arguments[0] == "requeue":
        (STATE / arguments[1] / "requeue").touch()
        return
    assert arguments[:2] == ["show", "hostnames"]
    nodes = re.fullmatch(r"(\d+) of them", arguments[2])
    print("\n".join(["127.0.0.1"] * int(nodes[1])) if nodes else arguments[2])


if __name__ == "__main__":
    command = globals()[sys.argv[1]]
    command(*sys.argv[2:]) if command in (runner, plain) else command(sys.argv[2:])
