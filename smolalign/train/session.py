"""What all training steps share: the trainer's configuration, resume, logging, and the saved result."""

from __future__ import annotations

import json
import math
import shutil
import time
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from smolalign import processes
from smolalign.errors import UserError
from smolalign.memory import memory_held
from smolalign.model import device
from smolalign.recipe.batch import divide
from smolalign.recipe.schema import TrainStep
from smolalign.report import Progress, Reporter
from smolalign.store import read_json, write_json, write_text
from smolalign.train.group import allow_sharding_on_cpu, shared
from smolalign.train.out_of_memory import ending_well

Arguments = TypeVar("Arguments", bound=TrainingArguments)

# What was measured on held-out rows before training, until the step is done.
BEFORE = "before.json"

# Fields of the trainers' own that a recipe may not set, and what stands in their place.
RESERVED = {
    "output_dir": "use --out",
    "seed": "use the recipe's seed",
    "data_seed": "use the recipe's seed",
    "max_length": "use the recipe's max_length",
    "report_to": "metrics are in metrics.jsonl",
    "disable_tqdm": "progress is smolalign's own",
    "resume_from_checkpoint": "a step resumes by itself",
    "chat_template_path": "use the recipe's template",
    "assistant_only_loss": "the loss always falls on assistant turns only",
    "save_only_model": "a step that is cut off resumes from whole checkpoints",
    "push_to_hub": "models are saved locally",
    "activation_checkpointing": "use trainer.gradient_checkpointing",
}


def trainer_arguments(
    config_class: type[Arguments], step: TrainStep, folder: Path, defaults: Mapping[str, Any] | None = None
) -> Arguments:
    """TRL's configuration for a step: smolalign's defaults, then the recipe's `trainer` block.

    Args:
        config_class: `SFTConfig` or `DPOConfig`.
        step: the recipe.
        folder: the step's folder; checkpoints go to `checkpoints/` in it.
        defaults: what the kind of step adds to the defaults; the recipe's `trainer` goes before it.

    Raises:
        UserError: a field is reserved, unknown, or refused by the configuration's own checks.
    """
    for name in step.trainer:
        if name in RESERVED:
            raise UserError(f"trainer.{name} cannot be set", mend=RESERVED[name])
    if step.trainer.get("packing_strategy") == "wrapped":
        raise UserError("trainer.packing_strategy wrapped lets documents attend to each other", mend="use bfd")
    _reject_unknown_fields(config_class, step.trainer)
    _reject_wrong_types(config_class, step.trainer)
    batch = divide(step.global_batch_size, step.trainer, processes.count())
    fields: dict[str, Any] = {
        "bf16": False,
        # Without this, the configuration takes bf16 for a mistake on CPUs.
        "use_cpu": device().type == "cpu",
        "gradient_checkpointing": False,
        "logging_steps": 10,
        # The trainer would log the mean of earlier losses in place of one that is not finite.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": 0.1,
        "save_total_limit": 2,
        "dataloader_pin_memory": device().type == "cuda",
        "per_device_eval_batch_size": batch.size,
        **(defaults or {}),
        **step.trainer,
        **batch.fields(),
        "output_dir": str(folder / "checkpoints"),
        "seed": step.seed,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if "activation_checkpointing" in config_class.__dataclass_fields__:
        # Its name from transformers 5.23 on; the versions before it know the recipe's name alone.
        fields["activation_checkpointing"] = fields.pop("gradient_checkpointing")
    try:
        arguments = config_class(**fields)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}", mend="mend the recipe's trainer block") from None
    if arguments.eval_strategy != "no" and not (step.eval_data or step.test_fraction):
        raise UserError(
            f"trainer.eval_strategy is {step.trainer['eval_strategy']}, but no rows are held out",
            mend="set eval_data or test_fraction",
        )
    if arguments.n_gpu > 1:
        # The trainer would make a batch for each GPU that it sees. Several are used by several processes.
        arguments._n_gpu = 1
    allow_sharding_on_cpu()
    return arguments


def _reject_unknown_fields(config_class: type, fields: Mapping[str, Any]) -> None:
    import dataclasses
    import difflib

    known = [field.name for field in dataclasses.fields(config_class) if field.init]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}?" if close else f"the trainer block takes {config_class.__name__}'s fields"
            raise UserError(f"unknown key trainer.{name}", mend=mend)


def _reject_wrong_types(config_class: type, fields: Mapping[str, Any]) -> None:
    """Numbers and switches that are none: the configurations themselves take anything, and fail when training."""
    hints = typing.get_type_hints(config_class)
    for name, value in fields.items():
        if set(typing.get_args(hints[name]) or [hints[name]]) <= {int, float, bool, type(None)}:
            try:
                TypeAdapter(hints[name]).validate_python(value, strict=True)
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                raise UserError(f"trainer.{name}: {problem[0].lower()}{problem[1:]}, but is {value!r}") from None


# What a reader asks of a training first, by the trainers' own names.
_TOLD = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "fp16",
    "packing",
    "beta",
    "loss_type",
)


def hyperparameters(arguments: TrainingArguments) -> dict[str, Any]:
    """What a training ran with, defaults included, and `rows_per_step`, those of an optimizer step in all processes."""
    told = {name: getattr(arguments, name) for name in _TOLD if hasattr(arguments, name)}
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes.count()
    # Names of schedulers and optimizers are enumerations.
    return {"rows_per_step": rows, **{name: getattr(value, "value", value) for name, value in told.items()}}


