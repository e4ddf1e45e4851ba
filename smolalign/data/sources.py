"""What a source string means: a file, a folder's data files, or a Hub dataset id. Nothing is read here."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from smolalign.errors import UserError
from smolalign.recipe.held_out import is_test_file

READABLE = (".jsonl", ".json", ".parquet", ".txt")
# Suffixes that say "this was meant as a file" though we cannot read all of them.
DATA_SUFFIXES = frozenset({*READABLE, ".csv", ".tsv", ".arrow", ".gz", ".zst", ".bz2", ".xz", ".zip", ".xlsx", ".yaml"})
_HUB_PART = re.compile(r"[A-Za-z0-9_.-]+")
_HUB_WITH_CONFIG = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+[:@][^/]*")
# Older files of the Hub end with a hash.
_SPLIT_FILE = re.compile(r"^(?P<split>[A-Za-z0-9_]+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?|-\d+)?$")
_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")


def local_path(source: str) -> Path | None:
    """The path that `source` names, or `None` when it is a Hub dataset id (`owner/name`).

    Something that exists is a path. So is anything with a data file's suffix, a leading `.`, `/` or `~`, or with other
    than exactly one slash: if such a path is missing, UserError names it and a similarly named neighbour.
    """
    path = Path(source).expanduser()
    if source and path.exists():
        return path
    if source and not source.startswith((".", "/", "~")) and path.suffix.lower() not in DATA_SUFFIXES:
        parts = source.split("/")
        if len(parts) == 2 and all(_HUB_PART.fullmatch(part) for part in parts):
            return None
    raise missing(source)


def named(source: str, split: str | None, *configs: str | None) -> str:
    """What is read of a source, for people: `owner/name (config all; split train)`."""
    known = [config for config in configs if config]
    parts = [f"config{'s' if len(known) > 1 else ''} {', '.join(known)}"] if known else []
    parts += [f"split {split}"] if split else []
    return f"{source} ({'; '.join(parts)})" if parts else source


def missing(source: str) -> UserError:
    """The error for a source that is not there."""
    mend = "give a file, a folder or owner/name"
    if near := similar_neighbour(source):
        mend = f"did you mean {near}?"
    elif _HUB_WITH_CONFIG.fullmatch(source):
        mend = "give config, split and revision of a Hub dataset by themselves, not with its name"
    return UserError(f'no such file or folder: "{source}"', mend=mend)


def similar_neighbour(source: str) -> str:
    """A path in the same folder whose name resembles that of `source`, or an empty string."""
    path = Path(source).expanduser()
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return str(path.parent / close[0]) if close else ""


def data_files(path: Path, split: str | None = None) -> list[Path]:
    """The files to read for a file or folder, sorted by name.

    In a folder: its `.jsonl`, `.json` and `.parquet` files (`.txt` only when there is nothing else, since those are
    mostly licences and notes); in a step's output folder (it holds `step.json`) only Parquet, because the JSON there
    is the step's report; when the folder itself has none, its `data/` subfolder. Files may be named after splits
    (`train.parquet`, `test_prefs-00000-of-00002.parquet`): with `split`, those of that name are read; without, all
    files but those of test and validation splits, which are never trained on by accident.
    Raises UserError for an unknown suffix, a folder without data, or a split that is not there.
    """
    if path.is_file():
        if path.suffix.lower() not in READABLE:
            raise UserError(
                f'unknown kind of file "{path.suffix or path.name}"',
                where=str(path),
                mend=f"convert it to one of {', '.join(READABLE)}",
            )
        if split is not None:
            raise UserError(f'split "{split}" does not apply to a single file', where=str(path), mend="remove `split`")
        return [path]
    files = _listed(path) or _listed(path / "data")
    if not files:
        raise UserError(f"no data files ({', '.join(READABLE)}) in this folder", where=str(path))
    return _of_split(path, files, split)


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith((".", "_")))
    if (folder / "step.json").exists():
        return [f for f in files if f.suffix.lower() == ".parquet"]
    structured = [f for f in files if f.suffix.lower() in READABLE and f.suffix.lower() != ".txt"]
    return structured or [f for f in files if f.suffix.lower() == ".txt"]


def splits_in(folder: Path) -> list[str]:
    """The splits that the data files of a folder are named after."""
    return list(_by_split(_listed(folder) or _listed(folder / "data")))


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for file in files:
        found = _SPLIT_FILE.match(file.stem)
        # What is no split's plain name may yet say that it is for tests: `test-hard.jsonl` is the split `test-hard`.
        name = found["split"] if found else file.stem if is_test_file(file.name) else ""
        if is_test_file(file.name) or name.split("_")[0] in ("train", *_HELD_OUT):
            by_split.setdefault(name, []).append(file)
    return by_split


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    by_split = _by_split(files)
    held_out = {file for name in by_split if name.split("_")[0] != "train" for file in by_split[name]}
    chosen = [file for file in files if file not in held_out] if split is None else by_split.get(split, [])
    if not chosen:
        mend = f"splits there: {', '.join(by_split) or 'none'}"
        raise UserError(f'no split "{split or "train"}" in this folder', where=str(folder), mend=mend)
    return chosen
