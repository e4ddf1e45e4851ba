"""What a recipe names, found: models, rows, and files beside them, each with the digest of its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smolalign.adapters import base_of, is_adapter
from smolalign.data.records import fingerprint_source
from smolalign.data.sources import data_files, missing
from smolalign.errors import UserError
from smolalign.quality.folder import is_scorer, scorer_files
from smolalign.recipe.data import AnnotatedSource, Benchmark, DataSource
from smolalign.recipe.load import Recipe
from smolalign.recipe.measure import is_replies
from smolalign.recipe.pretraining import Branch
from smolalign.recipe.schema import PretrainStep
from smolalign.store import digest_files, digest_json, digest_model, digest_path, read_manifest
from smolalign.train.branch import branch_start


def resolve_model(reference: str, recipe: Recipe, run_folder: Path) -> tuple[str, str]:
    """Path or Hub id of a model, and the digest of its content."""
    if reference.startswith("@"):
        folder, manifest = _finished(reference[1:], run_folder, recipe.file)
        if not (folder / "model").is_dir():
            raise UserError(
                f"{reference} has no model: it is a step of kind {manifest['kind']}", where=str(recipe.file)
            )
        return str((folder / "model").resolve()), str(manifest["output"])
    path = recipe.folder / Path(reference).expanduser()
    if path.is_file() and (path.suffix == ".gguf" or (recipe.kind == "eval" and is_replies(reference))):
        return str(path.resolve()), digest_path(path)
    if is_adapter(path):
        try:
            base = base_of(path)
        except UserError as error:
            raise error.at(recipe.file) from None
        below = resolve_model(base, recipe, run_folder)[1] if Path(base).exists() else base
        return str(path.resolve()), digest_json([digest_model(path), below])
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"{reference} is no model folder: it has no config.json",
                where=str(recipe.file),
                mend="name a checkpoint in Transformers format, such as a step's model/ folder, or adapters in peft's",
            )
        return str(path.resolve()), digest_model(path)
    if path.is_file():
        raise UserError(f"{reference} is no model", where=str(recipe.file), mend="name a folder or a .gguf file")
    if reference.startswith((".", "/", "~")) or reference.endswith(".gguf") or reference.count("/") != 1:
        raise UserError(
            f"no model {reference}", where=str(recipe.file), mend="name a checkpoint folder, a .gguf file or a Hub id"
        )
    return reference, digest_json(reference)


def resolve_data(data: DataSource, recipe: Recipe, run_folder: Path) -> tuple[DataSource, str]:
    """The source with paths that exist, or a Hub id, and the digest of its content."""
    found, digest = _resolve_rows(data, recipe, run_folder)
    if data.tools is None:
        return found, digest
    tools = str((recipe.folder / Path(data.tools).expanduser()).resolve())
    try:
        digest = digest_json([digest, fingerprint_source(tools)])
    except UserError as error:
        raise error.at(recipe.file) from None
    return found.model_copy(update={"tools": tools}), digest


def _resolve_rows(data: DataSource, recipe: Recipe, run_folder: Path) -> tuple[DataSource, str]:
    if data.source.startswith("@"):
        folder, _ = _finished(data.source[1:], run_folder, recipe.file)
        rows, split = (folder / "data").resolve(), data.split or "train"
        try:
            files = data_files(rows, split)
        except UserError:
            there = ", ".join(sorted({p.stem.split("-")[0] for p in rows.glob("*.parquet")})) or "none"
            raise UserError(
                f"{data.source} has no rows of split {split!r} (it has: {there})",
                where=str(recipe.file),
                mend="set test_fraction in that step" if split == "test" else "",
            ) from None
        return data.model_copy(update={"source": str(rows), "split": split}), digest_files(rows, files)
    path = recipe.folder / Path(data.source).expanduser()
    source = str(path.resolve()) if path.exists() or _looks_like_path(data.source) else data.source
    try:
        digest = fingerprint_source(source, config=data.config, split=data.split, revision=data.revision)
    except UserError as error:
        raise error.at(recipe.file) from None
    return data.model_copy(update={"source": source}), digest


def resolve_scorer(reference: str, recipe: Recipe, run_folder: Path) -> tuple[str, str]:
    """Folder or Hub id of what gives texts their scores, and the digest of its content."""
    if reference.startswith("@"):
        step, manifest = _finished(reference[1:], run_folder, recipe.file)
        if not is_scorer(step / "scorer"):
            what = f"{reference} has no scorer: it is a step of kind {manifest['kind']}"
            raise UserError(what, where=str(recipe.file), mend="name a step of kind quality")
        return str((step / "scorer").resolve()), str(manifest["output"])
    path = recipe.folder / Path(reference).expanduser()
    if is_scorer(path):
        return str(path.resolve()), digest_files(path, scorer_files(path))
    if is_scorer(path / "scorer"):
        what = f"{reference} is a step's folder, and its scorer lies in it"
        raise UserError(what, where=str(recipe.file), mend=f"write {reference.rstrip('/')}/scorer")
    if (path / "config.json").is_file():
        return str(path.resolve()), digest_model(path)
    if path.exists() or reference.startswith((".", "/", "~")) or reference.count("/") != 1:
        what = f"{reference} is no scorer: it has neither scorer.json nor config.json" if path.exists() else ""
        mend = "name a quality step, its scorer/ folder, or a classifier's folder or Hub id"
        raise UserError(what or f"no scorer {reference}", where=str(recipe.file), mend=mend)
    return reference, digest_json(reference)


def resolve_beside(reference: str, recipe: Recipe) -> tuple[str, str]:
    """Path of a file or folder that is read beside a task's rows, and the digest of its content."""
    path = recipe.folder / Path(reference).expanduser()
    if not path.exists():
        raise missing(str(path)).at(recipe.file)
    return str(path.resolve()), digest_path(path)


def resolve_branch(step: PretrainStep, recipe: Recipe) -> tuple[Branch, str]:
    """The run that a pretrain step branches from, by its whole path, and the digest of what it begins with.

    Raises:
        UserError: there is no such checkpoint, or it is not of this recipe.
    """
    assert step.branch is not None
    of = (recipe.folder / Path(step.branch.of).expanduser()).resolve()
    try:
        found = branch_start(step, of)
    except UserError as error:
        raise error.at(recipe.where("branch")) from None
    return step.branch.model_copy(update={"of": str(of)}), found.digest


def as_source(named: Benchmark | AnnotatedSource) -> DataSource:
    """Where a benchmark, or a set of annotated texts, is read from."""
    return DataSource(**named.model_dump(include={"source", "config", "split", "revision"}))


def _looks_like_path(source: str) -> bool:
    suffixes = (".jsonl", ".json", ".parquet", ".txt")
    return source.startswith((".", "/", "~")) or source.endswith(suffixes) or source.count("/") != 1


def _finished(name: str, run_folder: Path, file: Path) -> tuple[Path, dict[str, Any]]:
    folder = run_folder / name
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"@{name} has not been run: no finished step in {folder}",
            where=str(file),
            mend="run that step first, or name the run's folder with --out",
        )
    return folder, manifest
