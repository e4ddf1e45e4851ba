"""`--launch accelerate`: the same command once a process, through Accelerate's launcher."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smolalign.errors import Failed, UserError, UserErrors
from smolalign.processes import LAUNCHED, threads_each
from smolalign.recipe.shipped import LAUNCH_CONFIGS
from smolalign.store import write_text

# Types whose processes Accelerate would not start by itself without MPI; `torchrun` starts them like those of GPUs.
PLAIN = ("NO", "MULTI_CPU")


@dataclass(frozen=True, slots=True)
class Launch:
    """How a command is to be launched: processes in all, and Accelerate's configuration with the file it is from."""

    processes: int
    file: Path
    config: dict[str, Any]

    @property
    def machines(self) -> int:
        return int(self.config.get("num_machines") or 1)

    @property
    def machine(self) -> int:
        """This machine's number among all, from 0."""
        return int(self.config.get("machine_rank") or 0)


def plan(processes: int | None, config: str | None, machine: str | None = None) -> Launch:
    """Read what `--processes`, `--config` and `--machine` ask for.

    Args:
        processes: in all, on every machine together; None takes the configuration's `num_processes`.
        config: `ddp`, `fsdp2` or `zero3`, or a file of `accelerate config`; None is `ddp`.
        machine: `1/2@10.0.0.1:29500`, machine 1, counted from 0, of 2 that meet at that address of machine 0; None
            leaves it to the configuration.

    Raises:
        UserError: there is no such configuration, it says too little, or it needs a package that is missing.
    """
    file = _config_file(config or "ddp")
    fields = {**_read(file), **(_machine(machine) if machine is not None else {})}
    total = processes if processes is not None else fields.get("num_processes")
    if not isinstance(total, int) or total < 1:
        raise UserError("how many processes?", where=str(file), mend="add --processes N")
    machines = fields.get("num_machines") or 1
    if total % machines:
        raise UserError(
            f"{total} processes do not divide among {machines} machines", where=str(file), mend="change --processes"
        )
    if machines > 1 and not (fields.get("main_process_ip") and fields.get("main_process_port")):
        raise UserError(
            f"{machines} machines need main_process_ip and main_process_port", where=str(file), mend="add them"
        )
    if fields["distributed_type"] == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "DeepSpeed is not installed", where=str(file), mend="pip install deepspeed, or use --config fsdp2"
        )
    changes: dict[str, Any] = {"num_processes": total}
    if fields["distributed_type"] in PLAIN:
        changes["distributed_type"] = "MULTI_GPU"
    if machines == 1 and not fields.get("main_process_port"):
        changes["main_process_port"] = 0  # one that is free
    return Launch(total, file, {**fields, **changes})


def launch(arguments: Sequence[str], launch: Launch) -> None:
    """Run `smolalign ARGUMENTS` in so many processes, of which the first speaks, and wait for them all.

    Raises:
        UserErrors: a process ended with a user's mistake.
        Failed: a process ended with another failure, or was killed.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    use_cpu = bool(launch.config.get("use_cpu")) or not torch.cuda.is_available()
    if use_cpu and launch.config["distributed_type"] == "DEEPSPEED":
        raise UserError("DeepSpeed needs GPUs", mend="use --config ddp or fsdp2")
    with tempfile.TemporaryDirectory(prefix="smolalign-") as folder, _environment(launch, use_cpu):
        file = Path(folder) / "accelerate.yaml"
        write_text(file, yaml.safe_dump({**launch.config, "use_cpu": use_cpu}))
        # Without a folder for its logs torch makes one that it leaves behind.
        options = ["--config_file", str(file), "--num_processes", str(launch.processes), "--log_dir", folder]
        parsed = launch_command_parser().parse_args([*options, "-m", "smolalign.cli", *arguments])
        try:
            launch_command(parsed)
        except ChildFailedError as error:
            raise _what_ended(error.failures) from None
        except SignalException as end:
            if end.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + end.sigval) from None
        except (ValueError, ConnectionError) as error:
            said = str(error).partition(", please")[0].replace(str(file), "this file")
            raise UserError(f"Accelerate refuses it: {said}", where=str(launch.file)) from None


def _config_file(config: str) -> Path:
    path = Path(config)
    shipped = LAUNCH_CONFIGS / f"{config}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in LAUNCH_CONFIGS.glob("*.yaml")))
    raise UserError(f"no launch configuration {config!r}", mend=f"name a file, or one of {names}")


def _machine(text: str) -> dict[str, Any]:
    """Accelerate's fields for `1/2@10.0.0.1:29500`."""
    found = re.fullmatch(r"(\d+)/([1-9]\d*)@(\S+):(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        what = f"--machine {text!r} is not NUMBER/MACHINES@HOST:PORT"
        raise UserError(what, mend="such as 0/2@10.0.0.1:29500 on the first of two, 1/2@10.0.0.1:29500 on the other")
    return {
        "machine_rank": int(found[1]),
        "num_machines": int(found[2]),
        "main_process_ip": found[3],
        "main_process_port": int(found[4]),
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"not YAML: {str(error).splitlines()[0]}", where=str(file)) from None
    if not isinstance(fields, dict) or "distributed_type" not in fields:
        raise UserError(
            "no configuration of Accelerate: it has no distributed_type",
            where=str(file),
            mend="make one with: accelerate config",
        )
    return fields


@contextmanager
def _environment(launch: Launch, use_cpu: bool) -> Iterator[None]:
    """What the processes find in their environment, and a launcher that logs nothing of its own."""
    before = dict(os.environ)
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_each(launch.processes // launch.machines)))
    # For the warnings that torch's C++ prints of every process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if use_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def _what_ended(failures: dict[int, Any]) -> Exception:
    """Of all processes that failed, the mistake or failure that the others followed from.

    Args:
        failures: torch's `ProcessFailure` by process number.
    """
    told = {rank: failure.error_file_data for rank, failure in sorted(failures.items())}
    for word in told.values():
        if word.get("user_errors"):
            return UserErrors([UserError(line) for line in word["user_errors"]])
    # A process that was killed, if not by the launcher, which ends the rest with SIGTERM; else what was raised first,
    # since the others raise in turn that a process is missing.
    own_ends = {
        rank: failure.exitcode >= 0 or failure.exitcode == -signal.SIGTERM for rank, failure in failures.items()
    }
    first = min(failures, key=lambda rank: (own_ends[rank], told[rank].get("raised", float("inf")), rank))
    if "raised" in told[first] and own_ends[first]:
        return Failed(told[first]["message"])
    how = failures[first].signal_name() if failures[first].exitcode < 0 else f"exit code {failures[first].exitcode}"
    return Failed(f"process {first} ended by {how}")
