"""Sets that are read whole, by readers of their own, in place of an assembly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from smolalign.data.records import Record, all_records
from smolalign.errors import UserError
from smolalign.recipe.data import DataSource

Made = TypeVar("Made")


def read_whole(
    sources: Sequence[DataSource], make: Callable[[Record, str], Made]
) -> tuple[list[Made], list[UserError]]:
    """What is made of each record and its origin, and what is wrong with the other records, each with its place.

    Args:
        sources: resolved.
        make: gives what a record and its origin come to, or raises UserError.
    """
    made: list[Made] = []
    errors: list[UserError] = []
    for source in sources:
        found = all_records(source.source, config=source.config, split=source.split, revision=source.revision)
        for origin, record in found:
            try:
                if isinstance(record, UserError):
                    raise record
                made.append(make(record, origin))
            except UserError as error:
                errors.append(error.at(origin))
    return made, errors
