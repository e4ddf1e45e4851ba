"""The blocks of a recipe that say which rows there are and what becomes of them. The sentence under a field is its
help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smolalign.recipe.block import Fraction, PositiveInt, Strict


class Range(Strict):
    """From `min` to `max`, both included; either may be left out."""

    min: float | None = None
    """Smallest value that is kept."""
    max: float | None = None
    """Largest value that is kept."""

    @model_validator(mode="after")
    def says_something(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class Quality(Strict):
    """Educational value from 0 to 5, as a scorer gives it to the text of a row: all of its turns, of a pair with the
    chosen answer."""

    scorer: str
    """`@step` of kind quality, the `scorer/` folder of one, or a classifier with one output, such as
    `HuggingFaceFW/fineweb-edu-classifier`: a Hub id (`owner/name@revision`) or a folder."""
    min: Annotated[int, Field(ge=1, le=5)] = 3
    """Smallest score that is kept, of scores rounded to whole numbers."""


class Filters(Strict):
    """What a row must be to stay. Every row that is dropped is counted under the filter's name."""

    structure: bool = False
    """Drop chats with an empty turn, turns out of order or no answer at the end, which else are broken rows."""
    turns: Range | None = None
    """Number of turns of user and assistant."""
    words: Range | None = None
    """Words in all turns."""
    tokens: Range | None = None
    """Tokens in all turns; needs `count_tokens_with`."""
    language: list[str] = Field(default_factory=list)
    """ISO 639-1 codes of the languages to keep, such as `[en]`."""
    repeated_turns: bool = False
    """Drop chats in which a user or the assistant says the same thing twice."""
    max_repetition: Fraction | None = None
    """Largest share of an answer's runs of ten words that have stood in it before (after Rae et al. 2021)."""
    refusals: bool = False
    """Drop chats in which the assistant refuses, or speaks of itself as a language model that cannot."""
    tool_calls: bool = False
    """Drop chats whose calls name no listed tool, miss a required argument or break the tool's JSON schema."""
    short_and_simple: bool = False
    """Keep what models below 1B learn from, as smol-smoltalk does: short, no tools, no advanced mathematics."""
    columns: dict[str, Range | list[str | int | bool]] = Field(default_factory=dict)
    """Columns of the record, dotted where nested, and what they must hold: a range, or a list of the values to keep."""
    regex: list[str] = Field(default_factory=list)
    """Drop rows in which one of these is found, in any turn."""
    quality: Quality | None = None
    """Keep what a scorer finds of educational value, as FineWeb-Edu, FineMath and Stack-Edu do."""


class PairChoice(Strict):
    """Which answers of a record with several rated ones become a pair."""

    rejected: Literal["worst", "random"] = "worst"
    """Against the best answer: the worst one, or any other."""
    score: Literal["auto", "overall", "fine_grained"] = "auto"
    """Overall score or mean of the fine-grained ratings; `auto` is the first of them that rates most answers."""
    min_margin: Annotated[float, Field(ge=0)] = 0.0
    """Smallest difference between both scores; ties are always dropped."""
    length_balanced: bool = False
    """Drop pairs at random until the chosen answer is the longer one as often as the shorter one."""


class Distractors(Strict):
    """How many tools are added to a row, between `min` and `max`, both included."""

    min: Annotated[int, Field(ge=0)] = 0
    """Fewest tools."""
    max: PositiveInt
    """Most tools."""

    @model_validator(mode="after")
    def in_order(self) -> Distractors:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Negatives(Strict):
    """Hard negatives made of a source's rows with calls, in their place, chosen by a hash of their content."""

    remove_tool: Fraction = 0.0
    """Share of rows with calls that lose the tools they call: the answer is an empty list of calls."""
    missing_argument: Fraction = 0.0
    """Share of rows in which a required argument can be cut out of the question: the answer asks for it. Only where
    what is left of the question is on the same side of `test_fraction`."""
    distractors: Distractors | None = None
    """Tools added to rows with calls, from the source's other rows and its `tools`."""
    shuffle_tools: bool = False
    """Put the tools of every row into another order."""

    @model_validator(mode="after")
    def shares_fit(self) -> Negatives:
        if self.remove_tool + self.missing_argument > 1:
            raise ValueError("remove_tool and missing_argument are more than all rows")
        return self


