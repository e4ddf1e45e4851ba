"""The commands that make data and models on the command line: run, pretrain, quality, smoltalk, sft, dpo, fc."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolalign.cli_options import DryRun, Fresh, Out, Overrides, RecipeArgument
from smolalign.errors import UserError

if TYPE_CHECKING:
    from smolalign.launch import Launch as Planned

StepRecipe = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A recipe file or a shipped recipe's name; see also --data.")
]
Model = Annotated[str | None, typer.Option("--model", help="Without a recipe: the model to start from.")]
Data = Annotated[list[str] | None, typer.Option("--data", help="Without a recipe: a file of rows; may be repeated.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say why each choice of arithmetic was made, one a line.")]


class Launcher(enum.StrEnum):
    """What `--launch` starts several processes with."""

    accelerate = "accelerate"


Launch = Annotated[Launcher | None, typer.Option("--launch", help="Train in several processes.")]
Processes = Annotated[int | None, typer.Option("--processes", min=1, help="With --launch: processes in all.")]
Config = Annotated[
    str | None, typer.Option("--config", help="With --launch: ddp (default), fsdp2, zero3, or a file of Accelerate's.")
]
Machine = Annotated[
    str | None,
    typer.Option(
        "--machine", metavar="N/ALL@HOST:PORT", help="With --launch on several: this one, and where they meet."
    ),
]


def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    step: Annotated[
        str | None, typer.Option("--step", metavar="NAME", help="Run this step of the chain alone.")
    ] = None,
    launch: Launch = None,
    processes: Processes = None,
    config: Config = None,
    machine: Machine = None,
) -> None:
    """Run the whole chain of a pipeline recipe, skipping what is done and resuming what was cut off."""
    own: Any = {"fresh": fresh, "dry_run": dry_run, "step": step}
    if (planned := _planned(launch, processes, config, machine)) is None:
        from smolalign.commands import run_chain

        run_chain(recipe, overrides or [], out, **own)
    else:
        from smolalign.commands_launch import launch_chain

        launch_chain(recipe, overrides or [], out, planned=planned, **own)


def pretrain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    explain: Explain = False,
    launch: Launch = None,
    processes: Processes = None,
    config: Config = None,
    machine: Machine = None,
    from_stage: Annotated[
        int | None,
        typer.Option(
            "--from-stage", metavar="N", min=2, help="Begin at this stage, with what the recipe's run had trained."
        ),
    ] = None,
) -> None:
    """Train a tokenizer and a base model from nothing."""
    if from_stage is not None:
        from smolalign.commands import branch_overrides

        overrides = branch_overrides(recipe, overrides or [], out, from_stage)
    _step(
        "pretrain",
        recipe,
        overrides,
        out,
        fresh,
        dry_run,
        explain=explain,
        planned=_planned(launch, processes, config, machine),
    )


def quality(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> None:
    """Train a scorer of educational value on annotated texts, for filters.quality."""
    _step("quality", recipe, overrides, out, fresh, dry_run)


def smoltalk(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    engine: Annotated[
        Path | None, typer.Option("--engine", metavar="FILE", help="Run it on the cluster that a file describes.")
    ] = None,
) -> None:
    """Assemble the SFT mixture from several sources."""
    _step("smoltalk", recipe, overrides, out, fresh, dry_run, engine_file=engine)


def _tune(kind: str, help: str) -> Callable[..., None]:
    """The command of one of the steps that start from a model: they differ in name and help alone."""

    def command(
        recipe: StepRecipe = None,
        overrides: Overrides = None,
        model: Model = None,
        data: Data = None,
        out: Out = None,
        fresh: Fresh = False,
        dry_run: DryRun = False,
        explain: Explain = False,
        launch: Launch = None,
        processes: Processes = None,
        config: Config = None,
        machine: Machine = None,
    ) -> None:
        own = {"explain": explain, "model": model, "data": data}
        planned = _planned(launch, processes, config, machine)
        _step(kind, recipe, overrides, out, fresh, dry_run, planned=planned, **own)

    command.__name__, command.__doc__ = kind, help
    return command


sft = _tune("sft", "Fine-tune on chats: by a recipe, or with --model and --data.")
dpo = _tune("dpo", "Align on preference pairs with DPO: by a recipe, or with --model and --data.")
fc = _tune("fc", "Fine-tune for function calling: by a recipe, or with --model and --data.")


def _step(
    kind: str,
    recipe: str | None,
    overrides: list[str] | None,
    out: Path | None,
    fresh: bool,
    dry_run: bool,
    *,
    planned: Planned | None = None,
    **own: Any,
) -> None:
    own |= {"fresh": fresh, "dry_run": dry_run}
    if planned is None:
        from smolalign.commands import run_one

        run_one(kind, recipe, overrides or [], out, **own)
    else:
        from smolalign.commands_launch import launch_one

        launch_one(kind, recipe, overrides or [], out, planned=planned, **own)


def _planned(
    launcher: Launcher | None, processes: int | None, config: str | None, machine: str | None
) -> Planned | None:
    """How the options want a command to be launched, if at all."""
    if launcher is None:
        if machine:
            raise UserError("--machine goes with --launch", mend="add --launch accelerate")
        if processes or config:
            raise UserError("--processes and --config go with --launch", mend="add --launch accelerate")
        return None
    from smolalign.launch import plan

    return plan(processes, config, machine)
