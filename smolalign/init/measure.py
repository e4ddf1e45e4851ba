"""Lengths in tokens of what a survey kept, and what is known of the model, whether or not it is at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.chat.template import SMOLLM2_SYSTEM
from smolalign.data.assembly.text import text_of
from smolalign.data.assembly.tokens import estimated_tokens
from smolalign.data.strict_json import dump
from smolalign.data.survey import Survey
from smolalign.errors import UserError
from smolalign.inputs import resolve_model
from smolalign.recipe.load import recipe_from_options
from smolalign.rows import Document, Pair, Row

# What the template writes around each turn, and a system turn that it adds, in tokens of SmolLM2.
_TURN_TOKENS, _SYSTEM_TOKENS = 5, 20
# Rows are measured whole; no row has so many tokens.
_NO_LIMIT = 10**9
_SIZE_IN_NAME = re.compile(r"(\d+(?:\.\d+)?)([MB])(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model.

    Attributes:
        reference: as it was named.
        template: the chat template that suits it.
        parameters: how many, None where neither its config nor its name tells.
        context: the longest row that it takes, None where that is not known.
        tokenizer, config: None where the model is not at hand; `missing` says why.
    """

    reference: str
    template: str
    parameters: int | None
    context: int | None
    tokenizer: Any = None
    config: Any = None
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of rows: of a sample, sorted, and of the longest; `sizes` of both for the estimate of memory.

    `counted` is false where they were estimated from bytes, `whole` true where the sample is all rows.
    """

    sample: list[int]
    longest: int
    origin: str
    counted: bool
    whole: bool
    sizes: list[Any]

    def quantile(self, share: float) -> int:
        """The length that this share of the rows does not exceed."""
        return self.sample[min(len(self.sample) - 1, int(share * len(self.sample)))]

    def over(self, limit: int) -> float:
        """The share of rows that are longer."""
        return sum(length > limit for length in self.sample) / len(self.sample)

    @property
    def mean(self) -> float:
        return sum(self.sample) / len(self.sample)


def look_at_model(reference: str, source: str) -> Model:
    """What is known of a model, without its weights.

    Raises:
        UserError: it is named by a path at which there is none.
    """
    import torch

    from smolalign.model import load_config, load_tokenizer
    from smolalign.train.dry_step import model_on_meta

    place = resolve_model(reference, recipe_from_options("sft", reference, [source]), Path("runs"))[0]
    try:
        config, own = load_config(place), load_tokenizer(place)
    except UserError as error:
        if Path(place).exists():
            raise
        size = _SIZE_IN_NAME.search(reference)
        parameters = round(float(size[1]) * (1e6 if size[2] in "mM" else 1e9)) if size else None
        template = "smollm2" if "smollm" in reference.lower() else "chatml"
        return Model(reference, template, parameters, None, missing=error.what)
    template = _template(own, reference)
    parameters = model_on_meta(config, torch.float32, None, False).num_parameters()
    context = getattr(config, "max_position_embeddings", None)
    return Model(reference, template, parameters, context, load_tokenizer(place, template), config)


def _template(tokenizer: Any, reference: str) -> str:
    """The model's own template where it marks what the assistant says, else the one that the model was trained with."""
    own = tokenizer.chat_template or ""
    if "{% generation" in own.replace("{%-", "{%"):
        return "model"
    return "smollm2" if SMOLLM2_SYSTEM in own or (not own and "smollm" in reference.lower()) else "chatml"


def measure(found: Survey, model: Model) -> Lengths:
    """Lengths of the rows that a survey kept: counted with the model's tokenizer and template, else estimated."""
    if model.tokenizer is None:
        sample, ends = [list(map(_estimated, rows)) for rows in (found.sample, found.longest)]
        sizes: list[Any] = []
    else:
        measured, last = (_sizes(model.tokenizer, rows) for rows in (found.sample, found.longest))
        sample, ends = [[_length(size) for size in one] for one in (measured, last)]
        sizes = [*measured, *last] if found.rows > len(found.sample) else measured
    lengths = [*zip(ends, found.longest, strict=True), *zip(sample, found.sample, strict=True)]
    longest, row = max(lengths, key=lambda item: item[0])
    whole = found.rows == len(found.sample)
    return Lengths(sorted(sample), longest, row.origin, model.tokenizer is not None, whole, sizes)


def _sizes(tokenizer: Any, rows: Sequence[Any]) -> list[Any]:
    from smolalign.train.dataset import tokenize_chats, tokenize_pairs
    from smolalign.train.memory import sizes_of_rows

    tokenize = tokenize_pairs if isinstance(rows[0], Pair) else tokenize_chats
    return sizes_of_rows(tokenize(tokenizer, rows, _NO_LIMIT)[0])


def _length(size: Any) -> int:
    """Tokens of a chat, or of a pair's prompt with the longer of both answers."""
    first, *answers = size.rows[0]
    return first + max(answers, default=0)


def _estimated(row: Row) -> int:
    if isinstance(row, Document):
        return estimated_tokens(row.text)
    turns = row.prompt if isinstance(row, Pair) else row.messages
    text = text_of(row) + (dump(list(row.tools)) if row.tools else "")
    longer = max(0, len(row.rejected.content) - len(row.chosen.content)) if isinstance(row, Pair) else 0
    return estimated_tokens(text + " " * longer) + _TURN_TOKENS * (len(turns) + 1) + _SYSTEM_TOKENS
