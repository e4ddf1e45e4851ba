"""The recipes and the data that ship with the package: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from smolalign.errors import UserError
from smolalign.recipe.tree import Path_, extended, may_be_path, read_yaml
from smolalign.store import write_text

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = _PACKAGE / "shipped"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
RECIPES = SHIPPED / "recipes"
# Accelerate's own configurations, for `--launch`.
LAUNCH_CONFIGS = RECIPES / "accelerate"


def shipped_recipes() -> list[str]:
    """Names of all shipped recipes, such as `nano/sft`, sorted."""
    files = (path for path in RECIPES.rglob("*.yaml") if path.parent != LAUNCH_CONFIGS)
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in files)


def find_recipe(argument: str) -> Path:
    """The file that a command's RECIPE argument means: a path, or the name of a shipped recipe or of its folder.

    Raises:
        UserError: neither is there; the nearest name is offered.
    """
    path = Path(argument)
    if path.is_file():
        return path
    for candidate in (RECIPES / f"{argument}.yaml", RECIPES / argument / "pipeline.yaml"):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"{argument} is a folder, not a recipe", mend="name a .yaml file in it")
    names = shipped_recipes()
    close = difflib.get_close_matches(argument.removesuffix(".yaml"), [*names, *{n.split("/")[0] for n in names}], n=1)
    mend = f"did you mean {close[0]}?" if close else "see: smolalign recipes list"
    raise UserError(f"no recipe {argument!r}: no such file, and no shipped recipe of that name", mend=mend)


def show_recipe(argument: str) -> str:
    """A recipe's text; of one that extends others its first comment and what they make together."""
    file = find_recipe(argument)
    text = file.read_text(encoding="utf-8")
    tree, places = read_yaml(file)
    steps = tree.get("steps")
    inline = [step for step in steps.values() if isinstance(step, dict)] if isinstance(steps, dict) else []
    if not any("extends" in block for block in (tree, *inline)):
        return text
    whole, places = extended((tree, places), file)
    for name, step in whole.get("steps", {}).items():
        if isinstance(step, dict):
            whole["steps"][name], _ = extended((step, {}), file)
    comment = "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    return comment + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)


def copy_recipe(argument: str, target: Path) -> None:
    """Copy a recipe to a new file, its relative paths made absolute so that it still finds its data.

    Raises:
        UserError: there is a file already, or it cannot be written.
    """
    file = find_recipe(argument)
    if target.exists():
        raise UserError(f"{target} is there already", mend="choose another name")
    text, folder = file.read_text(encoding="utf-8"), file.resolve().parent
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    # From the last to the first, so that the places of those still to come stay true.
    for scalar in reversed(list(_paths(node, ()))):
        path = folder / scalar.value
        if path.exists():
            quoted = json.dumps(str(path.resolve()), ensure_ascii=False)
            text = text[: scalar.start_mark.index] + quoted + text[scalar.end_mark.index :]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write there: {error.strerror}", where=str(target)) from None
    write_text(target, text)


def _paths(node: yaml.Node | None, path: Path_) -> Iterator[yaml.ScalarNode]:
    """The scalars of a recipe that may be a path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _paths(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _paths(value, path)
    elif isinstance(node, yaml.ScalarNode) and may_be_path(path):
        yield node
