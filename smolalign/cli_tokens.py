"""`smolalign tokenize` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolalign.cli_options import Out, Overrides, RecipeArgument


def tokenize(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Out = None,
    engine: Annotated[
        Path | None, typer.Option("--engine", metavar="FILE", help="Run it on the cluster that a file describes.")
    ] = None,
) -> None:
    """Assemble and tokenize what a pretrain recipe reads, ahead of training."""
    from smolalign.commands import tokenize_only

    tokenize_only(recipe, overrides or [], out, engine)
