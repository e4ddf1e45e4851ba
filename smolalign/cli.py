"""The command line: one thin function a command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from smolalign import __version__
from smolalign.cli_apps import app as apps
from smolalign.cli_eval import evaluate
from smolalign.cli_export import export
from smolalign.cli_launch import launch as launch_on_cluster
from smolalign.environment import prepare
from smolalign.errors import Failed, UserError, UserErrors
from smolalign.processes import count, end_with_launcher, is_launched, is_main, tell_launcher

if TYPE_CHECKING:
    from smolalign.launch import Launch as Planned

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a small language model from nothing to an aligned, function-calling assistant.",
)
recipes_app = typer.Typer(no_args_is_help=True, help="The recipes that ship with the package.")
app.add_typer(recipes_app, name="recipes")
app.add_typer(apps, name="app")
app.command(name="launch")(launch_on_cluster)
app.command()(export)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped recipe's name.")]
StepRecipe = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A recipe file or a shipped recipe's name; see also --data.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Changes to the recipe.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; by default runs/NAME.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run even what is done, from its beginning.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, say what would run, and stop.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say why each choice of arithmetic was made, one a line.")]
Model = Annotated[str | None, typer.Option("--model", help="Without a recipe: the model to start from.")]
Data = Annotated[list[str] | None, typer.Option("--data", help="Without a recipe: a file of rows; may be repeated.")]
# What `init` writes a recipe for unless told otherwise.
DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


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


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smolalign {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["SMOLALIGN_DEBUG"] = "1"


@app.command()
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


@app.command()
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
) -> None:
    """Train a tokenizer and a base model from nothing."""
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


@app.command()
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


@app.command()
def sft(
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
    """Fine-tune on chats: by a recipe, or with --model and --data."""
    own = {"explain": explain, "model": model, "data": data}
    _step("sft", recipe, overrides, out, fresh, dry_run, planned=_planned(launch, processes, config, machine), **own)


@app.command()
def dpo(
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
    """Align on preference pairs with DPO: by a recipe, or with --model and --data."""
    own = {"explain": explain, "model": model, "data": data}
    _step("dpo", recipe, overrides, out, fresh, dry_run, planned=_planned(launch, processes, config, machine), **own)


@app.command()
def fc(
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
    """Fine-tune for function calling: by a recipe, or with --model and --data."""
    own = {"explain": explain, "model": model, "data": data}
    _step("fc", recipe, overrides, out, fresh, dry_run, planned=_planned(launch, processes, config, machine), **own)


app.command(name="eval")(evaluate)


@app.command()
def check(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe files or shipped recipes' names.")],
    out: Out = None,
    device_memory: Annotated[
        str | None,
        typer.Option(
            "--device-memory",
            metavar="SIZE",
            help="Say whether training fits into so much memory, such as 24GB, on a device that computes as this one.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="GPU", help="Say what training takes on a h100, a100, rtx4090 or rtx4060."),
    ] = None,
) -> None:
    """Find everything that can be wrong, memory that does not suffice included, before any weight is loaded."""
    from smolalign.commands import check_recipes

    check_recipes(recipes, out, device_memory, device)


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file of rows, a folder of them, or a Hub dataset.")],
    model: Annotated[str, typer.Option("--model", help="The model to fine-tune.")] = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option("--out", help="The recipe to write; by default sft.yaml, or dpo.yaml for pairs.")
    ] = None,
    config: Annotated[str | None, typer.Option("--config", help="Configuration of a Hub dataset.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of a Hub dataset or a folder.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub dataset.")] = None,
) -> None:
    """Look at your data, say what is in it, and write a recipe for it with comments."""
    from smolalign.commands import init_recipe

    asked = {"config": config, "split": split, "revision": revision}
    init_recipe(data, model, out, {name: value for name, value in asked.items() if value is not None})


@app.command()
def preview(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows to show.")] = 3,
    out: Out = None,
) -> None:
    """Show rendered rows, each token marked by whether it is trained on."""
    from smolalign.commands import preview_recipe

    preview_recipe(recipe, overrides or [], rows, out)


class ToolChoice(enum.StrEnum):
    """Whether a reply may be a call, or must be."""

    auto = "auto"
    required = "required"


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model or adapter folder, a .gguf file or a Hub id.")],
    tools: Annotated[
        Path | None, typer.Option("--tools", help="A Python file whose functions are tools, or JSON of tool schemas.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System turn.")] = None,
    schema: Annotated[
        Path | None, typer.Option("--json-schema", metavar="FILE", help="Hold replies to this JSON schema.")
    ] = None,
    constrain: Annotated[bool, typer.Option("--constrain", help="Hold calls to the tools' schemas.")] = False,
    tool_choice: Annotated[
        ToolChoice, typer.Option("--tool-choice", help="required: the first reply to a turn is a well-formed call.")
    ] = ToolChoice.auto,
    yes: Annotated[bool, typer.Option("--yes", help="Run tools without asking.")] = False,
    tool_seconds: Annotated[float, typer.Option("--tool-seconds", min=0.1, help="Longest run of a tool.")] = 30.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest reply, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 decodes greedily.")] = 0.0,
) -> None:
    """Talk to a model that may call tools; what is piped in is one user turn a line."""
    from smolalign.chat.session import Wishes, talk

    wishes = Wishes(
        tools=tools,
        system=system,
        schema=schema,
        constrain=constrain,
        required=tool_choice is ToolChoice.required,
        yes=yes,
        tool_seconds=tool_seconds,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    talk(model, wishes)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model or adapter folder, a .gguf file or a Hub id.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option("--name", help="What clients call the model; by default MODEL.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="SMOLALIGN_API_KEY", help="Key that clients must show.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Answers computed at once.")] = 8,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Answers that may wait beyond these.")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 2048,
    max_body_mb: Annotated[float, typer.Option("--max-body-mb", min=0.001, help="Largest request, in MB.")] = 4.0,
) -> None:
    """Serve a model over an OpenAI-compatible API."""
    from smolalign.commands import serve_model

    limits = {"max_batch": max_batch, "max_queue": max_queue, "max_tokens": max_tokens}
    serve_model(model, host, port, name, api_key, max_body=int(max_body_mb * 1e6), **limits)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run, such as runs/nano.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page; by default report.html in the run's folder.")
    ] = None,
) -> None:
    """Write one HTML page on a run: curves, scores, data, samples, recipes, system."""
    from smolalign.console import print_line
    from smolalign.run_page.page import write_page

    file, run = write_page(folder, out)
    print_line(f"wrote {file}: {run.in_words()}")


@recipes_app.command("list")
def recipes_list() -> None:
    """Names of the shipped recipes."""
    from smolalign.console import print_line
    from smolalign.recipe.shipped import shipped_recipes

    for name in shipped_recipes():
        print_line(name)


@recipes_app.command("show")
def recipes_show(name: RecipeArgument) -> None:
    """Print a shipped recipe, with what it extends."""
    from smolalign.recipe.shipped import show_recipe

    typer.echo(show_recipe(name), nl=False)


@recipes_app.command("copy")
def recipes_copy(name: RecipeArgument, target: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Copy a shipped recipe, its relative paths made absolute, to change it."""
    from smolalign.console import print_line
    from smolalign.recipe.shipped import copy_recipe

    copy_recipe(name, target)
    print_line(f"wrote {target}")


