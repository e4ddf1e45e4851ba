"""What changes at a stage's beginning and is kept at its end, around the trainer of pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from smolalign import processes
from smolalign.store import STAGES
from smolalign.train.branch import KeptStage, keep_stage
from smolalign.train.curriculum import Plan, Stretch
from smolalign.train.group import shared, whole_state
from smolalign.train.pretrainer import Pretrainer


class StagedTrainer(Pretrainer):
    """The trainer, which may begin with a stage's checkpoint of another run."""

    # The stage of another run that training begins with; its settings are not this run's.
    begins_with: KeptStage | None = None

    def learning_rate(self, step: int) -> float | None:
        """The learning rate of an optimizer step, counted from 0; None where the schedule looks at losses."""
        schedule: Any = self.lr_scheduler
        return float(schedule.base_lrs[0] * schedule.lr_lambdas[0](step)) if isinstance(schedule, LambdaLR) else None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert self.optimizer is not None
        own = [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        if self.begins_with is None or checkpoint != str(self.begins_with.folder) or not isinstance(schedule, LambdaLR):
            return
        # A checkpoint brings the settings that it was trained with, and a branch has its own from here on.
        schedule.base_lrs = [group["initial_lr"] for group in own]
        rates = [
            base * rate(schedule.last_epoch) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, settings, rate in zip(self.optimizer.param_groups, own, rates, strict=True):
            group.update({**settings, "lr": rate})
        schedule._last_lr = rates


class Stages(TrainerCallback):
    """Sets the rotary embedding's base at a stage's beginning; at its end measures, and keeps its checkpoint.

    Args:
        plan: of the step.
        folder: of the step.
        keeps: whether checkpoints are kept: a recipe without stages has its model.
        about: for each checkpoint's `stage.json`: what does not depend on the stage.
        trained: for these: what was trained by each stage's end.
    """

    def __init__(
        self, plan: Plan, folder: Path, *, keeps: bool, about: Mapping[str, Any], trained: Sequence[Any]
    ) -> None:
        self.plan, self.folder, self.keeps, self.about, self.trained = plan, folder, keeps, about, trained
        self.trainer: StagedTrainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A checkpoint brings the intervals of the run that wrote it.
        state.compute_steps(args, state.max_steps)
        set_rope_theta(kwargs["model"], self.plan.stage_of(max(0, state.global_step - 1)).rope_theta)
        ended = self._ended(state)
        # A run may have been killed between its checkpoint and what is kept of it.
        if ended and shared(
            processes.is_main() and self._checkpoint(state).is_dir() and not self._target(ended).is_dir()
        ):
            self._keep(ended, state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        stretch = self.plan.stage_of(state.global_step)
        if stretch.first_step == state.global_step:
            set_rope_theta(kwargs["model"], stretch.rope_theta)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if ended := self._ended(state):
            control.should_log = True
            control.should_save = self.keeps or control.should_save
            # What the last stage reached is measured when training has ended.
            last = ended.number == len(self.plan.stages)
            assert self.trainer is not None
            control.should_evaluate = control.should_evaluate or (self.trainer.eval_dataset is not None and not last)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if ended := self._ended(state):
            self._keep(ended, state)

    def _ended(self, state: TrainerState) -> Stretch | None:
        """The stage that has just ended, if its checkpoint is to be kept or it is measured."""
        return next((stretch for stretch in self.plan.stages if stretch.end == state.global_step), None)

    def _checkpoint(self, state: TrainerState) -> Path:
        return self.folder / "checkpoints" / f"checkpoint-{state.global_step}"

    def _target(self, stretch: Stretch) -> Path:
        return self.folder / STAGES / f"{stretch.number}-{stretch.name}"

    def _keep(self, stretch: Stretch, state: TrainerState) -> None:
        if not self.keeps:
            return
        assert self.trainer is not None
        weights = whole_state(self.trainer)
        if not processes.is_main():
            return
        cursors = {**stretch.cursors}
        for source, tokens in self.plan.read_by(stretch).items():
            cursors[source] += tokens
        held_out = {
            name: value
            for log in state.log_history
            if log.get("step") == state.global_step
            for name, value in log.items()
            if name.startswith("eval_") and name.endswith("loss")
        }
        about = {
            "step": state.global_step,
            "tokens": sum(one.tokens for one in self.plan.stages[: stretch.number]),
            "layout": processes.layout(),
            "cursors": cursors,
            "held_out": held_out,
            **self.about,
            "trained": self.trained[stretch.number - 1],
        }
        save_model = partial(_save, self.trainer, weights) if weights is not None else None
        keep_stage(self._checkpoint(state), self.folder, stretch.number, stretch.name, about, save_model)


def set_rope_theta(model: Any, theta: float) -> None:
    """Change the base of a model's rotary position embedding, in its configuration too."""
    for module in model.modules():
        if isinstance(module, LlamaRotaryEmbedding):
            config: Any = module.config
            config.rope_parameters = {**config.rope_parameters, "rope_theta": theta}
            frequencies, _ = module.compute_default_rope_parameters(config)
            with torch.no_grad():
                module.inv_freq.copy_(frequencies)
                module.original_inv_freq.copy_(frequencies)


def _save(trainer: StagedTrainer, weights: dict[str, Any], folder: Path) -> None:
    """Write the model whole, where processes hold a part of it each, and its tokenizer, which such checkpoints lack."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    own = {name: value for name, value in weights.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(folder, state_dict=own)
    tokenizer: Any = trainer.processing_class
    tokenizer.save_pretrained(folder)
