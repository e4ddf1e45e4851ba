"""`smolalign export` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder (its last model), a step's, a model's or an adapter's, a .gguf file or a Hub id.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="merged|hub|gguf|ollama", help="The format.")],
    out: Annotated[Path | None, typer.Option("--out", help="The folder or file to write.")] = None,
    repo: Annotated[str | None, typer.Option("--repo", metavar="OWNER/NAME", help="hub: the repo to push to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="hub: make the repo private, where it is new.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="hub: the branch; by default main.")] = None,
    force: Annotated[bool, typer.Option("--force", help="hub: also where the repo holds another model.")] = False,
    types: Annotated[
        str, typer.Option("--types", metavar="TYPE,...", help="The types of the weights, separated by commas.")
    ] = "",
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="What the card gives the model out under.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and show the card, and stop.")] = False,
) -> None:
    """Hand a model on: as a plain checkpoint folder, or to the Hub, with a card that says how it was made."""
    from smolalign.console import print_line
    from smolalign.export.run import Wishes
    from smolalign.export.run import export as run

    chosen = tuple(name.strip() for name in types.split(",") if name.strip())
    run(model, Wishes(to, out, repo, private, revision, force, licence, dry_run, chosen), print_line)
