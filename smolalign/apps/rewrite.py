"""`smolalign app rewrite`: a text in another tone, with its grammar mended, or changed as one's own words say."""

from __future__ import annotations

from typing import Literal

from smolalign.apps.texts import given_text, parts
from smolalign.apps.wishes import Wishes
from smolalign.apps.writer import SHORTEST_PART, Task, Writer, show
from smolalign.chat.session import tell
from smolalign.errors import UserError

Tone = Literal["concise", "friendly", "professional"]

# The system turns of SmolTalk's rewritings (smol-rewrite).
SYSTEM = "You're an AI assistant for text re-writing. Rewrite the input text to make it {how}."
TONES: dict[Tone, str] = {
    "concise": "more concise while preserving its core meaning",
    "friendly": "more friendly and approachable while maintaining its main points",
    "professional": "more professional and formal while retaining its essential content",
}
SLACK = 64
GRAMMAR = "Correct the grammar and spelling of this text, and change nothing else:"


def rewrite(text: str | None, wishes: Wishes, tone: Tone | None = None, how: str | None = None) -> bool:
    """Write another version of a text to standard output; of one that is too long, part by part.

    Args:
        text: None reads standard input.
        tone: what to aim at.
        how: an instruction of one's own instead, such as "Change the tense to the future". Without either, grammar and
            spelling are mended.

    Returns:
        Whether all of it came to its end.

    Raises:
        UserError: there is no text, the options do not go together, or the model cannot be loaded.
    """
    task = _task(tone, how)
    text = given_text(text)
    writer = Writer(wishes)
    stretches = parts(text, _part_size(writer, task, wishes), writer.count)
    if len(stretches) > 1:
        tell(f"{writer.count(text)} tokens are more than the model rewrites at once: {len(stretches)} parts")
    whole = True
    for part in stretches:
        body, last = part.text.strip(), part is stretches[-1]
        # Between parts stays the white space that was there.
        space = "\n" if last else part.text[len(part.text.rstrip()) :]
        if not body:
            show(space)
            continue
        longest = wishes.max_new_tokens or _longest(writer.count(body))
        version = writer.write(task.ask(body), show, system=task.system, longest=longest)
        show(space)
        whole &= version.told()
    return whole


def _task(tone: Tone | None, how: str | None) -> Task:
    if how is not None:
        if tone:
            raise UserError("--tone and --how cannot go together", mend="leave one of them out")
        if not how.strip():
            raise UserError("--how is empty", mend='say what to do, such as --how "Make it a poem"')
        return Task(f"{how.strip().rstrip('.:')}:")
    if tone:
        return Task(f"Rewrite the text to make it {TONES[tone]}:", SYSTEM.format(how=TONES[tone]))
    return Task(GRAMMAR)


def _longest(tokens: int) -> int:
    """Tokens that the version of a text of so many may have: a short one may well need more than twice as many."""
    return 2 * tokens + SLACK


def _part_size(writer: Writer, task: Task, wishes: Wishes) -> int:
    """Tokens of a part, so that it and its version fit into the context."""
    if wishes.max_new_tokens:
        # A version is about as long as its text.
        return min(writer.part_size(task), max(SHORTEST_PART, wishes.max_new_tokens))
    return max((writer.room(task) - SLACK) // 3, SHORTEST_PART)
