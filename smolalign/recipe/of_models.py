"""The eval recipe that models and tasks on the command line stand for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from smolalign.errors import UserError, UserErrors
from smolalign.recipe.load import Recipe, recipe_from_tree
from smolalign.recipe.measure import TASK_NAMES, BenchmarkName
from smolalign.recipe.schema import EvalStep
from smolalign.recipe.shipped import RECIPES, shipped_recipes
from smolalign.store import digest_json

# Those of the published SmolLM2 tables that a person can wait for; what takes a judge or days is asked for by name.
DEFAULT_TASKS = ("ifeval", "hellaswag", "arc_easy", "arc_challenge", "piqa", "gsm8k")
BENCHMARKS: tuple[str, ...] = get_args(BenchmarkName)
KINDS: tuple[str, ...] = tuple(name for name in TASK_NAMES if name != "benchmark")
# What has questions of its own; the others measure on the rows of --data.
ON_DATA = ("exact", "style", "preference", "tool_calls", "loss", "perplexity", "mt_bench", "pairwise")
# Folders under which a benchmark's files may lie, besides its own name.
_FOLDERS = {
    "arc_easy": ("ARC-Easy", "arc"),
    "arc_challenge": ("ARC-Challenge", "arc"),
    "mmlu_cloze": ("mmlu",),
    "ifeval": ("IFEval",),
}
# Names of the files of IFEval's prompts.
_IFEVAL = ("input_data.jsonl", "ifeval_input_data.jsonl")
# Names of folders that do not tell a model from others.
_TOLD_BY_PARENT = ("model", "adapter")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be measured.

    Attributes:
        tasks: benchmarks and kinds of task; empty for the default ones.
        benchmarks: folder in which each benchmark has a folder of its files; without it the Hub is read.
        data: rows for the tasks that measure on rows, `TASK=FILE` for one of them alone.
        chat: ask benchmarks through the chat template.
    """

    tasks: Sequence[str] = ()
    benchmarks: Path | None = None
    data: Sequence[str] = field(default_factory=list)
    chat: bool = False


def is_recipe(argument: str) -> bool:
    """Whether an argument of `smolalign eval` means a recipe: it ends in .yaml or .yml, or is a shipped one's name.

    What lies there as a model is one, whatever it is called.
    """
    if argument.endswith((".yaml", ".yml")):
        return True
    path = Path(argument)
    if any((path / file).is_file() for file in ("config.json", "adapter_config.json", "model/config.json")):
        return False
    return argument in shipped_recipes() or (RECIPES / argument / "pipeline.yaml").is_file()


def recipe_of_models(arguments: Sequence[str], wishes: Wishes, limit: int | None = None) -> Recipe:
    """The recipe for models, `name=model` pairs and overrides `key=value`, whose key is a field of an eval recipe.

    Args:
        arguments: of the command line.
        wishes: what to measure.
        limit: items of each task at most, which a run is told apart by.

    Raises:
        UserErrors: everything that is wrong with the arguments.
    """
    models: list[tuple[str | None, str]] = []
    overrides: list[str] = []
    errors: list[UserError] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        try:
            if equals and not Path(argument).exists() and "/" not in key:
                if key.split(".")[0] in EvalStep.model_fields:
                    overrides.append(argument)
                else:
                    models.append((key, _reference(value, argument)))
            elif is_recipe(argument):
                raise UserError(f"the recipe {argument} stands among models", mend="name one recipe, or models")
            else:
                models.append((None, _reference(argument, argument)))
        except UserError as error:
            errors.append(error)
    tasks: dict[str, Any] = {}
    try:
        tasks = _tasks(wishes)
    except UserErrors as error:
        errors += error.errors
    if not models and not errors:
        errors.append(UserError("no model to measure", mend="name a folder, a .gguf file or a Hub id"))
    if errors:
        raise UserErrors(errors)
    tree = {"kind": "eval", "models": _named(models), "tasks": tasks}
    # Another question is another run, which takes no other's place.
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(tree["models"]))[:48].strip("-.")
    run = f"eval-{words}-{digest_json([tree, overrides, limit])[:6]}"
    return recipe_from_tree({**tree, "run": run}, overrides)


