"""`smolalign check`, `preview` and `init` on the command line: what is looked at before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolalign.cli_options import Out, Overrides, RecipeArgument

# What `init` writes a recipe for unless told otherwise.
DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


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
    from smolalign.commands_look import check_recipes

    check_recipes(recipes, out, device_memory, device)


def preview(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows to show.")] = 3,
    out: Out = None,
) -> None:
    """Show rendered rows, each token marked by whether it is trained on."""
    from smolalign.commands_look import preview_recipe

    preview_recipe(recipe, overrides or [], rows, out)


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
    from smolalign.commands_look import init_recipe

    asked = {"config": config, "split": split, "revision": revision}
    init_recipe(data, model, out, {name: value for name, value in asked.items() if value is not None})
