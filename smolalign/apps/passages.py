"""The texts of a folder in passages, and those among them that a question's words are found in, by bm25s."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.apps.texts import decoded, parts
from smolalign.errors import UserError

KINDS = (".txt", ".text", ".md", ".markdown", ".rst")
# Single letters and digits are words too: "plan B", "5 days".
WORDS = r"(?u)\b\w+\b"


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines of a file, counted from 1."""

    file: str
    first: int
    last: int
    text: str

    @property
    def place(self) -> str:
        """Where it stands, as `file:line-line`."""
        return f"{self.file}:{self.first}-{self.last}"


@dataclass(frozen=True)
class Texts:
    """The texts of a folder by file; why each text that is left out is; and how many files are of other kinds."""

    by_file: dict[str, str]
    left_out: dict[str, str]
    others: Counter[str]

    def notes(self) -> list[str]:
        """What is not read, a line each."""
        lines = [f"left out: {name} ({why})" for name, why in self.left_out.items()]
        if self.others:
            kinds = ", ".join(f"{number} × {kind or 'no suffix'}" for kind, number in self.others.most_common())
            lines.append(f"left out: files of other kinds than {', '.join(KINDS)} ({kinds})")
        return lines


def read_folder(folder: Path) -> Texts:
    """All texts below a folder, by path in it; what is hidden (`.git`) is not looked at.

    Raises:
        UserError: it is no folder, or has no text.
    """
    if not folder.is_dir():
        raise UserError("is no folder" if folder.exists() else "no such folder", where=str(folder))
    texts: dict[str, str] = {}
    left_out: dict[str, str] = {}
    others: Counter[str] = Counter()
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if file.suffix.lower() not in KINDS:
            others[file.suffix] += 1
            continue
        try:
            texts[name] = decoded(file.read_bytes(), name)
        except OSError as error:
            left_out[name] = f"cannot be read: {error.strerror}"
        except UserError as error:
            left_out[name] = error.what
        else:
            if not texts[name].strip():
                left_out[name] = "is empty"
                del texts[name]
    read = Texts(texts, left_out, others)
    if not texts:
        why = "; ".join(read.notes()) or "it is empty"
        raise UserError(f"has no text to read: {why}", where=str(folder), mend=f"name a folder of {', '.join(KINDS)}")
    return read


def _files(folder: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in files if not name.startswith(".")]
    return sorted(found)


def passages_of(texts: Texts, size: int, count: Callable[[str], int]) -> list[Passage]:
    """All texts in passages of at most so many tokens, blank ones left out."""
    return [
        Passage(name, part.first, part.last, part.text)
        for name, text in texts.by_file.items()
        for part in parts(text, size, count)
        if part.text.strip()
    ]


def library() -> Any:
    """bm25s. Raises UserError where it is not installed."""
    try:
        import bm25s
    except ImportError:
        raise UserError(
            "passages are found by bm25s, which is not installed", mend="pip install 'smolalign[rag]'"
        ) from None
    return bm25s


class Index:
    """The words of passages, and of the files that they are in, scored by BM25 (Lucene's variant)."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = list(passages)
        self._ranks = library().BM25()
        self._ranks.index(_words([f"{one.file} {one.text}" for one in passages]), show_progress=False)

    def find(self, question: str, most: int) -> list[Passage]:
        """So many passages at most that share words with a question, the best first; common English words count not."""
        (words,) = _words([question])
        if not words:
            return []
        scores = self._ranks.get_scores(words)
        # Equal scores keep the order of the files.
        ranked = sorted(range(len(self._passages)), key=lambda index: -scores[index])
        return [self._passages[index] for index in ranked[:most] if scores[index] > 0]


def _words(texts: Sequence[str]) -> list[list[str]]:
    return library().tokenize(list(texts), token_pattern=WORDS, stopwords="en", return_ids=False, show_progress=False)
