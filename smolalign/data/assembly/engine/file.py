"""The file of `--engine`: on which machines an assembly runs. What it makes of its rows does not depend on it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import shutil
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from smolalign.errors import UserError, UserErrors
from smolalign.recipe.block import PositiveInt
from smolalign.recipe.explain import explain
from smolalign.recipe.tree import Places, read_yaml

# Datatrove's executors, by the word for each.
EXECUTORS = {
    "local": ("datatrove.executor.local", "LocalPipelineExecutor"),
    "slurm": ("datatrove.executor.slurm", "SlurmPipelineExecutor"),
    "ray": ("datatrove.executor.ray", "RayPipelineExecutor"),
}
# Parameters of theirs that are ours to set: what runs and where its logs lie, that each stage is waited for and begins
# anew, and that a task runs once.
_OURS = {
    "pipeline",
    "logging_dir",
    "slurm_logs_folder",
    "depends",
    "depends_job_id",
    "run_on_dependency_fail",
    "skip_completed",
    "job_id_retriever",
    "start_method",
    "local_tasks",
    "local_rank_offset",
    "nodes_per_task",
}
_COUNTS = {"workers", "tasks_per_job", "cpus_per_task"}


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as its file describes it.

    Attributes:
        kind: one of EXECUTORS.
        tasks: most tasks of a stage.
        options: what else the executor is given, by its own names.
        file: where all of that stands.
    """

    kind: str
    tasks: int
    options: dict[str, Any]
    file: Path

    def line(self) -> str:
        """What it is, in words."""
        return f"{self.kind}, at most {self.tasks} tasks a stage ({self.file})"


def read_engine(file: Path) -> Engine:
    """Read and check the file of an engine.

    Raises:
        UserErrors: everything that is wrong with it.
        UserError: a package or a program that the engine needs is not installed.
    """
    tree, places = read_yaml(file, "an engine is a mapping that begins with engine:")
    kind = tree.get("engine")
    if not isinstance(kind, str) or kind not in EXECUTORS:
        close = difflib.get_close_matches(str(kind), EXECUTORS, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(EXECUTORS)}"
        what = "no engine" if kind is None else f"unknown engine {kind!r}"
        raise UserError(what, where=places.get(("engine",), f"{file}:1"), mend=mend)
    model = _model(kind)
    ours = sorted(_OURS & set(tree), key=list(tree).index)
    problems = [_is_ours(key, places) for key in ours]
    rest = {key: value for key, value in tree.items() if key not in ours}
    try:
        found = model.model_validate(_as_written(rest, model, file))
    except ValidationError as error:
        raise UserErrors([*problems, *(explain(model, tree, one, places, file) for one in error.errors())]) from None
    if problems:
        raise UserErrors(problems)
    _require(kind, file)
    options = {key: value for key, value in found.model_dump(exclude_unset=True).items() if key in rest}
    return Engine(kind, options.pop("tasks"), {key: options[key] for key in options if key != "engine"}, file)


def executor_class(kind: str) -> type:
    """Datatrove's class of an executor. Raises UserError if datatrove is not installed."""
    module, name = EXECUTORS[kind]
    try:
        found: type = getattr(importlib.import_module(module), name)
    except ImportError:
        raise UserError(
            "--engine needs datatrove, which is not installed", mend="pip install 'smolalign[cluster]'"
        ) from None
    return found


def _model(kind: str) -> type[BaseModel]:
    """The keys of the file, which are the parameters of the executor."""
    init: Any = inspect.unwrap(executor_class(kind).__init__)  # type: ignore[misc]
    types = typing.get_type_hints(init)
    fields: dict[str, Any] = {"engine": (str, ...), "tasks": (PositiveInt, ...)}
    for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
        if name not in _OURS and name not in fields:
            if parameter.default is inspect.Parameter.empty:
                fields[name] = (types[name], ...)
            elif name in _COUNTS:
                fields[name] = (PositiveInt, parameter.default)
            else:
                # Whatever the annotation says, None is a default of some, and turns others, such as qos, off.
                may_be_none = parameter.default is None or types[name] is str
                fields[name] = (types[name] | None if may_be_none else types[name], parameter.default)
    return create_model(f"{kind.title()}Engine", __config__=ConfigDict(extra="forbid"), **fields)


def _as_written(tree: dict[str, Any], model: type[BaseModel], file: Path) -> dict[str, Any]:
    """The tree with text where the executor takes text: YAML 1.1 reads a time limit of `20:00:00` as 72000."""
    written: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    found = dict(tree)
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if isinstance(value, dict) and key in ("sbatch_args", "srun_args"):
            # Options of a command; one without a value is a switch.
            found[key] = {each: None if value[each] is None else written[str(key)][each] for each in value}
        elif field and str in (field.annotation, *typing.get_args(field.annotation)) and value is not None:
            found[key] = written[key]
    return found


def _is_ours(key: str, places: Places) -> UserError:
    return UserError(f"{key} is set by smolalign", where=places[key,], mend="leave it out")


def _require(kind: str, file: Path) -> None:
    """Raises UserError where what the engine is reached by is not here."""
    if kind == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("Ray is not installed", where=str(file), mend="pip install ray")
    for program in ("sbatch", "squeue", "scancel") if kind == "slurm" else ():
        if shutil.which(program) is None:
            what = f"there is no {program} on this machine"
            raise UserError(what, where=str(file), mend="run it where Slurm's jobs are submitted")
