"""A recipe's YAML as a tree, with the place of every key in it, and merged into it what it extends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from smolalign.errors import UserError

Path_ = tuple[str | int, ...]
# Where each key path stands: `file:line`.
Places = dict[Path_, str]
Tree = tuple[dict[str, Any], Places]
# Keys whose value may be a path, and blocks of which every value may be one.
PATH_KEYS = {"source", "model", "tools", "files", "count_tokens_with", "extends", "scorer"} | {
    "possible_answer",
    "judge_prompts",
    "reference_answers",
}
_PATH_BLOCKS = {"models", "steps"}
_FILES = (".yaml", ".yml", ".gguf", ".jsonl", ".json", ".parquet", ".txt", ".csv")
# Keys for which null is a value of its own, other than what holds without them; so it does not remove them.
NULL_IS_A_VALUE = {"near", "skip_spikes"}


def read_yaml(file: Path, begins: str = "a recipe is a mapping that begins with kind:") -> Tree:
    """The file's tree, and the place of every key path in it.

    Args:
        file: to read.
        begins: what is said where it is no mapping.

    Raises:
        UserError: it cannot be read, is no YAML, has a key twice, or is no mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start})", where=str(file), mend="save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"not YAML: {error.problem}", where=f"{file}:{line}", mend="mend the syntax there") from None
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {error}", where=str(file)) from None
    if not isinstance(tree, dict):
        raise UserError(begins, where=str(file))
    assert node is not None
    places = {path: f"{file}:{line}" for path, line in _lines_of(node, ())}
    _reject_duplicate_keys(node, file)
    return tree, places


def extended(tree: Tree, file: Path, above: tuple[Path, ...] = ()) -> Tree:
    """A recipe with what it names under `extends` merged in below it, and so on down.

    Args:
        tree: of a recipe as it is written.
        file: in which it stands; the paths of the result are relative to its folder.
        above: the files that extend this one.

    Raises:
        UserError: what is named is not there, cannot be read, or extends what extends it.
    """
    own, places = tree
    if "extends" not in own:
        return tree
    above = (*above, file.resolve())
    where = places.get(("extends",), f"{file}:1")
    below = _named(own["extends"], file.resolve().parent, where)
    if below.resolve() in above:
        names = " → ".join(path.name for path in (*above, below))
        raise UserError(f"extends goes in a circle: {names}", where=where, mend="leave out one of them")
    base, base_places = extended(read_yaml(below), below, above)
    rebased = _rebased(base, below.resolve().parent, file.resolve().parent)
    made = merge(rebased, {key: value for key, value in own.items() if key != "extends"})
    return made, {path: place for path, place in (base_places | places).items() if _stands(made, path)}


def merge(base: Any, own: Any) -> Any:
    """`own` over `base`: mappings are merged key by key, everything else takes the place of what was there, and null
    removes a key of a mapping."""
    if not isinstance(own, dict):
        return own
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in own.items():
        if value is None and key in merged and key not in NULL_IS_A_VALUE:
            del merged[key]
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def may_be_path(path: Path_) -> bool:
    """Whether the value at a key path of a recipe may be a file's or a folder's: sources, models, files beside them,
    the steps of a pipeline, and what is extended."""
    keys = [part for part in path if isinstance(part, str)]
    return bool(keys) and (keys[-1] in PATH_KEYS or (len(keys) > 1 and keys[-2] in _PATH_BLOCKS))


def _named(value: Any, folder: Path, where: str) -> Path:
    """The file that `extends` means: one beside the recipe, or a shipped one."""
    from smolalign.recipe.shipped import RECIPES

    if not isinstance(value, str):
        raise UserError(f"extends names one recipe file, but is {value!r}", where=where)
    for candidate in (folder / Path(value).expanduser(), RECIPES / f"{value}.yaml"):
        if candidate.is_file():
            return candidate
    mend = "name a file, from this one's folder on, or a shipped recipe (smolalign recipes list)"
    raise UserError(f"extends: no file {value!r}, and no shipped recipe of that name", where=where, mend=mend)


def _rebased(value: Any, old: Path, new: Path, path: Path_ = ()) -> Any:
    """A tree whose relative paths start from another folder."""
    if old == new:
        return value
    if isinstance(value, dict):
        return {key: _rebased(item, old, new, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_rebased(item, old, new, path) for item in value]
    if not isinstance(value, str) or not may_be_path(path) or value.startswith(("@", "~", "/")):
        return value
    is_path = value.startswith(".") or value.endswith(_FILES) or (old / value).exists()
    return os.path.relpath(old / value, new) if is_path else value


def _stands(tree: Any, path: Path_) -> bool:
    """Whether a tree has a key path."""
    for key in path:
        keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
        if key not in keys:
            return False
        tree = tree[key]
    return True


def _lines_of(node: yaml.Node, path: Path_) -> Iterator[tuple[Path_, int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines_of(value, (*path, key.value))
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines_of(value, (*path, index))


def _reject_duplicate_keys(node: yaml.Node, file: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                where = f"{file}:{key.start_mark.line + 1}"
                raise UserError(f"the key {key.value!r} stands twice", where=where, mend="keep one of them")
            seen.add(key.value)
            _reject_duplicate_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _reject_duplicate_keys(value, file)
