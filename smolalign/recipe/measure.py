"""The blocks of an eval recipe: what is measured, and what is shown. The sentence under a field is its help."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from smolalign.recipe.block import PositiveInt, Strict
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


# The tasks whose replies a judge reads.
JUDGED = ("mt_bench", "pairwise")
_LONGEST_REPLIES = {"ifeval": 1280, "mt_bench": 1024, "pairwise": 1024, "needle": 32}


class EvalTask(Strict):
    """One measurement."""

    task: Literal[
        "exact",
        "style",
        "preference",
        "tool_calls",
        "loss",
        "ifeval",
        "benchmark",
        "needle",
        "perplexity",
        "mt_bench",
        "pairwise",
    ]
    """Exact answers, style of sampled replies, preference between answers, function calls, held-out loss, whether
    instructions are followed (IFEval), a published benchmark, a fact found in a long text, how well documents are
    predicted, a judge's grades (MT-Bench), or its comparison with another model's replies."""
    data: list[DataSource] = Field(default_factory=list)
    """Held-out rows; a benchmark has its own, and `needle` makes its texts up where none are given."""
    benchmark: BenchmarkName | None = None
    """For `benchmark`: which one."""
    files: str | None = None
    """For `benchmark`: the folder of its files, as its authors published them; without it, it is read from the Hub."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """For `benchmark`: examples in front of each item; by default 5 for mmlu, mmlu_pro, gsm8k and triviaqa, 3 for bbh,
    0 for others."""
    chat: bool = False
    """For `benchmark`: ask through the chat template, examples as turns."""
    max_new_tokens: PositiveInt = 128
    """Longest reply, in tokens: 128, 1280 for `ifeval`, 32 for `needle`, 1024 where a judge reads it; a benchmark has
    its own."""
    max_rows: PositiveInt | None = None
    """Measure on a random sample of so many rows."""
    reference: str | None = None
    """For `preference`: the model against which the reward is measured; for `pairwise`: the model with whose replies
    those of the others are compared. One of `models`."""
    judge: Judge | None = None
    """For `mt_bench` and `pairwise`: who judges."""
    judge_prompts: str | None = None
    """For these: a file of prompts in the layout of FastChat's `judge_prompts.jsonl`, in place of our own."""
    reference_answers: str | None = None
    """For `mt_bench`: a file of correct answers in the layout of FastChat's `reference_answer/gpt-4.jsonl`."""
    max_words: PositiveInt | None = None
    """For `style`: a reply of more words is too long."""
    unwanted: list[str] = Field(default_factory=list)
    """For `style`: phrases that no reply should hold."""
    possible_answer: str | None = None
    """For `tool_calls` on the Berkeley leaderboard's questions (`format: bfcl`): the file of answers that are allowed,
    or the folder that holds one named like each file of questions. Irrelevance sets have none."""

    lengths: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    """For `needle`: tokens of the prompts, template and question included; by default as many as the model reads before
    its reply, half as many, and so on down to 256."""
    depths: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] | None = None
    """For `needle`: shares of the text before the needle; by default 0, 0.25, 0.5, 0.75 and 1."""
    needles: PositiveInt = 4
    """For `needle`: texts of each length and depth, each with a needle of its own."""
    max_length: PositiveInt | None = None
    """For `perplexity`: tokens that are read at once; by default as many as the model reads."""
    stride: PositiveInt | None = None
    """For `perplexity`: tokens that a window predicts, behind the others in it; by default half of `max_length`."""

    @model_validator(mode="before")
    @classmethod
    def some_ask_for_other_replies(cls, given: Any) -> Any:
        longest = _LONGEST_REPLIES.get(str(given.get("task"))) if isinstance(given, dict) else None
        return {"max_new_tokens": longest, **given} if longest else given

    def is_bfcl(self) -> bool:
        """Whether the rows are read with their possible answers, in place of an assembly."""
        return any(source.format == "bfcl" for source in self.data)

    def reads_whole(self) -> bool:
        """Whether the data are a benchmark's own files, which no assembly reads."""
        return self.is_bfcl() or self.task in ("ifeval", *JUDGED)

    @model_validator(mode="after")
    def a_benchmark_has_its_own_rows(self) -> EvalTask:
        if self.task == "benchmark":
            if self.benchmark is None or self.data:
                raise ValueError("task: benchmark takes benchmark, the name of one, and files in place of data")
            return self
        given = {"benchmark": self.benchmark, "files": self.files, "num_fewshot": self.num_fewshot, "chat": self.chat}
        if name := next((name for name, value in given.items() if value not in (None, False)), None):
            raise ValueError(f"{name} is for task: benchmark, this one is {self.task}")
        if not self.data and self.task != "needle":
            raise ValueError("data is missing")
        return self

    @model_validator(mode="after")
    def fields_fit_the_task(self) -> EvalTask:
        given = {"possible_answer": self.possible_answer, "format: bfcl": self.is_bfcl()}
        if self.task != "tool_calls" and (name := next((name for name, value in given.items() if value), None)):
            raise ValueError(f"{name} is for task: tool_calls, this one is {self.task}")
        if self.possible_answer is not None and not self.is_bfcl():
            raise ValueError("possible_answer is for sources with format: bfcl")
        if not self.reads_whole():
            return self
        for source in self.data:
            read = {name: getattr(source, name) for name in ("source", "config", "split", "revision")}
            if source != DataSource(**read, format="bfcl" if self.is_bfcl() else "auto"):
                of = "with format: bfcl" if self.is_bfcl() else f"of task: {self.task}"
                what = f"sources {of} stand alone and are read whole: of other fields only config, split"
                raise ValueError(f"{what} and revision; max_rows of the task takes a sample")
        return self

    @model_validator(mode="after")
    def a_judge_has_something_to_judge(self) -> EvalTask:
        given = {"judge": self.judge, "judge_prompts": self.judge_prompts}
        if self.task not in JUDGED and (name := next((name for name, value in given.items() if value), None)):
            raise ValueError(f"{name} is for task: {' and '.join(JUDGED)}, this one is {self.task}")
        if self.task in JUDGED and self.judge is None:
            raise ValueError(f"judge is missing: task: {self.task} needs the url and the model of one")
        if self.reference_answers is not None and self.task != "mt_bench":
            raise ValueError(f"reference_answers is for task: mt_bench, this one is {self.task}")
        if self.task == "pairwise" and self.reference is None:
            raise ValueError("reference is missing: the model that the others are compared with")
        if self.task == "mt_bench" and self.reference is not None:
            raise ValueError("reference is for task: pairwise and preference, this one is mt_bench")
        return self

    @model_validator(mode="after")
    def fields_of_long_texts_fit_the_task(self) -> EvalTask:
        for task, names in {"needle": ("lengths", "depths", "needles"), "perplexity": ("max_length", "stride")}.items():
            # A resolved recipe has every field; those of other tasks stand there at their defaults.
            given = [name for name in names if getattr(self, name) != EvalTask.model_fields[name].default]
            if self.task != task and (name := next(iter(given), None)):
                raise ValueError(f"{name} is for task: {task}, this one is {self.task}")
        if self.stride is not None and self.max_length is not None and self.stride > self.max_length:
            raise ValueError(
                f"stride {self.stride} is more than max_length {self.max_length}: tokens would be left out"
            )
        return self


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
