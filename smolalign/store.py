"""Step folders: fingerprints, manifests, locks, and files that are either whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from smolalign.errors import UserError

MANIFEST = "step.json"
STARTED = "started.json"
# A model's card, in its folder: what it tells of how the model was made is no part of what the model is.
CARD = "README.md"
# In the run folder: a line each time a step was asked for, and whether it had been done before.
ASKED = "asked.jsonl"
_DATA_FILES = ("data_report.html", "rejected.jsonl")
# What a step may leave in its folder, the manifest first.
_FILES = (MANIFEST, "recipe.yaml", "metrics.jsonl", "data_report.json", "samples.jsonl", "before.json", *_DATA_FILES)
_FOLDERS = ("model", "data", "scorer", "checkpoints", "adapter")
# What a judge was paid for, by request: no other step takes it for its own, so it outlives changes of a recipe.
JUDGEMENTS = "judgements.jsonl"
# What a pretraining keeps of its stages, for branches: days of work, so it outlives changes of a recipe, too.
STAGES = "stages"

# Raised when a change of the package changes what a step makes of the same recipe and the same data.
DATA_VERSION = 7


def cache_folder() -> Path:
    """Where what can be computed again is kept for other runs: `$XDG_CACHE_HOME/smolalign`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolalign"


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def digest_files(root: Path, files: list[Path]) -> str:
    """SHA-256 over names (relative to `root`) and contents of files, in sorted order."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.relative_to(root).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def digest_path(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder."""
    if path.is_file():
        return digest_files(path.parent, [path])
    return digest_files(path, [file for file in path.rglob("*") if file.is_file()])


def digest_model(folder: Path) -> str:
    """SHA-256 of a model's files. Its card tells times and scores, so the same weights may have another one."""
    return digest_files(folder, [file for file in folder.rglob("*") if file.is_file() and file != folder / CARD])


def output_files(folder: Path) -> list[Path]:
    """What later steps read of a step: the files of its model, but for the card, its rows, and its scorer."""
    files = [
        file for part in ("model", "data", "scorer") for file in sorted((folder / part).rglob("*")) if file.is_file()
    ]
    return [file for file in files if file != folder / "model" / CARD]


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that it is never half there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path.name}: {error.strerror}", where=str(path.parent)) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where the file is missing or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished step, or None where the step has not finished."""
    return read_json(folder / MANIFEST)


def is_done(folder: Path, fingerprint: str) -> bool:
    """Whether the folder holds this very step, finished, with every file that it wrote for later steps."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("fingerprint") != fingerprint:
        return False
    files = manifest.get("output_files")
    return files is not None and all((folder / file).is_file() for file in files)


@contextmanager
def step_folder(folder: Path, fingerprint: str, *, fresh: bool, layout: str = "") -> Iterator[bool]:
    """Own a step's folder while the step runs.

    What an earlier, different step left there is removed; what this very step left when it was killed is kept.

    Args:
        folder: the step's folder; made if it is not there.
        fingerprint: of the step about to run, as far as it matters to what a run that was cut off left.
        fresh: start over even where this very step was under way.
        layout: of its checkpoints, in words; empty where each is whole.

    Yields:
        Whether an earlier run of this very step is being taken up.

    Raises:
        UserError: the folder cannot be written, holds what no step left there, or another process is at work in it;
            or the step was under way with checkpoints of another layout.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write there: {error.strerror}", where=str(folder), mend="choose another --out"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError("another smolalign is at work in this folder", where=str(folder)) from None
        started = read_json(folder / STARTED)
        resumed = not fresh and started is not None and started.get("fingerprint") == fingerprint
        if resumed and started is not None and (before := started.get("layout", "")) != layout:
            if any(folder.glob("checkpoints/*/trainer_state.json")):
                whole = "whole weights"
                what = f"was cut off with checkpoints of {before or whole}, not of {layout or whole}"
                raise UserError(what, where=str(folder), mend="launch it as before, or begin anew with --fresh")
            resumed = False
        if not resumed:
            ours = started is not None or read_manifest(folder) is not None
            _empty(folder, ours=ours)
            if fresh and ours:
                (folder / JUDGEMENTS).unlink(missing_ok=True)
                shutil.rmtree(folder / STAGES, ignore_errors=True)
            write_json(folder / STARTED, {"fingerprint": fingerprint, "layout": layout})
        yield resumed


def finish(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which makes the step done, and remove what only an unfinished step needs.

    The manifest is also told the names of the step's output files, and under `output` the digest of them all.
    """
    files = output_files(folder)
    named = [file.relative_to(folder).as_posix() for file in files]
    write_json(folder / MANIFEST, {**manifest, "output": digest_files(folder, files), "output_files": named})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / STARTED).unlink(missing_ok=True)


def utc() -> str:
    """The time, such as `2026-11-27T08:00:00Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def note_asked(run_folder: Path, name: str, *, cached: bool) -> None:
    """Note that a command asked for a step that is now done; without a word where the folder cannot be written."""
    line = json.dumps({"at": utc(), "step": name, "cached": cached})
    with suppress(OSError), (run_folder / ASKED).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `target` at the end, or leaves no trace when something fails."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


@contextmanager
def taking_turns(target: Path) -> Iterator[None]:
    """Have processes that would all make `target` do so one after the other, so that all but the first find it made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _empty(folder: Path, *, ours: bool) -> None:
    """Remove what steps write, and nothing else: the folder might hold a person's own files.

    An empty note that a step began stands there meanwhile, so that after a kill the rest still counts as a step's.
    """
    there = [folder / name for name in (*_FILES, *_FOLDERS) if (folder / name).exists()]
    if there and not ours:
        names = ", ".join(path.name for path in there)
        raise UserError(f"holds {names}, which no step left there", where=str(folder), mend="choose another --out")
    write_json(folder / STARTED, {})
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
