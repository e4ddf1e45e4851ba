"""Slurm's commands as far as datatrove and smolalign use them: jobs are run for real, by bash, one task at a time.

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
    if options["partition"] == "gone":
        sys.exit("sbatch: error: invalid partition specified: gone")
    job = 1 + len(list(STATE.glob("[0-9]*")))
    folder = STATE / str(job)
    folder.mkdir()
    (folder / "script").write_text(script)
    (folder / "dependency").write_text(" ".join(a for a in arguments if a.startswith("--dependency")))
    offset = next(a for a in arguments if a.startswith("--export=ALL,")).removeprefix("--export=ALL,")
    with (folder / "runner").open("w") as log:
        runner = subprocess.Popen(
            [sys.executable, __file__, "runner", str(job), options["array"], options["output"], offset],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(str(runner.pid))
    print(f"Submitted batch job {job}")


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
    assert arguments[:3] == ["-l", "-n", "1"], arguments
    os.execvp(arguments[3], arguments[3:])


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
    assert arguments[:2] == ["show", "hostnames"]
    print(arguments[2])


if __name__ == "__main__":
    command = globals()[sys.argv[1]]
    command(*sys.argv[2:]) if command is runner else command(sys.argv[2:])
