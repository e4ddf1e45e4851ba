"""The blocks of a pretrain recipe: tokenizer, sizes of the model, sources, stages. The sentence under a field is its
help."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from smolalign.recipe.block import PositiveInt, Strict
from smolalign.recipe.data import DataSource

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
        if self.model is not None and "vocab_size" in self.model_fields_set:
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
    mixture: dict[str, Annotated[float, Field(gt=0)]] | None = None
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
