"""The recipe of every step, one model a kind. The sentence under a field is its help."""

from __future__ import annotations

import os
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from smolalign.recipe.batch import batch_problem
from smolalign.recipe.block import Fraction, PositiveInt, Strict
from smolalign.recipe.data import AnnotatedSource, DataSource, Decontaminate, Deduplicate, Filters
from smolalign.recipe.held_out import is_held_out_source, is_held_out_split
from smolalign.recipe.measure import AnyTask, Pairwise, Preference, ShowcasePrompt, is_replies
from smolalign.recipe.pretraining import (
    Architecture,
    Branch,
    PretrainSource,
    Problem,
    Stage,
    Tokenizer,
    branch_problems,
    length_problems,
    named_sources,
    source_problems,
    stage_problems,
)

# A step's name is a folder's name, and stands before a dot in overrides.
StepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Lora(Strict):
    """Low-rank adapters in place of full fine-tuning (Hu et al. 2021); merged into the model at the step's end."""

    r: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveInt = 32
    """Scale: the adapter's output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get an adapter."""


class Compute(Strict):
    """How a training step's arithmetic is done. What TRL has a field for is set in `trainer`: bf16, fp16, tf32,
    gradient_checkpointing, torch_compile, use_liger_kernel, optim."""

    attention: Literal["auto", "per_document", "varlen", "flex"] = "auto"
    """Each document of a packed row by itself: one after the other, by FlashAttention, or by flex_attention."""
    fp32_products: Literal["auto", "blas", "onednn"] = "auto"
    """Library for fp32 matrix products on CPUs; `auto` measures which is faster."""
    micro_batch_tokens: PositiveInt | Literal["auto", "all"] = "auto"
    """Tokens of an SFT batch computed at once, whole documents always: less memory, the same gradient."""
    threads: PositiveInt | Literal["auto"] = "auto"
    """Threads; `auto` is the physical cores that the process may use."""
    allocator: Literal["auto", "system"] = "auto"
    """`auto` keeps memory between steps; `system` leaves it to the system's defaults."""


class Step(Strict):
    """What every step has."""

    run: str | None = None
    """Name of the folder under `runs/`; by default that of the folder the recipe lies in."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of everything random."""


Source = TypeVar("Source", DataSource, AnnotatedSource)


def _never_held_out(source: Source, info: ValidationInfo) -> Source:
    """Raises PydanticCustomError where a source's names say that it holds rows to measure on.

    The context's `folder`, if there is one, is where relative paths start: what is a folder there is no Hub id.
    """
    is_folder = info.context is not None and os.path.isdir(info.context["folder"] / source.source)
    if source.split and is_held_out_split(source.split):
        named = f"split {source.split!r}"
    elif is_held_out_source(f"./{source.source}" if is_folder else source.source):
        named = f"source {source.source!r}"
    else:
        return source
    mend = "name the split or file of rows to train on; these are for eval_data and eval"
    raise PydanticCustomError(
        "held_out", "{named} holds rows to measure on, never to train on", {"named": named, "mend": mend}
    )


TrainedSource = Annotated[DataSource, AfterValidator(_never_held_out)]
"""A source whose rows something is trained on."""


class AssemblyStep(Step):
    """What every step has that assembles rows."""

    data: Annotated[list[TrainedSource], Field(min_length=1)]
    """The sources of rows."""
    filters: Filters = Filters()
    """Filters of every source."""
    deduplicate: Deduplicate | None = None
    """Remove duplicates, within and across sources."""
    decontaminate: Decontaminate | None = None
    """Remove rows that overlap with evaluation sets."""
    count_tokens_with: str | None = None
    """Model whose tokenizer counts tokens; without it they are estimated."""
    test_fraction: Fraction = 0.0
    """Share of `data` held out as split `test`, chosen by a hash of each row's first user turn."""
    max_rejected: Fraction = 0.01
    """Largest share of broken rows before the step fails; they are set aside in `rejected.jsonl`."""


