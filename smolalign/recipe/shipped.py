"""The recipes and the data that ship with the package: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from smolalign.errors import UserError
from smolalign.store import write_text

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = _PACKAGE / "shipped"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
RECIPES = SHIPPED / "recipes"


def shipped_recipes() -> list[str]:
    """Names of all shipped recipes, such as `nano/sft`, sorted."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


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


def copy_recipe(argument: str, target: Path) -> None:
    """Copy a recipe to a new file, its relative paths made absolute so that it still finds its data.

    Raises:
        UserError: there is a file already, or it cannot be written.
    """
    file = find_recipe(argument)
    if target.exists():
        raise UserError(f"{target} is there already", mend="choose another name")
    folder = file.resolve().parent

    def absolute(found: re.Match[str]) -> str:
        return found[1] + str((folder / found[2]).resolve())

    text = re.sub(r"^(\s*(?:- )?(?:source|model|[a-z]+): )(\.\.?/\S+)", absolute, file.read_text("utf-8"), flags=re.M)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
