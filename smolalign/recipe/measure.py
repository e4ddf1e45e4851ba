"""The blocks of an eval recipe: what is measured, and what is shown. The sentence under a field is its help."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from smolalign.recipe.block import Fraction, PositiveInt, Strict
from smolalign.recipe.data import DataSource
from smolalign.recipe.judge import Judge

BenchmarkName = Literal[
    "hellaswag",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "winogrande",
    "openbookqa",
    "commonsense_qa",
    "mmlu",
    "mmlu_cloze",
    "gsm8k",
    "mmlu_pro",
    "triviaqa",
    "bbh",
]


class EvalTask(Strict):
    """What every measurement has."""

    task: str
    """What is measured."""
    max_rows: PositiveInt | None = None
    """Measure on a random sample of so many rows."""

    def is_bfcl(self) -> bool:
        """Whether the rows are read with their possible answers, in place of an assembly."""
        return False

    def reads_whole(self) -> bool:
        """Whether the data are a benchmark's own files, which no assembly reads."""
        return self.is_bfcl()


class BenchmarkTask(EvalTask):
    """A published benchmark, which has rows and a longest reply of its own."""

    task: Literal["benchmark"] = "benchmark"
    benchmark: BenchmarkName
    """Which one."""
    files: str | None = None
    """The folder of its files, as its authors published them; without it, it is read from the Hub."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples in front of each item; by default 5 for mmlu, mmlu_pro, gsm8k and triviaqa, 3 for bbh, 0 for others."""
    chat: bool = False
    """Ask through the chat template, examples as turns."""


class OnData(EvalTask):
    """What every measurement on rows has."""

    data: Annotated[list[DataSource], Field(min_length=1)]
    """Held-out rows."""

    @model_validator(mode="after")
    def sources_fit_the_task(self) -> Self:
        if not self.is_bfcl() and any(source.format == "bfcl" for source in self.data):
            raise ValueError(f"format: bfcl is for task: tool_calls, this one is {self.task}")
        if not self.reads_whole():
            return self
        for source in self.data:
            read = {name: getattr(source, name) for name in ("source", "config", "split", "revision")}
            if source != DataSource(**read, format="bfcl" if self.is_bfcl() else "auto"):
                of = "with format: bfcl" if self.is_bfcl() else f"of task: {self.task}"
                what = f"sources {of} stand alone and are read whole: of other fields only config, split"
                raise ValueError(f"{what} and revision; max_rows of the task takes a sample")
        return self


class Exact(OnData):
    """Exact answers."""

    task: Literal["exact"] = "exact"
    max_new_tokens: PositiveInt = 128
    """Longest reply, in tokens."""


class Style(OnData):
    """Style of sampled replies."""

    task: Literal["style"] = "style"
    max_new_tokens: PositiveInt = 128
    """Longest reply, in tokens."""
    max_words: PositiveInt | None = None
    """A reply of more words is too long."""
    unwanted: list[str] = Field(default_factory=list)
    """Phrases that no reply should hold."""


class Preference(OnData):
    """Preference between answers."""

    task: Literal["preference"] = "preference"
    reference: str | None = None
    """The model against which the reward is measured: one of `models`."""


class ToolCalls(OnData):
    """Function calls."""

    task: Literal["tool_calls"] = "tool_calls"
    max_new_tokens: PositiveInt = 128
    """Longest reply, in tokens."""
    possible_answer: str | None = None
    """On the Berkeley leaderboard's questions (`format: bfcl`): the file of answers that are allowed, or the folder
    that holds one named like each file of questions. Irrelevance sets have none."""

    def is_bfcl(self) -> bool:
        return any(source.format == "bfcl" for source in self.data)

    @model_validator(mode="after")
    def answers_have_questions(self) -> Self:
        if self.possible_answer is not None and not self.is_bfcl():
            raise ValueError("possible_answer is for sources with format: bfcl")
        return self


class Loss(OnData):
    """Held-out loss."""

    task: Literal["loss"] = "loss"


class IfEval(OnData):
    """Whether instructions are followed (IFEval)."""

    task: Literal["ifeval"] = "ifeval"
    max_new_tokens: PositiveInt = 1280
    """Longest reply, in tokens."""

    def reads_whole(self) -> bool:
        return True


class Needle(OnData):
    """A fact found in a long text."""

    task: Literal["needle"] = "needle"
    data: list[DataSource] = Field(default_factory=list)
    """Documents that the texts are made of; without any they are made up."""
    max_new_tokens: PositiveInt = 32
    """Longest reply, in tokens."""
    lengths: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    """Tokens of the prompts, template and question included; by default as many as the model reads before its reply,
    half as many, and so on down to 256."""
    depths: Annotated[list[Fraction], Field(min_length=1)] | None = None
    """Shares of the text before the needle; by default 0, 0.25, 0.5, 0.75 and 1."""
    needles: PositiveInt = 4
    """Texts of each length and depth, each with a needle of its own."""


class Perplexity(OnData):
    """How well documents are predicted."""

    task: Literal["perplexity"] = "perplexity"
    max_length: PositiveInt | None = None
    """Tokens that are read at once; by default as many as the model reads."""
    stride: PositiveInt | None = None
    """Tokens that a window predicts, behind the others in it; by default half of `max_length`."""

    @model_validator(mode="after")
    def windows_leave_nothing_out(self) -> Self:
        if self.stride is not None and self.max_length is not None and self.stride > self.max_length:
            raise ValueError(
                f"stride {self.stride} is more than max_length {self.max_length}: tokens would be left out"
            )
        return self


class Judged(OnData):
    """What every measurement has whose replies a judge reads."""

    max_new_tokens: PositiveInt = 1024
    """Longest reply, in tokens."""
    judge: Judge
    """Who judges."""
    judge_prompts: str | None = None
    """A file of prompts in the layout of FastChat's `judge_prompts.jsonl`, in place of our own."""

    def reads_whole(self) -> bool:
        return True


class MtBench(Judged):
    """A judge's grades (MT-Bench)."""

    task: Literal["mt_bench"] = "mt_bench"
    reference_answers: str | None = None
    """A file of correct answers in the layout of FastChat's `reference_answer/gpt-4.jsonl`."""


class Pairwise(Judged):
    """A judge's comparison with another model's replies."""

    task: Literal["pairwise"] = "pairwise"
    reference: str
    """The model with whose replies those of the others are compared: one of `models`."""


# The measurements on rows that an assembly may read, or that are read whole.
AnyOnData = Exact | Style | Preference | ToolCalls | Loss | IfEval | Needle | Perplexity | MtBench | Pairwise
AnyTask = Annotated[AnyOnData | BenchmarkTask, Field(discriminator="task")]
# Their fields that name a file or a folder beside the recipe.
TASK_FILES = ("files", "possible_answer", "judge_prompts", "reference_answers")
# The name of each, as `task:` has it.
TASK_NAMES: tuple[str, ...] = tuple(one.model_fields["task"].default for one in (*get_args(AnyOnData), BenchmarkTask))


def is_replies(model: str) -> bool:
    """Whether what stands for a model is a file of replies."""
    return model.endswith(".jsonl")


class ShowcasePrompt(Strict):
    """A prompt whose answer is shown when the chain ends."""

    prompt: str
    """The user's turn."""
    system: str | None = None
    """A system turn before it."""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """JSON schemas of the tools on offer."""