class TrainStep(AssemblyStep):
    """What every training step has."""

    eval_data: list[DataSource] = Field(default_factory=list)
    """Rows to measure on, never trained on."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Longest row in tokens; what is longer is cut at its end, and counted."""
    max_cut: Fraction = 0.1
    """Largest share of rows that may be cut or dropped for their length before the step fails."""
    compute: Compute = Compute()
    """How the arithmetic is done."""
    global_batch_size: PositiveInt | None = None
    """Rows of one optimizer step over all devices, packed ones with packing. `gradient_accumulation_steps` then follows
    from it, `trainer.per_device_train_batch_size` and the number of processes."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Fields of TRL's own configuration, by their own names."""

    @field_validator("trainer")
    @classmethod
    def batch_is_said_once(cls, trainer: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if problem := batch_problem(info.data.get("global_batch_size"), trainer):
            name, what, mend = problem
            error = PydanticCustomError("batch", "{what}", {"what": what, "mend": mend})
            detail = InitErrorDetails(type=error, loc=(name,), input=trainer[name])
            raise ValidationError.from_exception_data(cls.__name__, [detail])
        return trainer


class PretrainStep(TrainStep):
    """Train a tokenizer and a base model from nothing."""

    kind: Literal["pretrain"]
    data: Annotated[list[Annotated[PretrainSource, AfterValidator(_never_held_out)]], Field(min_length=1)]  # type: ignore[assignment]
    """The sources of documents."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer to train, or to take."""
    tokenizer_data: list[TrainedSource] = Field(default_factory=list)
    """Further rows, chats included, for the tokenizer alone."""
    architecture: Architecture = Architecture()
    """The model to train."""
    stages: list[Stage] = Field(default_factory=list)
    """The curriculum. Without it there is one stage: all sources as they are, `trainer.num_train_epochs` times."""
    branch: Branch | None = None
    """Begin at a later stage, from what another run had trained by then."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log of the softmax's denominator in the loss (Chowdhery et al. 2022 took 1e-4)."""
    skip_spikes: Annotated[float, Field(gt=1)] | None = 6.0
    """Leave out an optimizer step whose loss or gradient norm lies so many standard deviations above those of the steps
    before it; `null` leaves none out."""
    template: Literal["smollm2", "chatml", "hermes"] = "chatml"
    """Chat template saved with the base model."""

    @field_validator("data")
    @classmethod
    def sources_are_named(cls, data: list[PretrainSource]) -> list[PretrainSource]:
        return named_sources(data)

    @model_validator(mode="after")
    def stages_can_be_trained(self) -> PretrainStep:
        names = [str(source.name) for source in self.data]
        problems = [
            *source_problems(names),
            *stage_problems(self.stages, names, self.max_length, self.global_batch_size),
            *length_problems(self.stages, self.max_length, self.architecture.max_position_embeddings),
            *branch_problems(self.branch, self.stages),
        ]
        for field in ("max_steps", "num_train_epochs") if self.stages else ():
            if field in self.trainer:
                mend = "leave it out, or shorten stages, such as stages.0.tokens=100000"
                problems.append(Problem(("trainer", field), "the stages say how much is trained", mend))
        if problems:
            errors = [PydanticCustomError("stages", "{what}", {"what": one.what, "mend": one.mend}) for one in problems]
            # The texts name the values themselves.
            details = [
                InitErrorDetails(type=error, loc=problem.path, input={})
                for error, problem in zip(errors, problems, strict=True)
            ]
            raise ValidationError.from_exception_data(type(self).__name__, details)
        return self


class TuneStep(TrainStep):
    """What the steps that fine-tune a model have."""

    model: str
    """`@step`, a checkpoint folder, a folder of peft adapters (merged into their base before training), a `.gguf` file,
    or a model on the Hub (`owner/name`, `owner/name@revision`)."""
    template: Literal["smollm2", "chatml", "hermes", "model"] = "smollm2"
    """Chat template to train with and to save; `model` keeps the model's own."""
    lora: Lora | None = None
    """Train adapters instead of all weights."""
    quantize: Literal["int8", "nf4"] | None = None
    """Load the frozen weights in 8 or 4 bits (needs `lora`)."""

    @model_validator(mode="after")
    def quantized_weights_need_adapters(self) -> TuneStep:
        if self.quantize and self.lora is None:
            raise ValueError(f"quantize: {self.quantize} trains nothing without a lora block")
        return self


class SftStep(TuneStep):
    """Supervised fine-tuning on chats."""

    kind: Literal["sft"]


class FcStep(TuneStep):
    """Function-calling fine-tuning: chats with tools, and a share without them so that chatting is kept."""

    kind: Literal["fc"]


class DpoStep(TuneStep):
    """Direct Preference Optimization on pairs of answers (Rafailov et al. 2023)."""

    kind: Literal["dpo"]
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest prompt with an answer, in tokens; a longer answer is cut at its end, and counted."""


class SmoltalkStep(AssemblyStep):
    """Assemble a mixture of rows from several sources."""

    kind: Literal["smoltalk"]


class QualityStep(Step):
    """Train a scorer of educational value on annotated texts, for `filters.quality`."""

    kind: Literal["quality"]
    data: Annotated[list[Annotated[AnnotatedSource, AfterValidator(_never_held_out)]], Field(min_length=1)]
    """The sources of annotated texts."""
    eval_data: list[AnnotatedSource] = Field(default_factory=list)
    """Annotated texts to measure on, never trained on."""
    test_fraction: Fraction = 0.0
    """Share of `data` held out to measure on, chosen by a hash of each text."""
    threshold: Annotated[int, Field(ge=1, le=5)] = 3
    """Score from which on a text counts as worth keeping in the figures."""
    max_characters: PositiveInt = 4000
    """How much of a text's beginning is read."""
    max_rejected: Fraction = 0.01
    """Largest share of records without a text or a score before the step fails."""


class EvalStep(Step):
    """Measure models side by side, stage by stage."""

    kind: Literal["eval"]
    models: Annotated[dict[str, str], Field(min_length=1)]
    """Name of each row of the table, and its model: `@step`, folder, `.gguf` file or Hub id; for `ifeval` also a
    `.jsonl` file of replies that another model gave."""
    tasks: Annotated[dict[str, AnyTask], Field(min_length=1)]
    """Name of each measurement."""
    template: Literal["smollm2", "chatml", "hermes", "model"] = "model"
    """Chat template to prompt with; `model` uses each model's own."""
    batch_size: PositiveInt = 64
    """Rows generated or scored at once."""
    showcase: list[ShowcasePrompt] = Field(default_factory=list)
    """Prompts that the last model answers for the reader to see."""

    @model_validator(mode="after")
    def references_are_models(self) -> EvalStep:
        for name, task in self.tasks.items():
            reference = _reference(task)
            if reference is not None and reference not in self.models:
                raise ValueError(
                    f"tasks.{name}.reference {reference!r} is none of the models: {', '.join(self.models)}"
                )
            if isinstance(task, Pairwise) and len(self.models) == 1:
                raise ValueError(f"tasks.{name} compares other models with {reference!r}, and there is none")
        try:
            self.references_first()
        except CycleError:
            raise ValueError("of two references each is to be measured before the other; make two recipes") from None
        return self

    def reference_of(self, model: str, task: AnyTask) -> str | None:
        """The model whose samples a task needs beside this one's: its reference, but for the reference itself, and
        where rewards are gained stage by stage, for the stages before it."""
        reference = _reference(task)
        if reference is None or reference == model:
            return None
        stages = list(self.models)
        after = stages.index(model) > stages.index(reference)
        return reference if after or isinstance(task, Pairwise) else None

    def references_first(self) -> list[str]:
        """The models in their order, but each after those that are its references. Raises CycleError."""
        order: TopologicalSorter[str] = TopologicalSorter()
        for name in self.models:
            references = (self.reference_of(name, task) for task in self.tasks.values())
            order.add(name, *(reference for reference in references if reference is not None))
        return list(order.static_order())

    @model_validator(mode="after")
    def replies_are_judged_by_ifeval(self) -> EvalStep:
        files = [name for name, model in self.models.items() if is_replies(model)]
        other = next((name for name, task in self.tasks.items() if task.task != "ifeval"), None)
        if files and other is not None:
            raise ValueError(f"models.{files[0]} is a file of replies, for task: ifeval; tasks.{other} needs a model")
        if list(self.models)[-1] in files and self.showcase:
            raise ValueError(f"the last model answers the showcase; models.{files[-1]} is a file of replies")
        return self


def _reference(task: AnyTask) -> str | None:
    return task.reference if isinstance(task, Preference | Pairwise) else None


class PipelineStep(Step):
    """A chain of steps."""

    kind: Literal["pipeline"]
    steps: Annotated[dict[StepName, str | dict[str, Any]], Field(min_length=1)]
    """Name of each step, in order, and its recipe: a file beside this one, or the recipe itself."""


KINDS: dict[str, type[Step]] = {
    "pretrain": PretrainStep,
    "quality": QualityStep,
    "smoltalk": SmoltalkStep,
    "sft": SftStep,
    "dpo": DpoStep,
    "fc": FcStep,
    "eval": EvalStep,
    "pipeline": PipelineStep,
}