def _reference(reference: str, argument: str) -> str:
    """What a recipe would say for a model: an absolute path, a Hub id or a step."""
    path = Path(reference).expanduser()
    if reference.startswith("@"):
        return reference
    if (path / "model" / "config.json").is_file() and not (path / "config.json").is_file():
        path = path / "model"
    if path.exists():
        return str(path.resolve())
    if reference.startswith((".", "/", "~")) or reference.endswith((".gguf", ".jsonl")) or reference.count("/") > 1:
        raise UserError(f"no model {reference}", mend="name a checkpoint folder, a .gguf file or a Hub id")
    owner, slash, name = reference.partition("/")
    if slash and "@" not in name and Path(owner).is_dir():
        close = _nearest(name, [one.name for one in Path(owner).iterdir()])
        mend = f"did you mean {owner}/{close}?" if close else f"for the one on the Hub, name {reference}@main"
        raise UserError(f"no model {reference}: the folder {owner} is here, and has no {name}", mend=mend)
    shipped = [*shipped_recipes(), *(folder.name for folder in RECIPES.iterdir() if folder.is_dir())]
    # A Hub id that begins as shipped recipes do is one of them, mistyped.
    if slash and owner not in shipped:
        return reference
    if reference != argument and (key := _nearest(argument.split("=")[0], list(EvalStep.model_fields))):
        mend = f"did you mean {key}={reference}?"
    else:
        close = _nearest(reference, shipped)
        mend = f"did you mean {close}?" if close else "see smolalign recipes list, or name a folder or owner/name"
    where = f" in {argument}" if reference != argument else ""
    raise UserError(f"no recipe and no model {reference!r}{where}", mend=mend)


def _named(models: Sequence[tuple[str | None, str]]) -> dict[str, str]:
    """Models by the name of their row: the one given, else what tells them from others at a glance."""
    short = [name or _short(reference) for name, reference in models]
    found: dict[str, str] = {}
    for (given, reference), name in zip(models, short, strict=True):
        own = given or (name if short.count(name) == 1 else reference)
        if own in found:
            raise UserError(f"the model {own} is named twice", mend="give one of them a name: other=MODEL")
        found[own] = reference
    return found


def _short(reference: str) -> str:
    """`sft` of `runs/nano/sft/model`, else the last part of a path or Hub id."""
    parts = [part for part in reference.removeprefix("@").split("/") if part]
    if len(parts) > 1 and parts[-1] in _TOLD_BY_PARENT:
        return parts[-2]
    return parts[-1].removesuffix(".gguf").removesuffix(".jsonl") if parts else reference


def _tasks(wishes: Wishes) -> dict[str, Any]:
    """The tasks by name, as a recipe has them."""
    names = list(dict.fromkeys(wishes.tasks or DEFAULT_TASKS))
    found: dict[str, Any] = {}
    errors: list[UserError] = []
    data = [_for_task(source) for source in wishes.data]
    for task, source in data:
        if task not in names if task else not any(name in ON_DATA for name in names):
            there = task or ", ".join(name for name in ON_DATA if name in KINDS)
            errors.append(UserError(f"no task measures on --data {source}", mend=f"name in --tasks: {there}"))
    for name in names:
        try:
            found[name] = _task(name, wishes, [source for task, source in data if task in (None, name)])
        except UserError as error:
            errors.append(error)
    if errors:
        raise UserErrors(errors)
    return found


def _for_task(source: str) -> tuple[str | None, str]:
    """The task that rows are for, if only one, and where they are: an absolute path or a Hub id."""
    task, equals, rows = source.partition("=")
    own = bool(equals) and task in ON_DATA and not Path(source).exists()
    path = Path(rows if own else source).expanduser()
    return task if own else None, str(path.resolve()) if path.exists() else str(path)


def _task(name: str, wishes: Wishes, data: Sequence[str]) -> dict[str, Any]:
    place = _place(name, wishes.benchmarks) if name in (*BENCHMARKS, "ifeval") and wishes.benchmarks else None
    if name in BENCHMARKS:
        files = {"files": str(place)} if place else {}
        return {"task": "benchmark", "benchmark": name, **files, **({"chat": True} if wishes.chat else {})}
    if name == "ifeval":
        return {"task": name, "data": [{"source": str(place) if place else "google/IFEval"}]}
    if name == "mt_bench" and not data:
        return {"task": name, "data": [{"source": "HuggingFaceH4/mt_bench_prompts"}]}
    if name not in KINDS:
        close = _nearest(name, [*BENCHMARKS, *KINDS])
        mend = f"did you mean {close}?" if close else f"there are {', '.join([*BENCHMARKS, *KINDS])}"
        raise UserError(f"no task {name!r}", mend=mend)
    if name not in ON_DATA:
        return {"task": name}
    if not data:
        raise UserError(f"{name} measures on rows, and none are named", mend=f"add --data FILE or --data {name}=FILE")
    return {"task": name, "data": [{"source": source} for source in data]}


def _place(name: str, folder: Path) -> Path:
    """Where a benchmark's files lie in the folder of all of them."""
    names = (name, *_FOLDERS.get(name, ()))
    place = next((folder / one for one in names if (folder / one).is_dir()), None)
    if place is None and name == "ifeval":
        place = folder
    if place is None:
        what = f"no folder {' or '.join(names)} with the files of {name}"
        raise UserError(what, where=str(folder), mend="put them there, or leave it out of --tasks")
    if name != "ifeval":
        return place.resolve()
    file = next((place / one for one in (*_IFEVAL, "ifeval.jsonl") if (place / one).is_file()), None)
    if file is None:
        raise UserError(f"no {_IFEVAL[0]} with the prompts of ifeval", where=str(place), mend="put it there")
    return file.resolve()


def _nearest(word: str, words: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(word, words, n=1)), "")
