"""The rows of an optimizer step, and how they are divided: over processes, and into batches one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smolalign.errors import UserError

# What the trainer's fields are where a recipe leaves them out.
DEFAULT_SIZE, DEFAULT_ACCUMULATED = 8, 1
SIZE, ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"


@dataclass(frozen=True, slots=True)
class Division:
    """An optimizer step: `processes` × `accumulated` batches, one after the other in each process, of `size` rows."""

    size: int
    accumulated: int
    processes: int

    @property
    def rows(self) -> int:
        """Rows of the step, over all processes."""
        return self.size * self.accumulated * self.processes

    def fields(self) -> dict[str, int]:
        """As the trainer's fields."""
        return {SIZE: self.size, ACCUMULATED: self.accumulated}

    def line(self) -> str:
        """The division in words."""
        parts = [f"{self.size} at a time"]
        parts += [f"{self.processes} processes"] if self.processes > 1 else []
        parts += [f"{self.accumulated} accumulated"] if self.accumulated > 1 else []
        return f"of an optimizer step: {' × '.join(parts)}"


def batch_problem(global_size: int | None, trainer: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What is wrong with the trainer's fields beside a global batch, whatever the number of processes.

    Args:
        global_size: `global_batch_size` of the recipe.
        trainer: its `trainer` block.

    Returns:
        The field, what is wrong with it, and the mend.
    """
    if global_size is None:
        return None
    if ACCUMULATED in trainer:
        return ACCUMULATED, f"follows from global_batch_size {global_size}", "leave it out"
    if trainer.get("auto_find_batch_size"):
        return "auto_find_batch_size", f"would not keep to global_batch_size {global_size}", "leave it out"
    size = trainer.get(SIZE, 1)
    if type(size) is int and size >= 1 and global_size % size == 0:
        return None
    near = _largest_divisor(global_size, max(1, size) if type(size) is int else DEFAULT_SIZE)
    mend = f"set it to {near}, or change global_batch_size"
    return SIZE, f"does not divide global_batch_size {global_size}", mend


def divide(global_size: int | None, trainer: Mapping[str, Any], processes: int) -> Division:
    """How so many processes share an optimizer step.

    Without a global batch the trainer's fields say it all. With one, `gradient_accumulation_steps` follows; where
    `per_device_train_batch_size` is left out as well, it is the largest that divides the rows of a process, up to 8.

    Args:
        global_size: `global_batch_size` of the recipe.
        trainer: its `trainer` block.
        processes: that train together.

    Raises:
        UserError: the global batch does not divide so.
    """
    if global_size is None:
        return Division(trainer.get(SIZE, DEFAULT_SIZE), trainer.get(ACCUMULATED, DEFAULT_ACCUMULATED), processes)
    if global_size % processes:
        raise UserError(
            f"global_batch_size {global_size} does not divide among {processes} processes",
            mend=f"take {counts(global_size)} processes, or change global_batch_size",
        )
    rows = global_size // processes
    size = trainer.get(SIZE, _largest_divisor(rows, DEFAULT_SIZE))
    if rows % size:
        raise UserError(
            f"global_batch_size {global_size} among {processes} processes is {rows} rows each, no multiple of "
            f"{SIZE} {size}",
            mend=f"set trainer.{SIZE}={_largest_divisor(rows, size)}, or take {counts(global_size // size)} processes",
        )
    return Division(size, rows // size, processes)


def counts(rows: int) -> str:
    """The numbers that divide so many rows, in words: `1, 2 or 4`; of many the first ones and the last."""
    found = [str(number) for number in range(1, rows + 1) if rows % number == 0]
    if len(found) > _MOST_NAMED:
        found = [*found[: _MOST_NAMED - 1], "…", found[-1]]
    return f"{', '.join(found[:-1])} or {found[-1]}" if len(found) > 1 else found[0]


_MOST_NAMED = 9


def _largest_divisor(rows: int, most: int) -> int:
    """The largest number up to `most` that divides so many rows."""
    return next(number for number in range(min(most, rows), 0, -1) if rows % number == 0)
