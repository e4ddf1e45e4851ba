"""The trainer of pretraining: Transformers', over rows of packed documents that come ready and in order.

What is ours in it: the loss (`next_token.py`), exact measurements on held-out sets, which weights decay, steps that are
left out (`spikes.py`), and figures of speed (`throughput.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from smolalign import processes
from smolalign.errors import UserError
from smolalign.train.group import gathered, shared
from smolalign.train.next_token import add_next_token_loss
from smolalign.train.packed import WORK, collate, nothing_of
from smolalign.train.probe import peak_flops
from smolalign.train.session import Watch
from smolalign.train.shares import Shares
from smolalign.train.spikes import MOST_SKIPPED, OF_STEPS, Spikes
from smolalign.train.throughput import Throughput, Totals

# Under which a checkpoint keeps what `Spikes` has seen.
SPIKES = "spikes"


@dataclass(slots=True)
class Step:
    """What is known of the optimizer step under way: sums over its micro-batches in this process, times the number of
    processes. `logged_before` is the trainer's sum of losses before it."""

    logged_before: torch.Tensor
    loss: Any = 0.0
    z_loss: Any = 0.0
    norm: Any = None


@dataclass(slots=True)
class SinceLog:
    """What has gathered since the last log, at `step`."""

    step: int
    totals: Totals
    z_loss: Any = 0.0
    left_out: int = 0


