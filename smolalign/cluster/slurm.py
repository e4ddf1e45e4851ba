"""A job file for Slurm, which may be submitted again: what is done is skipped, and what was cut off goes on."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from smolalign.cluster.job import Job
from smolalign.errors import UserError

# Seconds before the time limit at which the job is told, and puts itself back into the queue.
WARNING = 120
# A job that gets nowhere within its time limit does not go on for ever.
MOST_REQUEUES = 50
# Cores for each GPU where --cpus is left out: for the loader, and for what assembles rows.
CPUS_PER_GPU = 8
# What of the environment decides where models and rows come from and lie. Tokens are not written into files.
KEPT = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "XDG_CACHE_HOME")
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,:+-]*")


@dataclass(frozen=True, slots=True)
class Slurm:
    """What Slurm is asked for besides the devices; None leaves it to the cluster."""

    time: str | None = None
    partition: str | None = None
    account: str | None = None
    gpu_type: str | None = None
    cpus: int | None = None


def slurm_script(job: Job, asked: Slurm, folder: Path) -> str:
    """The job file.

    Args:
        job: what runs.
        asked: of Slurm.
        folder: where the command is run, which all machines see.

    Raises:
        UserError: Slurm would misread a value.
    """
    _require(asked)
    options = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": asked.cpus or CPUS_PER_GPU * job.gpus,
        "gpus-per-node": f"{asked.gpu_type}:{job.gpus}" if asked.gpu_type else job.gpus,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "output": f"{job.name}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{WARNING}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    kept = [f"export {name}={shlex.quote(os.environ[name])}" for name in KEPT if os.environ.get(name)]
    command = shlex.join([sys.executable, "-m", "smolalign.cli", *job.words()])
    return _SCRIPT.format(
        options="\n".join([*lines, "#SBATCH --requeue"]),
        environment="\n".join([*kept, 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"']),
        folder=shlex.quote(str(folder)),
        most=MOST_REQUEUES,
        run=_SEVERAL.format(command=command) if job.nodes > 1 else f"srun --ntasks=1 {command} &",
    )


def _require(asked: Slurm) -> None:
    if asked.time is not None and not _TIME.fullmatch(asked.time):
        raise UserError(f"--time {asked.time!r} is no time limit of Slurm", mend="write for example 24:00:00")
    for option in ("partition", "account", "gpu_type"):
        value = getattr(asked, option)
        if value is not None and not _WORD.fullmatch(value):
            raise UserError(
                f"--{option.replace('_', '-')} {value!r} is no name that Slurm takes", mend="name it as sinfo does"
            )


_SCRIPT = """\
#!/bin/bash
{options}

# Written by: smolalign launch. Submit it again whenever it was cut off: steps that are done are skipped, and one that
# was cut off goes on from its last checkpoint.

set -euo pipefail
cd {folder}
{environment}

# Shortly before the time limit the job goes back into the queue.
trap 'if (( ${{SLURM_RESTART_COUNT:-0}} < {most} )); then
    echo "the time is up: back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || true
fi' USR1

{run}
step=$!

# A signal ends bash's wait before the command ends.
code=0
while wait "$step" && code=0 || code=$?; kill -0 "$step" 2> /dev/null; do :; done
exit "$code"
"""

_SEVERAL = """\
# One task a machine, which starts its processes itself and meets the others at the first machine.
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MEET="${{machines%%$'\\n'*}}:$((20000 + SLURM_JOB_ID % 20000))"
# shellcheck disable=SC2016 # each task has a number of its own
srun --kill-on-bad-exit=1 bash -c 'exec "$@" --machine "$SLURM_PROCID/$SLURM_NNODES@$MEET"' smolalign \\
    {command} &"""
