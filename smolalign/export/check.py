"""Whether an export is the model that it was made of: it is loaded anew, and asked what the model was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smolalign.adapters import is_adapter
from smolalign.chat.generation import positions
from smolalign.errors import UserError
from smolalign.export.facts import read_facts

# Prose, figures, code, other scripts, spaces and a special token's look: what a tokenizer could cut in another way.
PROBES = (
    "The river runs past the old mill, turns south behind the hill and reaches the sea after forty miles.",
    "In 1998 the town had 12,345 people; by 2021 there were 3.7 % fewer. What is 19 + 23? It is 42.",
    "def area(width: float, height: float) -> float:\n    return width * height\n\n\nprint(area(2, 3.5))\n",
    "Grüße aus Köln — «ça va»? 今日は。 Привет! 🙂  two  spaces,\ttab\r\n<|im_end|> and\n\n\nlines",
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "find_train",
        "description": "Find a train.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_ASKED = {"role": "user", "content": "Which train goes to Köln <today>?"}
_CHATS: tuple[dict[str, Any], ...] = (
    {"conversation": [_ASKED], "add_generation_prompt": True},
    {"conversation": [{"role": "system", "content": "Be brief."}, _ASKED, {"role": "assistant", "content": "None."}]},
    {"conversation": [_ASKED], "tools": [_TOOL], "add_generation_prompt": True},
)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of `PROBES`.

    Attributes:
        ids: tokens of each probe, as many as the model reads.
        rendered: a few chats through its template, None where it refuses one; empty without a template.
        stop: the id of its tokenizer's stop token.
        stops: those at which generation stops.
        logits: `[tokens, vocabulary]` of each probe, fp32, on the CPU.
    """

    ids: list[list[int]]
    rendered: list[str | None]
    stop: int | None
    stops: frozenset[int]
    logits: list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far the logits of an export are from the model's.

    Attributes:
        largest: difference of two logits.
        relative: root mean square of the differences, over that of the model's logits around their mean.
        agreement: the share of tokens after which both find the same token likeliest.
        tokens: that were compared.
    """

    largest: float
    relative: float
    agreement: float
    tokens: int

    def line(self) -> str:
        """In words."""
        return (
            f"logits within {self.largest:.2g} of the model's ({self.relative:.2%} of their spread), "
            f"the same likeliest token after {self.agreement:.1%} of {self.tokens} tokens"
        )


def answers(model: Any, tokenizer: Any) -> Answers:
    """Ask a model that is loaded; `tokenizer` is its own."""
    reads = positions(model)
    ids = [list(tokenizer(text)["input_ids"])[:reads] for text in PROBES]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [model(torch.tensor([one], device=model.device)).logits[0].float().cpu() for one in ids]
    model.train(was_training)
    ends = model.generation_config.eos_token_id
    stops = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return Answers(ids, rendered(tokenizer), tokenizer.eos_token_id, stops, logits)


def rendered(tokenizer: Any) -> list[str | None]:
    """A few chats through a tokenizer's template; see `Answers`."""
    return [_render(tokenizer, chat) for chat in _CHATS] if tokenizer.chat_template else []


def _render(tokenizer: Any, chat: Mapping[str, Any]) -> str | None:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(**chat, tokenize=False))
    except (TemplateError, TypeError):
        return None


def deviation(model: Sequence[torch.Tensor], export: Sequence[torch.Tensor]) -> Deviation:
    """Compare the logits of two models, `[tokens, vocabulary]` each.

    Raises:
        UserError: they are not of one shape.
    """
    shapes = [[list(one.shape) for one in both] for both in (model, export)]
    if shapes[0] != shapes[1]:
        raise UserError(f"the export gives logits of shape {shapes[1][0]}, and the model of {shapes[0][0]}")
    ours, theirs = torch.cat(list(model)), torch.cat(list(export))
    apart = theirs - ours
    spread = (ours - ours.mean(-1, keepdim=True)).square().mean().sqrt()
    return Deviation(
        largest=float(apart.abs().max()),
        relative=float(apart.square().mean().sqrt() / spread.clamp(min=1e-12)),
        agreement=float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        tokens=len(ours),
    )


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
    for what, one, other in (
        ("cuts a text into other tokens", model.ids, export.ids),
        ("renders a chat in another way", model.rendered, export.rendered),
        ("has another stop token", model.stop, export.stop),
    ):
        if one != other:
            raise _wrong(f"{what} than the model")
    if model.stops != export.stops and export.stop not in export.stops:
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
