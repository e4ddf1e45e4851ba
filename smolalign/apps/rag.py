"""`smolalign app rag`: questions about the texts of a folder, answered from passages that are named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from smolalign.apps.passages import Index, Passage, library, passages_of, read_folder
from smolalign.apps.wishes import Wishes
from smolalign.apps.writer import Task, Writer, show
from smolalign.chat.session import tell
from smolalign.chat.terminal import open_input
from smolalign.errors import UserError

# Stands between the passages and the question.
INSTRUCTION = "Answer from these passages and cite them by number, such as [1]."
# Longest passage in tokens; a question wants a few lines, and more of them fit.
PASSAGE_TOKENS = 200


def rag(folder: Path, question: str | None, wishes: Wishes, most: int = 4) -> bool:
    """Answer a question, or each one that is typed or piped in, one a line.

    The answer goes to standard output; the passages that it was given, and which of them it cites, to standard error.

    Args:
        folder: of texts.
        question: None reads them one by one.
        most: passages that an answer is made from.

    Returns:
        Whether the question was answered to the end; True where several were read.

    Raises:
        UserError: the folder has no text, bm25s is not installed, or the model cannot be loaded.
    """
    if question is not None and not question.strip():
        raise UserError("the question is empty")
    library()
    texts = read_folder(folder)
    for note in texts.notes():
        tell(note)
    writer = Writer(wishes)
    size = min(PASSAGE_TOKENS, writer.part_size(Task(INSTRUCTION)) // 2)
    passages = passages_of(texts, size, writer.count)
    tell(f"{len(texts.by_file)} files, {len(passages)} passages")
    desk = Desk(Index(passages), writer, most, folder)
    if question is not None:
        return desk.answer(question.strip())
    source = open_input()
    while (line := source.read()) is not None:
        if line:
            try:
                desk.answer(line)
            except (UserError, KeyboardInterrupt) as error:
                if not source.typed:
                    raise
                tell(error.line() if isinstance(error, UserError) else "stopped")
    return True


class Desk:
    """Answers questions from an index."""

    def __init__(self, index: Index, writer: Writer, most: int, folder: Path) -> None:
        self._index, self._writer, self._most, self._folder = index, writer, most, folder

    def answer(self, question: str) -> bool:
        """Write an answer and name its passages; whether there is one that came to its end. Raises UserError."""
        found = self._index.find(question, self._most)
        if not found:
            tell(f"no passage in {self._folder} has a word of the question")
            return False
        given = self._fitting(found, question)
        answer = self._writer.write(_request(given, question), show)
        show("\n")
        whole = answer.told()
        self._name(given, answer.text)
        return whole

    def _fitting(self, found: Sequence[Passage], question: str) -> Sequence[Passage]:
        """As many of the best passages as fit beside the question. Raises UserError where none does."""
        for number in range(len(found), 0, -1):
            if self._writer.fits(_request(found[:number], question)):
                if number < len(found):
                    tell(f"{number} of {len(found)} passages fit into the model's context")
                return found[:number]
        raise UserError("the question is too long for the model's context", mend="shorten it, or --max-new-tokens")

    def _name(self, given: Sequence[Passage], answer: str) -> None:
        cited = cited_numbers(answer)
        for number, passage in enumerate(given, 1):
            tell(f"[{number}] {self._folder / passage.place}" + (", cited" if number in cited else ""))
        if wrong := [number for number in sorted(cited) if not 1 <= number <= len(given)]:
            tell(f"the answer cites what it was not given: {', '.join(map(str, wrong))}")
        elif not cited:
            nearest = Index(given).find(answer, 1)
            near = f"; it shares most words with [{given.index(nearest[0]) + 1}]" if nearest else ""
            tell(f"the answer cites none of them{near}")


def cited_numbers(answer: str) -> set[int]:
    """The numbers in square brackets, as `[1]`, `[1, 2]` or `[2-4]`."""
    found: set[int] = set()
    for inside in re.findall(r"\[(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\]", answer):
        for piece in re.split(r"[,;]", inside):
            ends = [int(number) for number in re.split(r"[–-]", piece)]
            found.update(range(ends[0], ends[-1] + 1))
    return found


def _request(passages: Sequence[Passage], question: str) -> str:
    numbered = "\n\n".join(f"[{number}] {passage.text.strip()}" for number, passage in enumerate(passages, 1))
    return f"{numbered}\n\n{INSTRUCTION}\n{question}"
