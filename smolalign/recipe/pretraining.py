"""The blocks of a pretrain recipe: tokenizer, sizes of the model, sources, stages. The sentence under a field is its
help."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from smolalign.recipe.block import PositiveInt, Strict
from smolalign.recipe.data import DataSource, source_names

StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Tokenizer(Strict):
    """The byte-level BPE tokenizer that pretraining begins with: trained on the step's own texts, or another's."""

    vocab_size: Annotated[int, Field(ge=300)] = 49152
    """Number of tokens, special ones included."""
    sample_bytes: PositiveInt = 1_000_000_000
    """Most bytes of text that it is trained on, drawn evenly from all sources."""
    model: str | None = None
    """Take the tokenizer of this model (folder, `.gguf` file or Hub id) in place of training one."""

    @model_validator(mode="after")
    def trained_or_taken(self) -> Tokenizer:
        # A recipe that is written out names its defaults, too.
        if self.model is not None and self.vocab_size != type(self).model_fields["vocab_size"].default:
            raise ValueError(f"vocab_size is for a tokenizer that is trained; model takes that of {self.model}")
        return self


class Architecture(Strict):
    """Sizes of the Llama model that is trained from nothing."""

    hidden_size: PositiveInt = 576
    """Width of the residual stream."""
    intermediate_size: PositiveInt = 1536
    """Width inside the feed-forward layers."""
    num_hidden_layers: PositiveInt = 30
    """Number of layers."""
    num_attention_heads: PositiveInt = 9
    """Number of query heads."""
    num_key_value_heads: PositiveInt = 3
    """Number of key and value heads."""
    max_position_embeddings: PositiveInt = 2048
    """Longest sequence, in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary position embedding, until a stage raises it."""
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights."""
    induction_head: bool = False
    """Begin with an induction head in the first two layers, so that a tiny model copies from its context early."""

    @model_validator(mode="after")
    def heads_divide(self) -> Architecture:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.induction_head and self.num_hidden_layers < 2:
            raise ValueError(f"an induction_head takes two layers, num_hidden_layers is {self.num_hidden_layers}")
        return self


class PretrainSource(DataSource):
    """One source of documents. Two sources may read the same files, under two names, with other limits of length."""

    name: str | None = None
    """What stages call it; by default the source's own short name."""
    min_tokens: PositiveInt | None = None
    """Only its documents of at least so many tokens are trained on, such as for a long-context stage."""


class Stage(Strict):
    """A stretch of training with a mixture of its own."""

    name: StageName
    """What reports and its checkpoint's folder call it."""
    tokens: PositiveInt
    """How many tokens are trained on, exactly."""
    mixture: Annotated[dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)] | None = None
    """Weight of each source by name; sources that are not named give nothing. Without it, each weighs what it holds."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens of a row; by default the step's."""
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    """Base of the rotary position embedding from here on; by default as before."""
    decay: bool | None = None
    """Whether the learning rate falls to zero over this stage and those after it; by default the last stage's does."""


class Branch(Strict):
    """Stages that another run of the same recipe has trained already."""

    of: str
    """Folder of that run's pretrain step."""
    stage: PositiveInt
    """First stage that is trained here, counted from 1."""


class Problem(NamedTuple):
    """What is wrong with a recipe: the key path, what, and the mend."""

    path: tuple[str | int, ...]
    what: str
    mend: str = ""


def named_sources(sources: Sequence[PretrainSource]) -> list[PretrainSource]:
    """The sources, each under the name that stages and reports call it."""
    return [
        source if source.name else source.model_copy(update={"name": name})
        for source, name in zip(sources, source_names(sources), strict=True)
    ]


def source_problems(names: Sequence[str | None]) -> Iterator[Problem]:
    """Two sources of one name."""
    for index, name in enumerate(names):
        if name in names[:index]:
            what = f"another source is called {name!r}, too"
            yield Problem(("data", index), what, "give each a name of its own with name:")


def stage_problems(
    stages: Sequence[Stage], names: Sequence[str], length: int, step_rows: int | None
) -> Iterator[Problem]:
    """What cannot be in the stages of a recipe, whatever its sources hold.

    Args:
        stages: of the recipe.
        names: of its sources.
        length: tokens of a row where a stage has none of its own.
        step_rows: rows of that length in an optimizer step, as far as the recipe says so.
    """
    for index, stage in enumerate(stages):
        here: tuple[str | int, ...] = ("stages", index)
        earlier = stages[:index]
        if stage.name in [one.name for one in earlier]:
            yield Problem((*here, "name"), f"an earlier stage is called {stage.name!r}, too", "rename one")
        for source in stage.mixture or {}:
            if source not in names:
                close = difflib.get_close_matches(source, names, n=1)
                mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"
                yield Problem((*here, "mixture", source), f"no source is called {source!r}", mend)
        if not stage.decay and any(one.decay for one in earlier):
            what = "the learning rate has fallen to zero before it; decay goes on to the last stage"
            if stage.decay is False:
                yield Problem((*here, "decay"), what, "leave decay out of the earlier stage, or of this one")
        if step_rows is not None and stage.max_length and step_rows * length % stage.max_length:
            what = (
                f"{step_rows * length:,} tokens of an optimizer step are no whole number of rows of {stage.max_length}"
            )
            mend = f"choose a global_batch_size whose product with {length} is a multiple of {stage.max_length}"
            yield Problem((*here, "max_length"), what, mend)


def length_problems(stages: Sequence[Stage], length: int, longest: int) -> Iterator[Problem]:
    """Rows that are longer than the model's sequences."""
    mend = "raise it: more positions add no weights"
    more = f"is more than architecture.max_position_embeddings {longest}"
    if length > longest and not (stages and all(stage.max_length for stage in stages)):
        yield Problem(("max_length",), f"{length} {more}", mend)
    for index, stage in enumerate(stages):
        if stage.max_length and stage.max_length > longest:
            yield Problem(("stages", index, "max_length"), f"{stage.max_length} {more}", mend)


def branch_problems(branch: Branch | None, stages: Sequence[Stage]) -> Iterator[Problem]:
    """A branch that begins nowhere."""
    if branch is None:
        return
    if branch.stage > len(stages):
        there = f"there are {len(stages)}" if stages else "the recipe has no stages"
        yield Problem(("branch", "stage"), f"there is no stage {branch.stage}: {there}", "stages are counted from 1")
    elif branch.stage == 1:
        what = "nothing is trained before stage 1, so there is nothing to begin with"
        yield Problem(("branch", "stage"), what, "leave branch out, or name a later stage")