def main() -> None:
    """Entry point: user errors end with one line and exit code 2, failures of ours with one line and 1."""
    prepare()
    end_with_launcher()
    try:
        app()
    except UserError as error:
        if "SMOLALIGN_DEBUG" in os.environ:
            raise
        lines = [one.line() for one in (error.errors if isinstance(error, UserErrors) else [error])]
        if not tell_launcher(error.line(), lines) and is_main():
            from smolalign.console import print_error

            print_error(error)
        _end(2)
    except SystemExit as end:
        # Typer makes this of Ctrl-C, without a word.
        if end.code == 130 and is_main() and not is_launched():
            typer.echo("stopped; run the same command again to go on", err=True)
        _end(end.code)
    except Exception as error:
        if "SMOLALIGN_DEBUG" in os.environ:
            raise
        what = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        if not tell_launcher(what):
            typer.echo(f"failed: {what}\nrun smolalign --debug … for the traceback", err=True)
        _end(1)


def _end(code: int | str | None) -> NoReturn:
    """End the process; one of several at once, for all is written: torch's threads may still wait for a process that
    is gone, and an orderly end now and then aborts on them (SIGABRT, "terminate called without an active exception").
    """
    if count() > 1 and not isinstance(code, str):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


if __name__ == "__main__":
    main()