class Watch(TrainerCallback):
    """Writes each log of the trainer to metrics.jsonl and tells the reporter where the training stands."""

    def __init__(self, name: str, metrics_file: Path, report: Reporter) -> None:
        self.name, self.metrics_file, self.report = name, metrics_file, report
        self.loss: float | None = None
        self.tokens = 0.0
        self.tokens_per_second: float | None = None
        self.began, self.first_step = time.monotonic(), 0
        self.last_log = (self.began, 0.0)
        self.before: dict[str, float] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began, self.first_step = time.monotonic(), state.global_step
        self.last_log = (self.began, self.tokens)
        if processes.is_main():
            _forget_after(self.metrics_file, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = dict(logs or {})
        for loss in (logs.get("loss"), logs.get("train_loss")):
            if loss is not None and not math.isfinite(loss):
                what = f"the loss is {loss} by step {state.global_step}: training diverged"
                raise UserError(what, mend="lower trainer.learning_rate")
        if "loss" in logs and "num_tokens" in logs:
            self._measure(logs)
        if not processes.is_main():
            return
        line = {"step": state.global_step, **{k: v for k, v in logs.items() if isinstance(v, int | float)}}
        with self.metrics_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep what was measured before the first step, also from a kill, and start the clock after it."""
        # Several sets that are held out are measured one after the other.
        if args.eval_on_start and state.global_step == self.first_step:
            self.before = {**(self.before or {}), **_kept(metrics or {})}
            if processes.is_main():
                write_json(self.metrics_file.with_name(BEFORE), self.before)
            self.began = time.monotonic()
            self.last_log = (self.began, self.tokens)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        done = state.global_step - self.first_step
        left = (time.monotonic() - self.began) / done * (state.max_steps - state.global_step) if done else None
        self.report.progress(
            Progress(
                self.name,
                state.global_step,
                state.max_steps,
                loss=self.loss,
                tokens_per_second=self.tokens_per_second,
                seconds_left=left,
            )
        )

    def _measure(self, logs: dict[str, Any]) -> None:
        """Tokens per second since the log before; the trainer's token count begins at zero when a run resumes."""
        now, tokens = time.monotonic(), float(logs["num_tokens"])
        before, tokens_before = self.last_log
        if tokens > tokens_before and now > before:
            self.tokens_per_second = (tokens - tokens_before) / (now - before)
            logs["tokens_per_second"] = round(self.tokens_per_second, 1)
        if held := memory_held():
            logs["memory_gb"] = round(held / 1e9, 3)
        self.loss, self.tokens, self.last_log = float(logs["loss"]), tokens, (now, tokens)


def train(
    trainer: Trainer, step: TrainStep, folder: Path, report: Reporter, begin: Path | None = None
) -> dict[str, Any]:
    """Measure, train (from the last whole checkpoint if there is one), and measure again.

    Args:
        trainer: its callbacks have a `Watch`.
        step: the recipe.
        folder: of the step.
        report: where progress is shown.
        begin: checkpoint of another run to begin with.

    Returns:
        `train_loss`, `steps`, `tokens_per_second`, and the measurements before and after on held-out rows, named
        `eval_…_before` and `eval_…`.

    Raises:
        UserError: memory did not suffice; what was trained so far is in a checkpoint.
    """
    trainer.remove_callback(PrinterCallback)
    watch = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Watch))
    checkpoint, watch.before = shared(_found(folder) if processes.is_main() else (None, None))
    sets = trainer.eval_dataset
    if isinstance(sets, dict) and watch.before and len(watch.before) < len(sets):
        # Cut off while it measured them.
        watch.before = None
    # By the trainer itself: a model measured before it is prepared for training would not be prepared for several
    # processes any more, which then train apart (Accelerate 1.15 marks it as prepared).
    trainer.args.eval_on_start = watch.before is None and trainer.eval_dataset is not None
    if trainer.args.eval_on_start:
        report.say(f"{watch.name}: measuring held-out rows before training")
    if checkpoint:
        report.say(f"{watch.name}: resuming from {checkpoint.name}")
    going_on = str(checkpoint or begin) if checkpoint or begin else None
    result = ending_well(trainer, step, lambda: trainer.train(resume_from_checkpoint=going_on))
    metrics = {"train_loss": round(result.training_loss, 4), "steps": trainer.state.global_step}
    if watch.tokens_per_second:
        elapsed = time.monotonic() - watch.began
        metrics["train_seconds"] = round(elapsed, 1)
        metrics["tokens_per_second"] = round(watch.tokens / elapsed)
    metrics |= {f"{key}_before": value for key, value in (watch.before or {}).items()}
    if trainer.eval_dataset is not None:
        metrics |= _kept(trainer.evaluate())
    if processes.is_main():
        (folder / BEFORE).unlink(missing_ok=True)
    return metrics


def _found(folder: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """What a run that was cut off left: its last whole checkpoint, and what it measured before training."""
    return last_checkpoint(folder / "checkpoints"), read_json(folder / BEFORE)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole; one that a kill left half written is removed.

    The trainer writes `trainer_state.json` last, so a checkpoint with a readable one is whole.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if read_json(checkpoint / "trainer_state.json"):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _kept(metrics: dict[str, float]) -> dict[str, float]:
    """The measurements themselves, without the trainer's bookkeeping of time."""
    skip = ("runtime", "per_second", "epoch", "num_tokens", "logits", "preparation_time")
    return {key: round(value, 4) for key, value in metrics.items() if not any(word in key for word in skip)}


def _forget_after(file: Path, step: int) -> None:
    """Drop logged lines beyond the step that training goes on from, and one torn by a kill; they are written again."""
    if file.exists():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        write_text(file, "".join(line for line in lines if json.loads(line)["step"] <= step))
