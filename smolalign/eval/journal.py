"""What an evaluation has found so far, kept so that a killed one goes on where it stopped.

Under the step's `checkpoints/` each finished measurement of a model lies in a file of its own, and the answers and
scores of the one under way in a journal: a line each, appended as soon as it is known. The keys say what was asked, of
which model, with which settings, so that nothing else is ever taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from smolalign.errors import UserError
from smolalign.store import digest_json, read_json, write_text


class Journal:
    """Answers and scores by key; without a file it remembers nothing.

    Args:
        file: where the lines lie; made at the first one.
        about: what all of its keys are about, such as a digest of the model and the task.
    """

    def __init__(self, file: Path | None = None, about: str = "") -> None:
        self._file, self._about = file, about
        self._found: dict[str, Any] = {}
        self._stream: IO[bytes] | None = None
        if file is not None and file.exists():
            self._read(file)

    def of(self, kind: str, asked: Sequence[Any]) -> Recalled:
        """What is known of a list of questions, and where to keep what is found of the others.

        Args:
            kind: of the questions, such as `reply`.
            asked: for each all that its answer depends on, as JSON.
        """
        # The place counts: what the same question gets in another batch may differ in its last bits.
        keys = [self._key([kind, place, one]) for place, one in enumerate(asked)]
        return Recalled(self, keys, {place: self._found[key] for place, key in enumerate(keys) if key in self._found})

    def keep(self, key: str, value: Any) -> None:
        """Append a line."""
        if self._file is None:
            return
        try:
            if self._stream is None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._file.open("ab")
            self._stream.write(json.dumps([key, value]).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._file.name}: {error.strerror}", where=str(self._file.parent)) from None

    def close(self) -> None:
        """No more lines."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _key(self, asked: Any) -> str:
        return hashlib.sha256(json.dumps([self._about, asked]).encode()).hexdigest()[:32]

    def _read(self, file: Path) -> None:
        """The lines up to the first that is not whole; what a kill tore is cut off, so that the next begins anew."""
        content = file.read_bytes()
        whole = 0
        for line in content.splitlines(keepends=True):
            try:
                key, value = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self._found[key] = value
            whole += len(line)
        if whole < len(content):
            with file.open("r+b") as stream:
                stream.truncate(whole)


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a journal knows of a list of questions: answers by their place in it."""

    journal: Journal
    keys: Sequence[str]
    known: dict[int, Any]

    def keep(self, place: int, answer: Any) -> None:
        """Write down the answer to a question, unless it is there."""
        if place not in self.known:
            self.journal.keep(self.keys[place], answer)


@dataclass(frozen=True, slots=True)
class Finished:
    """The measurements of an eval step that are done, and the journals of those that are not.

    Args:
        folder: for their files.
    """

    folder: Path

    def read(self, *about: Any) -> dict[str, Any] | None:
        """The record of a finished measurement; None where it has not been finished."""
        return read_json(self._file(about, "json"))

    def write(self, record: dict[str, Any], *about: Any) -> None:
        """Keep the record of a measurement that is done, whose journal is of no more use."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self._file(about, "json"), json.dumps(record))
        self._file(about, "jsonl").unlink(missing_ok=True)

    def journal(self, *about: Any) -> Journal:
        """That of a measurement, with what an earlier run found of it."""
        return Journal(self._file(about, "jsonl"), digest_json(list(about)))

    def _file(self, about: Sequence[Any], suffix: str) -> Path:
        return self.folder / f"{digest_json(list(about))[:16]}.{suffix}"
