"""What a pretraining keeps at the end of each stage, and what another run must share to go on from there.

    stages/2-code/
      stage.json     written last: which stage, what was trained until then, where each source is read on, its losses
      …              the trainer's whole checkpoint, which Transformers loads as a model

Nothing here needs torch: `check` looks at branches, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.recipe.schema import PretrainStep
from smolalign.store import STAGES, digest_files, read_json, whole_folder, write_json

ABOUT = "stage.json"
# Differences of a branch that are named.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class KeptStage:
    """A stage's checkpoint, and what its `stage.json` tells."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Of the stage that had ended, counted from 1."""
        return int(self.about["stage"])

    @property
    def digest(self) -> str:
        """Of the checkpoint's files, as they were written."""
        return str(self.about["content"])


def keep_stage(
    checkpoint: Path,
    step_folder: Path,
    number: int,
    name: str,
    about: Mapping[str, Any],
    save_model: Callable[[Path], None] | None = None,
) -> None:
    """Keep a checkpoint as that of a stage: its files under a further name, which take no room until the trainer
    removes its own.

    Args:
        checkpoint: whole.
        step_folder: of the pretrain step.
        number: of the stage, counted from 1.
        name: of the stage.
        about: for `stage.json`.
        save_model: writes the model's configuration and weights into a folder, where the checkpoint does not hold them.
    """
    with whole_folder(step_folder / STAGES / f"{number}-{name}") as target:
        shutil.copytree(checkpoint, target, copy_function=_link, dirs_exist_ok=True)
        if save_model is not None:
            save_model(target)
        as_model(target)
        files = [file for file in target.rglob("*") if file.is_file()]
        write_json(target / ABOUT, {"stage": number, "name": name, **about, "content": digest_files(target, files)})
    for other in _numbered(step_folder, number):
        if other.name != f"{number}-{name}":
            shutil.rmtree(other)


def as_model(folder: Path) -> None:
    """Have the checkpoint read as a model that writes: the trainer has turned the cache of keys and values off."""
    config = read_json(folder / "config.json")
    if config is not None and config.get("use_cache") is False:
        write_json(folder / "config.json", {**config, "use_cache": True})


def kept_stages(step_folder: Path) -> list[KeptStage]:
    """The stages that a step has kept, in order."""
    found = [
        KeptStage(folder, about)
        for folder in (step_folder / STAGES).glob("*-*")
        if not folder.name.startswith(".") and (about := read_json(folder / ABOUT))
    ]
    return sorted(found, key=lambda kept: kept.number)


def branch_start(step: PretrainStep, of: Path) -> KeptStage:
    """The checkpoint that a branch begins with.

    Args:
        step: the branch's recipe.
        of: folder of the run's pretrain step.

    Raises:
        UserError: there is none, or it is not of this recipe.
    """
    assert step.branch is not None
    number = step.branch.stage - 1
    there = kept_stages(of)
    found = next((kept for kept in there if kept.number == number), None)
    if found is None:
        names = ", ".join(kept.folder.name for kept in there) or "none"
        mend = f"name one whose stage {number} has ended, or branch at an earlier stage"
        raise UserError(f"has kept no checkpoint of stage {number} (it has: {names})", where=str(of), mend=mend)
    if differing := list(differences(step, found)):
        more = [f"and {len(differing) - _NAMED} more"] if len(differing) > _NAMED else []
        raise UserError(
            f"cannot branch from {found.folder.name} of {of}: {'; '.join([*differing[:_NAMED], *more])}",
            mend="what was trained before a branch must be the same; change later stages alone",
        )
    return found


def identity(step: PretrainStep, rows: int, stages: int) -> dict[str, Any]:
    """What a recipe says of all that is trained by the end of so many stages, as JSON.

    Args:
        step: the recipe.
        rows: of an optimizer step, over all devices.
        stages: how many of its stages.
    """
    return {
        "seed": step.seed,
        "max_length": step.max_length,
        "rows of an optimizer step": rows,
        "template": step.template,
        "tokenizer": step.tokenizer.model_dump(mode="json"),
        "architecture": step.architecture.model_dump(mode="json"),
        "stages": [stage.model_dump(mode="json", exclude={"decay"}) for stage in step.stages[:stages]],
    }


def differences(step: PretrainStep, kept: KeptStage) -> Iterator[str]:
    """What a branch's recipe says otherwise of what had been trained, a line each."""
    there = kept.about["trained"]
    # How many processes there will be is not known yet: their rows are looked at when it is.
    here = identity(step, step.global_batch_size or there["rows of an optimizer step"], kept.number)
    for name, value in here.items():
        if name == "stages":
            for number, (own, other) in enumerate(zip(value, there["stages"], strict=False), start=1):
                yield from _told(f"stages.{number - 1}", own, other)
        else:
            yield from _told(name, value, there[name])


def require_sources(kept: KeptStage, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError where a source that had been read is another one now.

    Args:
        kept: what the branch begins with.
        sources: what is told of each by its name: its least tokens, and the digest of its tokens.
    """
    for name, there in kept.about["sources"].items():
        if not kept.about["cursors"].get(name):
            continue
        if name not in sources:
            raise UserError(f"source {name!r}, which {kept.folder.name} was trained on, is not in this recipe")
        if sources[name] != there:
            raise UserError(
                f"source {name!r} holds other documents than those that {kept.folder.name} was trained on",
                mend="give the new ones a name of their own, and leave the old source as it is",
            )


def _told(name: str, here: Any, there: Any) -> Iterator[str]:
    """The values that differ, by their key paths."""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in dict.fromkeys([*here, *there]):
            yield from _told(f"{name}.{key}", here.get(key), there.get(key))
    elif here != there:
        yield f"{name} is {here} here, {there} there"


def _numbered(step_folder: Path, number: int) -> list[Path]:
    return [path for path in (step_folder / STAGES).glob(f"{number}-*") if path.is_dir()]


def _link(source: str, target: str) -> None:
    """The file under a further name, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
