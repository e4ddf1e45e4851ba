"""The source formats. To add one: a converter function, and a line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smolalign.data.formats import bfcl, conversations, functions, instruct, preference, rated
from smolalign.data.formats.fields import Converted, Record
from smolalign.rows import RowKind


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of records.

    Attributes:
        kind: what its records become.
        keys: how its records look, for people.
        recognise: whether a record has this layout; the first match in FORMATS' order counts.
        convert: the row, rows or Skip of a record; raises UserError, without a place, if the record is broken.
    """

    kind: RowKind
    keys: str
    recognise: Callable[[Record], bool]
    convert: Callable[[Record], Converted]


# Ordered from the particular to the general: UltraFeedback binarized also has `messages`, many sets also have `text`.
FORMATS: dict[str, Format] = {
    "ultrafeedback_raw": Format(
        "pair", "instruction, completions", rated.is_ultrafeedback_raw, rated.from_ultrafeedback_raw
    ),
    "ultrafeedback": Format(
        "pair", "prompt, chosen, rejected", preference.is_ultrafeedback, preference.from_ultrafeedback
    ),
    "hh_rlhf": Format("pair", "chosen, rejected (transcripts)", preference.is_hh_rlhf, preference.from_hh_rlhf),
    "apigen": Format("chat", "query, tools, answers", functions.is_apigen, functions.from_apigen),
    "seal_tools": Format("chat", "query, calling", functions.is_seal_tools, functions.from_seal_tools),
    "bfcl": Format("chat", "question [[turns]], function, ground_truth", bfcl.is_bfcl, bfcl.from_bfcl),
    "glaive": Format("chat", "system, chat (transcript)", functions.is_glaive, functions.from_glaive),
    "openai": Format("chat", "messages [role, content]", conversations.is_openai, conversations.from_openai),
    "sharegpt": Format("chat", "conversations [from, value]", conversations.is_sharegpt, conversations.from_sharegpt),
    "alpaca": Format("chat", "instruction, output", instruct.is_alpaca, instruct.from_alpaca),
    "prompt_completion": Format(
        "chat", "prompt, completion", instruct.is_prompt_completion, instruct.from_prompt_completion
    ),
    "text": Format("document", "text or content", instruct.is_text, instruct.from_text),
}
