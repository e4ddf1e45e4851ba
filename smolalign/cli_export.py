"""`smolalign export` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="merged|int8|nf4|gguf|ollama|hub",
        help="The format; with --compare several, separated by commas.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="auto|float32|bfloat16|float16",
        help="merged: of the weights; auto leaves them as they are, and merged adapters get their base's.",
    ),
]
Types = Annotated[
    str, typer.Option("--types", metavar="TYPE,...", help="The types of the weights, separated by commas.")
]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="Write all formats, measure each, and show size, speed and perplexity in a table."),
]
Text = Annotated[
    Path | None, typer.Option("--data", help="compare: the text whose perplexity is measured; by default our own.")
]


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder (its last model), a step's, a model's or an adapter's, a .gguf file or a Hub id.",
        ),
    ],
    to: To = "",
    out: Annotated[Path | None, typer.Option("--out", help="The folder or file to write.")] = None,
    repo: Annotated[str | None, typer.Option("--repo", metavar="OWNER/NAME", help="hub: the repo to push to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="hub: make the repo private, where it is new.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="hub: the branch; by default main.")] = None,
    force: Annotated[bool, typer.Option("--force", help="hub: also where the repo holds another model.")] = False,
    types: Types = "",
    dtype: Dtype = "auto",
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="What the card gives the model out under.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and show the card, and stop.")] = False,
    compare: Compare = False,
    data: Text = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="compare: also write the table to a file.")] = None,
) -> None:
    """Hand a model on: as a plain checkpoint folder, or to the Hub, with a card that says how it was made."""
    from smolalign.console import print_line
    from smolalign.errors import UserError
    from smolalign.export.run import Wishes
    from smolalign.export.run import export as run

    chosen = _names(types)
    if not compare:
        if data or json_file:
            raise UserError(f"{'--data' if data else '--json'} is for --compare")
        if not to:
            raise UserError("no format to export to", mend="add --to merged, or another; see smolalign export --help")
        run(model, Wishes(to, out, repo, private, revision, force, licence, dry_run, chosen, dtype), print_line)
        return
    refused = {"--repo": repo, "--private": private, "--revision": revision, "--force": force, "--dry-run": dry_run}
    for name, given in {**refused, "--license": licence, "--dtype": dtype != "auto"}.items():
        if given:
            raise UserError(f"{name} is not for --compare")
    from smolalign.console_export import print_comparison
    from smolalign.export.compare import compare as measured
    from smolalign.store import write_json

    found = measured(model, _names(to), Wishes(to, out, types=chosen), data, print_line)
    if json_file:
        write_json(json_file, found.as_dict())
    print_comparison(found)


def _names(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