class Pretrainer(Shares):
    """Trains a causal language model on micro-batches.

    Args:
        model: of Llama's kind, whose logits are the product of its last hidden states with the head's weight.
        args: `per_device_train_batch_size` is 1, since an item is what a device computes at once.
        train_dataset: items as `packed.collate` takes them, in order: item `i` belongs to optimizer step
            `i // (accumulation * processes)`, and within it to process `i % processes`.
        eval_dataset: held-out sets of such items by name; a single one is measured as `eval_loss`.
        z_loss: weight of the z-loss.
        skip_spikes: standard deviations beyond which a step is left out; None leaves none out.
        callbacks: among them a `Watch`, which tells what happens.
    """

    # The loss is divided by the tokens of the whole step already.
    loss_is_scaled_for_ga = True
    # The head and its loss are this trainer's own.
    scores_next_tokens = True

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        train_dataset: Any,
        eval_dataset: Mapping[str, Any] | None = None,
        z_loss: float = 0.0,
        skip_spikes: float | None = 6.0,
        callbacks: list[TrainerCallback] | None = None,
        **options: Any,
    ) -> None:
        if args.per_device_train_batch_size != 1:
            raise ValueError("an item is what is computed at once: per_device_train_batch_size must be 1")
        args.remove_unused_columns = False
        sets: Any = dict(eval_dataset) if eval_dataset else None
        if sets and len(sets) == 1:
            (sets,) = sets.values()
        self.z_loss, self.spikes = z_loss, Spikes(skip_spikes) if skip_spikes is not None else None
        self.throughput = Throughput(model.config)
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=sets,
            callbacks=[*(callbacks or []), _AroundSteps(self)],
            **options,
        )
        # After the trainer's, which may have put in a head of Liger's.
        add_next_token_loss(self.model)
        if self.is_deepspeed_enabled:
            # Its optimizer steps within the backward pass, before anything could be left out.
            self.spikes = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.throughput.peak is None:
            # By one process, while the others wait: those of a CPU would take its cores from each other.
            precision = next((name for name in ("bf16", "fp16") if getattr(self.args, name)), "fp32")
            self.throughput.peak = shared(peak_flops(self.args.device, precision) if processes.is_main() else None)
        return super().train(*args, **kwargs)

    # ---- data

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        items: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(items)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Called once an optimizer step, for all its micro-batches."""
        self.step = Step(self._tr_loss.clone())
        with self.throughput.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """The predicted tokens of the optimizer step in all processes; one where there is none."""
        count = torch.tensor(sum(len(batch["targets"]) for batch in batch_samples), device=device)
        everyone: torch.Tensor = self.accelerator.gather(count)
        return everyone.sum().clamp(min=1)

    # ---- arithmetic

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = {name: value for name, value in inputs.items() if name != WORK}
        loss, of_z = model(**inputs, count=num_items_in_batch, z_loss=self.z_loss)
        # Gradients, and what is logged, are means over the processes.
        self.step.z_loss = self.step.z_loss + of_z * self.args.world_size
        return loss * self.args.world_size

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Gives the cross entropy alone: other runs' losses are compared with that."""
        z_before = self.step.z_loss
        loss = super().training_step(model, inputs, num_items_in_batch)
        loss = loss - (self.step.z_loss - z_before)
        self.step.loss = self.step.loss + loss
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        self.step.norm = super()._get_grad_norm(*args, **kwargs)
        return self.step.norm

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """The matrices within the layers: no norms, biases or embeddings, nor the head, which may be tied to them."""
        kept_out = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
        kept_out.add(id(self.accelerator.unwrap_model(model).get_output_embeddings().weight))
        return [name for name, weight in model.named_parameters() if weight.dim() > 1 and id(weight) not in kept_out]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return int(self.throughput.add(inputs[WORK]))

    # ---- held-out sets

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The exact mean over all predicted tokens of a set, the same figure with any number of processes: each
        computes the sums of some items, and all add up those of all items in their order."""
        items, own = dataloader.dataset, self.args.process_index
        model = self._ready_to_measure()
        model.eval()
        sums: list[tuple[float, int]] = []
        with self.throughput.paused(), torch.no_grad():
            for first in range(0, len(items), self.args.world_size):
                # Where weights are divided among processes, all must compute equally often.
                item = items[first + own] if first + own < len(items) else nothing_of(items[0])
                batch = {name: value for name, value in self._prepare_inputs(collate([item])).items() if name != WORK}
                loss, _ = model(**batch, count=1)
                sums.append((float(loss), len(batch["targets"])))
        dealt = [one for round_ in zip(*gathered(sums), strict=True) for one in round_]
        loss = math.fsum(one for one, _ in dealt) / max(1, sum(count for _, count in dealt))
        metrics = {f"{metric_key_prefix}_loss": loss}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(items))  # type: ignore[arg-type]

    def _ready_to_measure(self) -> Any:
        """The model as it trains; prepared for its precision where it has not been trained."""
        if not self.accelerator._models:
            self.model_wrapped = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        return self.model_wrapped if processes.sharded() else self.model

    # ---- steps that are left out

    def judge_step(self) -> None:
        """Before the optimizer's step: leave it out if it is a spike. All processes come to the same judgement.

        Raises:
            UserError: too many steps were left out.
        """
        if self.spikes is None:
            return
        norm = self.step.norm.full_tensor() if isinstance(self.step.norm, DTensor) else self.step.norm
        own = torch.stack([self.step.loss.float(), norm.float()])[None]
        loss, norm = self.accelerator.gather(own).mean(0).tolist()
        if not (reason := self.spikes.judge(loss, norm)):
            return
        step = self.state.global_step + 1
        self._say(f"step {step} is left out: {reason}")
        if self.spikes.too_many:
            what = f"{MOST_SKIPPED + 1} of the last {OF_STEPS} steps were left out by step {step}: training diverged"
            raise UserError(what, mend="lower trainer.learning_rate, or raise skip_spikes")
        assert self.model is not None
        self.model.zero_grad(set_to_none=True)
        # It is not in the means that are logged either.
        self._tr_loss.copy_(self.step.logged_before)
        self.step.z_loss = 0.0
        self.since_log.left_out += 1
        self.left_out += 1

    def _say(self, text: str) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, Watch):
                callback.report.say(f"{callback.name}: {text}")

    # ---- what is logged and kept

    def begin(self) -> None:
        """Called when all is loaded that a checkpoint holds."""
        kept: Any = self.state.stateful_callbacks
        if self.spikes and SPIKES in kept:
            self.spikes.restore(kept[SPIKES])
        self.throughput.start()
        self.left_out = 0
        self.since_log = SinceLog(self.state.global_step, self.throughput.read())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to what is logged of the training `num_tokens`, trained on since this process began, `mfu`,
        `data_share`, and where they are asked for `z_loss` and `skipped_steps`, those of the whole run. `loss` is a
        mean over the steps that were not left out, and missing where all were."""
        if "loss" in logs:
            self._add_figures(logs)
        super().log(logs, start_time)

    def _add_figures(self, logs: dict[str, float]) -> None:
        last, now = self.since_log, self.throughput.read()
        steps = self.state.global_step - last.step
        new = now.since(last.totals)
        own = [float(last.z_loss), now.tokens, new.tokens, new.flops, new.data_seconds]
        z_loss, logs["num_tokens"], *sums = (sum(values) for values in zip(*gathered(own), strict=True))
        logs |= self.throughput.figures(Totals(sums[0], sums[1], sums[2], new.seconds), self.args.world_size)
        if self.spikes:
            logs["skipped_steps"] = self.spikes.skipped
        trained = steps - last.left_out
        loss = logs.pop("loss")
        if trained:
            logs["loss"] = loss * steps / trained
            if self.z_loss:
                logs["z_loss"] = z_loss / self.args.world_size / trained
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            del logs["grad_norm"]
        self.since_log = SinceLog(self.state.global_step, now)

    def end_step(self) -> None:
        """Called when an optimizer step is done."""
        self.since_log.z_loss = self.since_log.z_loss + self.step.z_loss

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        steps = self.state.global_step - self._initial_global_step
        if 0 < self.left_out < steps:
            self._total_loss_scalar *= steps / (steps - self.left_out)
            self._tr_loss *= steps / (steps - self.left_out)
        return super()._finalize_training(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        kept: Any = self.state.stateful_callbacks
        if self.spikes:
            kept[SPIKES] = self.spikes.state()
        with self.throughput.paused():
            super()._save_checkpoint(*args, **kwargs)


class _AroundSteps(TrainerCallback):
    """Calls the trainer where it calls its callbacks and nobody else."""

    def __init__(self, trainer: Pretrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.judge_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.end_step()
