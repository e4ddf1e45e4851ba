"""What the processes of a launch agree on while they train; in a process that runs alone everything here is nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object

from smolalign import processes
from smolalign.errors import UserError

Value = TypeVar("Value")


def join(fields: Mapping[str, Any]) -> None:
    """Meet the other processes, as the trainer's `ddp_backend` and `ddp_timeout` say."""
    if processes.count() > 1:
        timeout = timedelta(seconds=fields.get("ddp_timeout") or 1800)
        PartialState(cpu=processes.on_cpu(), backend=fields.get("ddp_backend"), timeout=timeout)


def shared(value: Value) -> Value:
    """The main process's value, in every process."""
    if processes.count() == 1:
        return value
    values: list[Any] = [value]
    broadcast_object_list(values)
    return values[0]


def gathered(values: list[Value]) -> list[list[Value]]:
    """The list of each process, in their order, in every process."""
    if processes.count() == 1:
        return [values]
    found: list[list[Value]] = gather_object([values])
    return found


def wait() -> None:
    """Go on once every process is here."""
    if processes.count() > 1:
        PartialState().wait_for_everyone()


def allow_sharding_on_cpu() -> None:
    """Let Accelerate divide weights among processes without GPUs.

    `AcceleratorState` makes FSDP of the states of GPUs alone, though torch shards over gloo as well; a state of CPU
    processes that is under the name of theirs gets there. Call it between the trainer's configuration, which makes
    that state, and the trainer.
    """
    if processes.on_cpu() and processes.sharded() == "fsdp":
        PartialState()._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def require_layout(*, quantized: bool) -> None:
    """Raise where weights that are divided among processes cannot be what the recipe wants."""
    if quantized and processes.sharded():
        raise UserError(
            "quantized weights cannot be divided among processes", mend="use --config ddp, or leave quantize out"
        )


def whole_state(trainer: Any) -> dict[str, Any] | None:
    """The trained weights by name, gathered in the main process from where they are divided; None where they are not.

    Every process must call it. Those that are not the main one get an empty mapping.
    """
    if not processes.sharded():
        return None
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state if processes.is_main() else {}


def quiet_others() -> None:
    """Send what libraries print in all processes but the main one nowhere; what ends one is told otherwise."""
    if not processes.is_main() and "SMOLALIGN_DEBUG" not in os.environ:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
