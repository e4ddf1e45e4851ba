"""`smolalign launch` on the command line: a job file for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolalign.cli_options import Out, Overrides, RecipeArgument
from smolalign.errors import UserError

# Options that only one of the two clusters knows, by the cluster's own option.
_ONLY = {
    "--slurm": ("--time", "--partition", "--account", "--cpus"),
    "--skypilot": ("--storage",),
}


def launch(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Write a job file for Slurm.")] = False,
    skypilot: Annotated[bool, typer.Option("--skypilot", help="Write a task file for SkyPilot.")] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of each machine.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    config: Annotated[str, typer.Option("--config", help="ddp, fsdp2, zero3, or a file of Accelerate's.")] = "ddp",
    gpu_type: Annotated[str | None, typer.Option("--gpu-type", help="Kind of GPU, such as H100.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="Slurm: time limit, such as 24:00:00.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="Slurm: partition.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Slurm: account.")] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, help="Slurm: cores of each machine.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="SkyPilot: bucket or volume for the runs, such as s3://name.")
    ] = None,
    out: Out = None,
    out_file: Annotated[
        Path | None, typer.Option("--out-file", help="The file to write; by default NAME.slurm.")
    ] = None,
) -> None:
    """Write the job file that runs a recipe, whole chains included, on a cluster."""
    if slurm == skypilot:
        raise UserError("for which cluster?", mend="add either --slurm or --skypilot")
    given = {"--time": time, "--partition": partition, "--account": account, "--cpus": cpus, "--storage": storage}
    other = "--skypilot" if slurm else "--slurm"
    for option in _ONLY[other]:
        if given[option] is not None:
            raise UserError(f"{option} is for {other}", mend=f"leave out {option}")
    from smolalign.commands_launch import write_sky_task, write_slurm_job

    if slurm:
        asked = {"time": time, "partition": partition, "account": account, "gpu_type": gpu_type, "cpus": cpus}
        write_slurm_job(recipe, overrides or [], out, out_file, gpus=gpus, nodes=nodes, config=config, asked=asked)
    else:
        sky = {"gpu_type": gpu_type, "storage": storage}
        write_sky_task(recipe, overrides or [], out, out_file, gpus=gpus, nodes=nodes, config=config, **sky)
