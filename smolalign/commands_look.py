"""What the commands that look before anything is trained do: check, preview, init."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smolalign.commands import neighbours, report_checks, step_name
from smolalign.console import Screen, print_finding, print_line, print_marked
from smolalign.errors import UserError
from smolalign.memory import parse_size
from smolalign.pipeline import default_run_folder
from smolalign.recipe.held_out import is_held_out_source, is_held_out_split
from smolalign.recipe.load import load_pipeline_steps, load_recipe
from smolalign.recipe.shipped import find_recipe
from smolalign.store import write_text

if TYPE_CHECKING:
    from smolalign.fits import Target
    from smolalign.look import Finding


def check_recipes(
    arguments: Sequence[str], out: Path | None, device_memory: str | None = None, device: str | None = None
) -> None:
    """`smolalign check`: every problem of every recipe, or a line that says that there is none."""
    from smolalign.cost import named_device
    from smolalign.fits import Target

    room = parse_size(device_memory) if device_memory is not None else None
    target = Target(room, named_device(device) if device is not None else None)
    report_checks(finding for argument in arguments for finding in _check_recipe(argument, out, target))


def _check_recipe(argument: str, out: Path | None, target: Target) -> Iterator[Finding]:
    from smolalign.check import check_steps
    from smolalign.look import Finding

    try:
        recipe = load_recipe(find_recipe(argument))
        if recipe.kind == "pipeline":
            steps, only = load_pipeline_steps(recipe), None
        else:
            only = step_name(recipe)
            steps = {**neighbours(recipe), only: recipe}
        yield from check_steps(steps, out or default_run_folder(recipe), only, target)
    except UserError as error:
        yield Finding(argument, problem=error)


def preview_recipe(argument: str, overrides: Sequence[str], rows: int, out: Path | None) -> None:
    """`smolalign preview`: rendered rows of a step, each token marked by whether it is trained on."""
    from smolalign.look import Chain
    from smolalign.preview import preview

    recipe = load_recipe(find_recipe(argument), overrides)
    name = step_name(recipe)
    chain = Chain({**neighbours(recipe), name: recipe}, out or default_run_folder(recipe))
    for shown in preview(chain, name, rows):
        print_marked(shown.title, shown.parts, shown.footer)


def init_recipe(source: str, model: str, out: Path | None, options: Mapping[str, str]) -> None:
    """`smolalign init`: say what a source holds, and write a recipe for it. `options` are the source's config, split
    and revision, those that were given."""
    from smolalign.data.formats import FORMATS
    from smolalign.data.sources import named
    from smolalign.data.survey import format_of, survey
    from smolalign.init.choose import choose, require_turns
    from smolalign.init.measure import look_at_model, measure
    from smolalign.init.write import cut_lines, finding_lines, length_lines, recipe_text

    for reference, what in ((source, "rows"), (model, "a model")):
        if reference.startswith("@"):
            raise UserError(
                f"{reference} is a step of a run; init needs {what} at hand", mend="name a file or a Hub id"
            )
    if is_held_out_source(f"./{source}" if Path(source).is_dir() else source) or is_held_out_split(
        options.get("split", "")
    ):
        what = f"{named(source, options.get('split'))} holds rows to measure on, never to train on"
        raise UserError(what, mend="name the split or file of rows to train on")
    format = format_of(source, options)
    file = out or Path("dpo.yaml" if FORMATS[format].kind == "pair" else "sft.yaml")
    _require_new(file)

    def show(lines: Iterable[tuple[str, bool]]) -> None:
        for line, warning in lines:
            print_finding(found.title, line, warning=warning)

    screen = Screen("init")
    try:
        found = survey(source, format, screen, options)
    finally:
        screen.close()
    show(finding_lines(found))
    require_turns(found)
    known = look_at_model(model, source)
    lengths = measure(found, known)
    show(length_lines(found, lengths, known))
    choice = choose(found, lengths, known)
    show([*cut_lines(found, lengths, choice), (choice.memory, choice.tight)])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(file)) from None
    write_text(file, recipe_text(choice, found, lengths, known, file))
    print_line(f"wrote {file}; next: smolalign check {file}, then smolalign {choice.fields['kind']} {file}")


def _require_new(file: Path) -> None:
    if file.exists():
        raise UserError(f"{file} is there already", mend="choose another name with --out")
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} is no name for a recipe", mend="end it with .yaml")
