"""`smolalign recipes …` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolalign.cli_options import RecipeArgument

app = typer.Typer(no_args_is_help=True, help="The recipes that ship with the package.")


@app.command("list")
def recipes_list() -> None:
    """Names of the shipped recipes."""
    from smolalign.console import print_line
    from smolalign.recipe.shipped import shipped_recipes

    for name in shipped_recipes():
        print_line(name)


@app.command("show")
def recipes_show(name: RecipeArgument) -> None:
    """Print a shipped recipe, with what it extends."""
    from smolalign.recipe.shipped import show_recipe

    typer.echo(show_recipe(name), nl=False)


@app.command("copy")
def recipes_copy(name: RecipeArgument, target: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Copy a shipped recipe, its relative paths made absolute, to change it."""
    from smolalign.console import print_line
    from smolalign.recipe.shipped import copy_recipe

    copy_recipe(name, target)
    print_line(f"wrote {target}")
