"""`smolalign eval` and `smolalign report` on the command line: what came of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smolalign.cli_options import DryRun, Fresh, Out

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        help="Of models: what to measure, by commas: ifeval, hellaswag, arc_easy, arc_challenge, piqa, winogrande, "
        "openbookqa, commonsense_qa, mmlu, mmlu_cloze, mmlu_pro, gsm8k, triviaqa, bbh, needle; on --data: loss, "
        "perplexity, exact, preference, tool_calls. By default: ifeval, hellaswag, arc_easy, arc_challenge, piqa, "
        "gsm8k.",
    ),
]
Benchmarks = Annotated[
    Path | None,
    typer.Option(
        "--benchmarks",
        metavar="DIR",
        help="Of models: where the benchmarks' own files lie, as DIR/hellaswag; without it they are read from the Hub.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="published[:NAME]",
        help="Show SmolLM2's published figures beside; with NAME, such as smollm2-135m-instruct, those of that model.",
    ),
]


def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|MODEL...",
            help="A recipe (a .yaml file, or a shipped one's name) with KEY.PATH=VALUE changes; or models: folders, "
            ".gguf files, Hub ids (owner/name@revision), each also as NAME=MODEL.",
        ),
    ],
    tasks: Tasks = None,
    benchmarks: Benchmarks = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[TASK=]FILE",
            help="Of models: rows to measure on, for all such tasks or for one; may be repeated.",
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Of models: ask benchmarks through the chat template, examples as turns.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="A random sample of N items of each task, by the seed."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows generated or scored at once.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show differences to the first model, with their standard errors.")
    ] = False,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="NAME", help="Compare with this model in place of the first.")
    ] = None,
    against: Against = None,
    out: Out = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> None:
    """Measure models side by side: by a recipe, or on benchmarks."""
    from smolalign.evaluation import Shown
    from smolalign.evaluation import evaluate as run
    from smolalign.recipe.of_models import Wishes

    named = [name.strip() for one in tasks or [] for name in one.split(",") if name.strip()]
    wishes = Wishes(named, benchmarks, data or [], chat)
    shown = Shown(compare or baseline is not None, baseline, against)
    run(what, wishes, shown, out, limit=limit, batch_size=batch_size, fresh=fresh, dry_run=dry_run)


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
