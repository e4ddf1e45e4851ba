"""IFEval's files: prompts with their instructions, and replies that other models gave to them.

Layouts of google-research/instruction_following_eval: `input_data.jsonl` of `key`, `prompt`, `instruction_id_list` and
`kwargs`, which the Hub's google/IFEval has too, there with every argument in each of the kwargs and None where it is
none of the instruction's; and `input_response_data_*.jsonl` of `prompt` and `response`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.data.whole import read_whole
from smolalign.errors import UserError, require_no_wrong_rows
from smolalign.eval.ifeval.language import load_detector
from smolalign.eval.ifeval.sentences import load_learned
from smolalign.eval.ifeval.verdict import known_arguments
from smolalign.recipe.data import DataSource


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its instructions.

    Attributes:
        key: the original's number of the prompt.
        text: what the model is asked.
        instruction_ids: such as `punctuation:no_comma`.
        kwargs: arguments of each instruction.
        origin: where it was read.
    """

    key: Any
    text: str
    instruction_ids: tuple[str, ...]
    kwargs: tuple[dict[str, Any], ...]
    origin: str


def read_prompts(sources: Sequence[DataSource]) -> list[Prompt]:
    """The prompts of all sources.

    Raises:
        UserError: a row is broken, or what the verdicts need is not installed.
    """
    load_learned()
    load_detector()
    prompts, errors = read_whole(sources, _prompt)
    require_no_wrong_rows(errors)
    return prompts


def read_replies(file: str, prompts: Sequence[Prompt]) -> dict[str, str]:
    """The reply to each prompt; of several to the same prompt the last, as in the original.

    Raises:
        UserError: a row is broken, or a prompt has no reply.
    """
    replies: dict[str, str] = {}
    for origin, record in all_records(file):
        if isinstance(record, UserError):
            raise record
        prompt, response = record.get("prompt"), record.get("response")
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise UserError("a reply must have prompt and response, both texts", where=origin)
        replies[prompt] = response
    lacking = [prompt for prompt in prompts if prompt.text not in replies]
    if lacking:
        more = f", and none to {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"no reply to the prompt of {lacking[0].origin}{more}", where=file)
    return replies


def _prompt(record: Mapping[str, Any], origin: str) -> Prompt:
    text, names, kwargs = record.get("prompt"), record.get("instruction_id_list"), record.get("kwargs")
    if not isinstance(text, str) or not text:
        raise UserError(f"prompt must be a text, not {shorten(text)}")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"instruction_id_list must be a list of names, not {shorten(names)}")
    if not isinstance(kwargs, list) or not all(isinstance(given, Mapping) for given in kwargs):
        raise UserError(f"kwargs must be a list of objects, not {shorten(kwargs)}")
    arguments = tuple(given for _, given in known_arguments(names, kwargs))
    return Prompt(record.get("key"), text, tuple(names), arguments, origin)
