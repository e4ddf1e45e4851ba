"""A task file for SkyPilot: a machine of some cloud is rented, set up, and runs the command."""

from __future__ import annotations

import importlib.metadata
import os.path
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smolalign import __version__
from smolalign.cluster.job import Job
from smolalign.errors import UserError

# Where the recipe, what it reads and the runs lie on the rented machine, under its home.
FOLDER, ENVIRONMENT = "smolalign-job", "smolalign-env"
# Where storage that outlives the machine is mounted.
KEPT = "/smolalign-runs"
PORT = 29500
# A machine that has nothing to do any more is stopped.
IDLE_MINUTES = 15
_GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BUCKET = re.compile(r"[a-z0-9]+://\S+")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Sky:
    """What SkyPilot is asked for besides the number of devices."""

    gpu_type: str
    storage: str | None = None
    """A bucket such as `s3://name`, or the name of a SkyPilot volume, where runs lie; None is the machine itself."""

    @property
    def is_bucket(self) -> bool:
        return self.storage is not None and "://" in self.storage


class _Dumper(yaml.SafeDumper):
    """Writes scripts as blocks, but for those with Unicode's own line breaks, which YAML takes for plain ones there."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        breaks = any(character in text for character in "\x85\u2028\u2029\ufeff")
        return self.represent_scalar(
            "tag:yaml.org,2002:str", text, style='"' if breaks else "|" if "\n" in text else None
        )


_Dumper.add_representer(str, _Dumper.represent_str)


def remote_place(files: Sequence[Path]) -> Path:
    """The folder on this machine that `FOLDER` stands for on the other: the one that all files lie in."""
    return Path(os.path.commonpath([path.parent for path in files])) if files else Path.cwd()


def sky_task(job: Job, asked: Sky, files: Sequence[Path], extras: Sequence[str]) -> str:
    """The task file.

    Args:
        job: what runs; its paths are as they are under `FOLDER` on the rented machine.
        asked: of SkyPilot.
        files: on this machine that the recipe is made of or reads.
        extras: of the package that are installed.

    Raises:
        UserError: SkyPilot would misread a value, or several machines would share no folder.
    """
    _require(job, asked)
    place = remote_place(files)
    mounts: dict[str, Any] = {f"~/{FOLDER}/{path.relative_to(place).as_posix()}": str(path) for path in files}
    task: dict[str, Any] = {
        "name": job.name,
        "num_nodes": job.nodes,
        "resources": {
            "accelerators": f"{asked.gpu_type}:{job.gpus}",
            "autostop": {"idle_minutes": IDLE_MINUTES, "down": asked.storage is not None},
        },
    }
    if asked.is_bucket:
        mounts[KEPT] = {"source": asked.storage, "mode": "MOUNT_CACHED"}
    if mounts:
        task["file_mounts"] = mounts
    if asked.storage and not asked.is_bucket:
        task["volumes"] = {KEPT: asked.storage}
    task |= {"setup": _setup(job, extras), "run": _run(job)}
    text: str = yaml.dump(task, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"# Written by: smolalign launch\n{text}"


def submit_command(job: Job, asked: Sky, file: str) -> str:
    """What starts it: a managed job, which SkyPilot takes up elsewhere when its machine is taken away, where the runs
    outlive the machine."""
    if asked.storage:
        return shlex.join(["sky", "jobs", "launch", "-n", job.name, file])
    return shlex.join(["sky", "launch", "-c", job.name, file])


def _require(job: Job, asked: Sky) -> None:
    if not _GPU.fullmatch(asked.gpu_type):
        raise UserError(
            f"--gpu-type {asked.gpu_type!r} is no accelerator of SkyPilot", mend="such as H100; see: sky gpus list"
        )
    if asked.storage is not None and not (_BUCKET if asked.is_bucket else _VOLUME).fullmatch(asked.storage):
        raise UserError(
            f"--storage {asked.storage!r} is no bucket and no volume", mend="such as s3://name, or a volume's name"
        )
    if job.nodes > 1 and (asked.storage is None or asked.is_bucket):
        what = "several machines need a folder that all see at once" + (
            ", which a bucket is not" if asked.storage else ""
        )
        raise UserError(what, mend="--storage NAME of a SkyPilot volume (see: sky volumes), or --nodes 1")


def _setup(job: Job, extras: Sequence[str]) -> str:
    """Installs this very version, and this version of torch, in an environment of its own."""
    wanted = [f"torch=={importlib.metadata.version('torch').partition('+')[0]}"]
    wanted.append(f"smolalign[{','.join(extras)}]=={__version__}" if extras else f"smolalign=={__version__}")
    wanted += ["deepspeed"] if job.config == "zero3" and job.processes > 1 else []
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        "set -euo pipefail\n"
        f'cd "$HOME"\n'
        "python3 -m pip install --quiet uv\n"
        f"[ -d {ENVIRONMENT} ] || python3 -m uv venv --python {python} {ENVIRONMENT}\n"
        f"python3 -m uv pip install --python {ENVIRONMENT}/bin/python {shlex.join(wanted)}\n"
    )


def _run(job: Job) -> str:
    command = f'"$HOME/{ENVIRONMENT}/bin/smolalign" {shlex.join(job.words())}'
    lines = ["set -euo pipefail", f'mkdir -p "$HOME/{FOLDER}"', f'cd "$HOME/{FOLDER}"']
    if job.nodes > 1:
        lines.append('read -r first <<< "$SKYPILOT_NODE_IPS"')
        command += f' --machine "$SKYPILOT_NODE_RANK/$SKYPILOT_NUM_NODES@$first:{PORT}"'
    return "\n".join([*lines, f"exec {command}"]) + "\n"
