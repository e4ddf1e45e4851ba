"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped recipe's name.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Changes to the recipe.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; by default runs/NAME.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run even what is done, from its beginning.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, say what would run, and stop.")]
