"""`smolalign app summarize`: a text in short; one beyond the model's context part by part, then the parts together."""

from __future__ import annotations

from pathlib import Path

from smolalign.apps.texts import file_text, parts
from smolalign.apps.wishes import Wishes
from smolalign.apps.writer import Task, Writer, show, silent
from smolalign.chat.session import tell
from smolalign.errors import UserError

# The system turn of SmolTalk's summaries (smol-summarize), where a wish for a length takes the place of its own.
SYSTEM = (
    "Provide a concise, objective summary of the input text in {length}, focusing on key actions and intentions "
    "without using second or third person pronouns."
)


def summarize(file: Path, wishes: Wishes, words: int | None = None) -> bool:
    """Write a summary to standard output.

    Args:
        file: what to summarize; `-` is standard input.
        words: longest summary that is asked for, in words.

    Returns:
        Whether the summary came to its end.

    Raises:
        UserError: there is no text, the model cannot be loaded, or the summaries of parts do not get shorter.
    """
    text, task = file_text(file), _task(words)
    writer = Writer(wishes)
    while writer.count(text) > writer.part_size(task):
        text = _shorter(text, task, writer)
    summary = writer.write(task.ask(text.strip()), show, system=task.system)
    show("\n")
    return summary.told()


def _task(words: int | None) -> Task:
    if words is None:
        return Task("Summarize the text:", SYSTEM.format(length="up to three sentences"))
    return Task(f"Summarize the text in at most {words} words:", SYSTEM.format(length=f"at most {words} words"))


def _shorter(text: str, task: Task, writer: Writer) -> str:
    """The summaries of a text's parts, a paragraph each. Raises UserError where they are no shorter than the text."""
    stretches = [part for part in parts(text, writer.part_size(task), writer.count) if part.text.strip()]
    tell(f"{writer.count(text)} tokens are more than the model reads at once: {len(stretches)} parts")
    summaries = []
    for number, part in enumerate(stretches, 1):
        tell(f"part {number} of {len(stretches)}, lines {part.first} to {part.last}")
        summary = writer.write(task.ask(part.text.strip()), silent, system=task.system)
        summary.told()
        summaries.append(summary.text.strip())
    joined = "\n\n".join(summaries)
    if not joined.strip() or writer.count(joined) >= writer.count(text):
        raise UserError(
            "the summaries of the parts are no shorter than the text" if joined.strip() else "the summaries are empty",
            mend="give a smaller --max-new-tokens, or a model that summarizes",
        )
    return joined
