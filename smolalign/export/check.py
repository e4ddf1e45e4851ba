"""Whether an export is the model that it was made of: it is loaded anew, and asked what the model was asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smolalign.adapters import is_adapter
from smolalign.errors import UserError
from smolalign.export.facts import read_facts
from smolalign.export.probe import TEXTS, Deviation, Words, deviation, difference, logits, words


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of the probes.

    Attributes:
        words: what its tokenizer makes of them.
        stops: the ids at which generation stops.
        logits: of the texts; see `probe.logits`.
    """

    words: Words
    stops: frozenset[int]
    logits: list[torch.Tensor]


def answers(model: Any, tokenizer: Any) -> Answers:
    """Ask a model that is loaded; `tokenizer` is its own."""
    ends = model.generation_config.eos_token_id
    stops = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
    made = words(tokenizer)
    # Not of the chats: 4 bits move their logits as far as another model's are away, which would blur the bound.
    return Answers(made, stops, logits(model, made.ids[: len(TEXTS)]))


def require_same(model: Answers, export: Answers, relative: float, largest: float = float("inf")) -> Deviation:
    """Hold an export against its model.

    Args:
        model: its answers.
        export: those of the export, loaded anew.
        relative: what `Deviation.relative` may be at most.
        largest: and what `Deviation.largest`.

    Raises:
        UserError: the tokenizer, template or stop tokens differ, or logits differ by more.
    """
    if what := difference(model.words, export.words):
        raise _wrong(what)
    if model.stops != export.stops and export.words.stop not in export.stops:
        raise _wrong("its generation config does not name its stop token")
    found = deviation(model.logits, export.logits)
    # Written so that what is not a number is refused.
    if not (found.relative <= relative and found.largest <= largest):
        allowed = f"{relative:.2%}" if largest == float("inf") else f"{largest:g}"
        raise _wrong(f"does not compute what the model does: {found.line()}, where {allowed} is allowed")
    return found


def read_back(
    folder: Path, reference: str, relative: float, largest: float = float("inf"), weights: float | None = None
) -> str:
    """Load a checkpoint that was written, as anyone would, and hold it against the model that it was made of.

    Args:
        folder: the checkpoint's.
        reference: what loads the model.
        relative: see `require_same`.
        largest: likewise.
        weights: how far the quantized weights of a layer may be from the model's, in parts of their size.

    Returns:
        What was found, in words.

    Raises:
        UserError: it cannot be loaded, or is not the model.
    """
    from smolalign.model import load_model, load_tokenizer

    export = load_model(str(folder))
    model = load_model(reference)
    if weights is not None:
        # Before anything is computed: bitsandbytes lays weights out anew for the processor when it first needs them.
        _require_close_weights(model, export, weights)
    theirs = answers(export, load_tokenizer(str(folder)))
    del export
    return f"read back: {require_same(answers(model, load_tokenizer(reference)), theirs, relative, largest).line()}"


def allowed(folder: Path, reference: str) -> tuple[float, float]:
    """`relative` and `largest` of `require_same` for a plain checkpoint: 1e-5 between two logits, or where it has fewer
    bits than the model that was loaded, what rounding makes of them."""
    from smolalign.model import load_config

    rounded = {"float32", *read_facts(folder).dtypes} != {"float32"}
    same = (
        not is_adapter(Path(reference))
        and str(load_config(reference).dtype).removeprefix("torch.") in read_facts(folder).dtypes
    )
    return (0.1, math.inf) if rounded and not same else (math.inf, 1e-5)


def _require_close_weights(model: Any, export: Any, largest: float) -> None:
    """Raise UserError where a layer is further from the model's than its type explains, or none is quantized."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    modules, found = dict(model.named_modules()), 0
    for name, layer in export.named_modules():
        if type(layer).__name__ not in ("Linear8bitLt", "Linear4bit"):
            continue
        found += 1
        ours = modules[name].weight.detach().float()
        state = getattr(layer, "state", None)
        theirs = dequantize_bnb_weight(layer.weight, state).detach().float()
        apart = float((theirs - ours).norm() / ours.norm().clamp(min=1e-12))
        if not apart <= largest:
            raise _wrong(f"weights of {name} are {apart:.1%} of their size from the model's")
    if not found:
        raise _wrong("none of its layers is quantized")


def _wrong(what: str) -> UserError:
    return UserError(f"the export was read back, and {what}", mend="nothing was written; export another type")
