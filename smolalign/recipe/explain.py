"""What pydantic finds wrong with a file, in the file's own terms: its keys, its lines, and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from smolalign.errors import UserError
from smolalign.recipe.tree import Path_, Places

# Of so many tasks at most a message says that a key is theirs; what more of them have is no sign of any.
_FEW = 3


def explain(model: type[BaseModel], tree: Any, detail: Any, places: Places, file: Path) -> UserError:
    """What pydantic found wrong with a field of a file, with its place and the nearest known key."""
    path, above, here = _in_file(model, detail["loc"])
    kind, value, tasks = detail["type"], detail["input"], list(_members(here))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, "task")
    name = ".".join(str(part) for part in path) or str(tree.get("kind"))
    known = path
    while known and known not in places:
        known = known[:-1]
    where = places.get(known, f"{file}:1")
    if kind == "extra_forbidden":
        return _unknown_key(path, above).at(where)
    if kind in ("missing", "union_tag_not_found"):
        return UserError(f"{name} is missing", where=where, mend=f"add {path[-1]}: {', '.join(tasks)}".rstrip())
    if kind == "union_tag_invalid":
        close = difflib.get_close_matches(str(value["task"]), tasks, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(tasks)}"
        return UserError(f"{name}: unknown task {value['task']!r}", where=where, mend=mend)
    if kind in ("model_type", "model_attributes_type"):
        is_ = "is a list" if isinstance(value, list) else f"is {value!r}"
        mend = f"begin it with task: {', '.join(tasks)}" if tasks else f"known keys: {', '.join(_fields_of(here))}"
        return UserError(f"{name} {is_}, not a block of keys", where=where, mend=mend)
    message = str(detail["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(value, dict | list) else f", but is {value!r}"
    mend = detail.get("ctx", {}).get("mend", "")
    return UserError(f"{name}: {message[0].lower()}{message[1:]}{shown}", where=where, mend=mend)


def _unknown_key(path: Path_, above: Sequence[Any]) -> UserError:
    """That a block has no such key, and which block beside it has, or which key is meant.

    Args:
        path: of the key.
        above: the annotations on the way to it, of its block last.
    """
    key, block = str(path[-1]), _block_in(above[-1])
    fields = _fields_of(block)
    others = _members(above[-2]) if len(above) > 1 else {}
    owners = [tag for tag, other in others.items() if key in getattr(other, "model_fields", {})]
    close = difflib.get_close_matches(key, fields, n=1)
    mend = f"did you mean {close[0]}?" if close and not owners else f"known keys: {', '.join(fields)}"
    *names, _ = map(str, path)
    if 0 < len(owners) <= _FEW:
        own = next(tag for tag, other in others.items() if other is block)
        what = f"{'.'.join(names)}: {key} is for task: {' and '.join(owners)}, this one is {own}"
        return UserError(what, mend=mend)
    return UserError(f"unknown key {'.'.join([*names, key])}", mend=mend)


def _in_file(model: type[BaseModel], location: Sequence[str | int]) -> tuple[Path_, list[Any], Any]:
    """Where a field that pydantic tells of stands in a file.

    Args:
        model: of the whole tree.
        location: pydantic's, which names the member of a union that was chosen, too, as no file does.

    Returns:
        Its key path; the annotations of what it stands in, outermost first; its own.
    """
    path: list[str | int] = []
    above: list[Any] = []
    here: Any = model
    for part in location:
        above.append(here)
        members = _members(here)
        if part in members:
            here = members[str(part)]
        else:
            path.append(part)
            here = _below(here, part)
    return tuple(path), above, here


def _members(annotation: Any) -> dict[str, Any]:
    """The blocks of a union, by the `task` that tells which of them is meant; empty for anything else."""
    base, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (None,)
    if any(getattr(note, "discriminator", None) for note in notes):
        return {one.model_fields["task"].default: one for one in get_args(base)}
    return {}


def _below(annotation: Any, part: str | int) -> Any:
    """The annotation of what stands under a key, or an index, of a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        # What is no field is a member of a union that needs no tag, such as Range.
        return field.annotation if field else annotation
    if get_origin(annotation) in (dict, list):
        return get_args(annotation)[-1]
    return next((found for one in get_args(annotation) if (found := _below(one, part)) is not None), None)


def _fields_of(annotation: Any) -> list[str]:
    """Names of the fields of the block inside an annotation."""
    return list(getattr(_block_in(annotation), "model_fields", {}))


def _block_in(annotation: Any) -> Any:
    """The recipe block inside an annotation such as `list[DataSource]` or `Lora | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _block_in(part))), None)
