"""What may go wrong by a user's hand. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend: what is wrong, where, and what to do. The program ends with exit code 2.

    Args:
        what: the problem, with the value that caused it.
        where: `file`, `file:line` or the like; empty when the problem has no place.
        mend: what to do about it; empty when `what` says it.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(self.line())

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.__dict__)

    def line(self) -> str:
        """The whole message on one line: `where: what (mend)`."""
        text = " ".join(self.what.split())
        if self.where:
            text = f"{self.where}: {text}"
        return f"{text} → {' '.join(self.mend.split())}" if self.mend else text

    def at(self, where: object) -> UserError:
        """The same mistake, at a place if it has none of its own."""
        if not self.where:
            self.where = str(where)
            self.args = (self.line(),)
        return self


class RowError(UserError):
    """What is wrong with a row.

    `reason` is the same for all rows with that flaw, so that they can be counted; `found` is what stands there where no
    record could be made of it.
    """

    def __init__(self, reason: str, what: str, *, where: str = "", mend: str = "", found: Any = None) -> None:
        self.reason, self.found = reason, found
        super().__init__(what, where=where, mend=mend)


class UserErrors(UserError):
    """Several mistakes found in one go, such as every wrong field of a recipe."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = list(errors)
        Exception.__init__(self, self.line())

    def line(self) -> str:
        return "\n".join(error.line() for error in self.errors)

    def at(self, where: object) -> UserErrors:
        """The same mistakes, those without a place of their own at this one."""
        for error in self.errors:
            error.at(where)
        self.args = (self.line(),)
        return self


def require_no_wrong_rows(errors: Sequence[UserError], most: int = 10) -> None:
    """Raises UserError where there are any, which tells the first ones and counts the others."""
    if not errors:
        return
    more = [UserError(f"{len(errors) - most} rows more are wrong")] if len(errors) > most else []
    raise UserErrors([*errors[:most], *more]) if len(errors) > 1 else errors[0]


def _restored(kind: type[UserError], fields: dict[str, Any]) -> UserError:
    """A mistake told by another process."""
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    Exception.__init__(error, error.line())
    return error


class Failed(Exception):
    """A failure in another process; the text says what was raised there."""
