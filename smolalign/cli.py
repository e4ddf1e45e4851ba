"""The command line: its commands, each a thin function of a module `cli_….py`, and its end. Nothing heavy is imported
before it is needed."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from smolalign import __version__, cli_apps, cli_recipes
from smolalign.cli_chat import chat, serve
from smolalign.cli_eval import evaluate, report
from smolalign.cli_export import export
from smolalign.cli_launch import launch
from smolalign.cli_look import check, init, preview
from smolalign.cli_tokens import tokenize
from smolalign.cli_train import dpo, fc, pretrain, quality, run, sft, smoltalk
from smolalign.environment import prepare
from smolalign.errors import Failed, UserError, UserErrors
from smolalign.processes import count, end_with_launcher, is_launched, is_main, tell_launcher

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a small language model from nothing to an aligned, function-calling assistant.",
)
# In the order of --help.
app.command()(run)
app.command()(quality)
app.command()(tokenize)
app.command()(pretrain)
app.command()(smoltalk)
app.command()(sft)
app.command()(dpo)
app.command()(fc)
app.command("eval")(evaluate)
app.command()(report)
app.command()(check)
app.command()(preview)
app.command()(init)
app.command()(chat)
app.command()(serve)
app.command()(export)
app.command()(launch)
app.add_typer(cli_recipes.app, name="recipes")
app.add_typer(cli_apps.app, name="app")


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