class DataSource(Strict):
    """One source of rows."""

    source: str
    """`@step`, a file (.jsonl, .json, .parquet, .txt), a folder of them, or a dataset on the Hub (`owner/name`)."""
    format: str = "auto"
    """The layout of its records; `auto` recognises it."""
    config: str | None = None
    """Configuration of a Hub dataset."""
    split: str | None = None
    """Split of a Hub dataset (default `train`) or of a step's rows (`train` or `test`)."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """How often its rows are seen: 0.25 is a random quarter of them, 2 is every row twice."""
    max_rows: PositiveInt | None = None
    """At most this many of its rows, taken at random."""
    repeat: PositiveInt = 1
    """How many times each row that was drawn is seen."""
    priority: int = 0
    """Of duplicates, the row of the highest priority stays; of equal ones that of the source listed first."""
    filters: Filters | None = None
    """Filters of this source, in place of the step's."""
    pairs: PairChoice = PairChoice()
    """Which answers of records with several rated ones, such as raw UltraFeedback's, are compared."""
    tools: str | None = None
    """File of tool schemas, such as Seal-Tools's `tool.jsonl`; rows that offer no tools get those that they call."""
    negatives: Negatives | None = None
    """Hard negatives of function calling to make of its rows."""


class AnnotatedSource(Strict):
    """One source of texts whose educational value somebody, or some model, has judged."""

    source: str
    """A file (.jsonl, .json, .parquet), a folder of them, or a dataset on the Hub (`owner/name`)."""
    config: str | None = None
    """Configuration of a Hub dataset."""
    split: str | None = None
    """Split of a folder or a Hub dataset, by default `train`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    max_rows: PositiveInt | None = None
    """At most this many of its rows, taken at random."""
    text: str | None = None
    """Column of the text; by default the first of the usual names."""
    score: str | None = None
    """Column of the score, from 0 to 5; by default the first of the usual names."""
    kind: str | None = None
    """Column that says what a text is, for figures of each kind; by default the first of the usual names."""


class Deduplicate(Strict):
    """Removal of rows that stand there already."""

    near: Annotated[float, Field(gt=0, lt=1)] | None = 0.8
    """Jaccard similarity of word n-grams from which two rows are duplicates; `null`: only equal rows are."""
    text: Literal["conversation", "user"] = "conversation"
    """What is compared: all turns, or the user's alone."""
    ngram: PositiveInt = 5
    """Words in an n-gram."""
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """Length of the MinHash signatures."""


class Benchmark(Strict):
    """Questions that no row may hold."""

    source: str
    """A file, a folder of files, or a dataset on the Hub."""
    name: str | None = None
    """What reports call it; by default the source's own name."""
    config: str | None = None
    """Configuration of a Hub dataset."""
    split: str | None = None
    """Split of a folder or a Hub dataset, by default `test`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    columns: list[str] = Field(default_factory=list)
    """Columns that hold the text; by default the first of the usual names for a question or a prompt."""


class Decontaminate(Strict):
    """Removal of rows that overlap with evaluation sets."""

    against: Annotated[list[Benchmark], Field(min_length=1)]
    """The evaluation sets."""
    ngram: Annotated[int, Field(ge=5)] = 13
    """Words in a run that must not occur in both (Brown et al. 2020 took 13)."""


def source_names(sources: Sequence[DataSource | AnnotatedSource]) -> list[str]:
    """A short name for each source, the same wherever the files lie, so that sampling by name is reproducible."""
    parts = [PurePath(s.source).parts for s in sources]
    names = []
    for own, source in zip(parts, sources, strict=True):
        length = 2 if own[-1:] == ("data",) else 1  # a step's rows are named by the step
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        suffix = "".join(f":{part}" for part in (source.config, source.split) if part)
        names.append("/".join(own[-length:]) + suffix)
    return names
