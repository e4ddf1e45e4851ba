"""`smolalign app …` on the command line: one thin function an app."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from smolalign.apps.wishes import DEFAULT_MODEL, Wishes

app = typer.Typer(no_args_is_help=True, help="Small tasks for a chat model: rag, summarize, rewrite, json.")

Model = Annotated[str, typer.Option("--model", "-m", help="A model or adapter folder, a .gguf file or a Hub id.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest reply, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 decodes greedily.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the sampling, where --temperature is above 0.")]
Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="Without it, standard input.")]


class Tone(enum.StrEnum):
    """What a rewritten text aims at."""

    concise = "concise"
    friendly = "friendly"
    professional = "professional"


@app.command()
def rag(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Texts: .txt, .md, .rst, in folders below too.")],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="Without it, questions are read, one a line.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    passages: Annotated[int, typer.Option("--passages", min=1, help="Passages an answer is made from.")] = 4,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Answer questions from the texts of a folder, and name the passages."""
    from smolalign.apps.rag import rag as run

    _end(run(folder, question, Wishes(model, max_new_tokens, temperature, seed), passages))


@app.command()
def summarize(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text; - is standard input.")],
    model: Model = DEFAULT_MODEL,
    words: Annotated[int | None, typer.Option("--words", min=1, help="Ask for so many words at most.")] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Summarize a text; a long one part by part, then the parts together."""
    from smolalign.apps.summarize import summarize as run

    _end(run(file, Wishes(model, max_new_tokens, temperature, seed), words))


@app.command()
def rewrite(
    text: Text = None,
    model: Model = DEFAULT_MODEL,
    tone: Annotated[Tone | None, typer.Option("--tone", help="What to aim at.")] = None,
    how: Annotated[str | None, typer.Option("--how", metavar="WORDS", help="What to do, in your own words.")] = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Mend a text's grammar and spelling, or change its tone (--tone), or whatever --how says."""
    from smolalign.apps.rewrite import rewrite as run

    _end(run(text, Wishes(model, max_new_tokens, temperature, seed), tone.value if tone else None, how))


@app.command(name="json")
def fill(
    schema: Annotated[Path, typer.Option("--schema", metavar="FILE", help="The JSON schema of the answer.")],
    text: Text = None,
    model: Model = DEFAULT_MODEL,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Read a text into JSON by a schema: one valid line, or exit code 1 and none."""
    from smolalign.apps.fill import fill as run

    _end(run(schema, text, Wishes(model, max_new_tokens, temperature, seed)))


def _end(whole: bool) -> None:
    """Exit code 1 where there is no whole answer; why was told."""
    if not whole:
        raise typer.Exit(1)
