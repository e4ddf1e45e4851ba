"""A training step without its numbers: the model's own code on the meta device, where tensors have sizes only.

The forward pass, the head, the backward pass and the optimizer run as they do in training, and every storage that they
make is counted from its making until nothing holds it any longer. So the figures follow the code, whatever the
architecture.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, PreTrainedConfig

from smolalign.model import lora_config, unadapted
from smolalign.recipe.schema import Lora
from smolalign.train import attention, next_token
from smolalign.train.attention import attending_per_document
from smolalign.train.lm_head import ScoredTokens
from smolalign.train.pairs import row_layout

META = torch.device("meta")
# While these are computed, the backward pass's graph is made of small objects that stay as long as it does. Those of up
# to 96 bytes fit into what glibc cuts off an aligned block, and where one lies there, the hole that the block leaves is
# too short for another block of the same size. Measured: with LoRA, holes are half as large as what is alive. The
# objects' size stands for many; it is the one with which estimates come nearest to what was measured.
GRAPH_PHASES = ("activations", "logits")
NODE_BYTES = 40
# Bytes of a weight of a linear layer: bitsandbytes keeps one scale for 64 weights beside the 4 bits of each.
QUANTIZED = {"int8": 1.0, "nf4": 0.5 + 4 / 64}


@dataclass(frozen=True, slots=True)
class Batch:
    """Sizes of a batch: of each row its tokens, or those of prompt, chosen and rejected answer; and how many tokens of
    them all are trained on."""

    rows: tuple[tuple[int, ...], ...]
    trained: int

    @property
    def tokens(self) -> int:
        return sum(map(sum, self.rows))

    def layout(self) -> dict[str, Any]:
        """What attention reads of the batch, as the collators give it; sizes are numbers, the rest is on meta."""
        if len(self.rows[0]) == 3:
            layout = row_layout(list(self.rows), max(prompt + max(answers) for prompt, *answers in self.rows))
            del layout["row_index"], layout["padded_index"], layout["position_ids"]
            return {**layout, "key_index": layout["key_index"].to(META)}
        ends = torch.tensor([0, *(length for (length,) in self.rows)]).cumsum(0).to(torch.int32)
        longest = max(self.rows)[0]
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of what a training step holds. The parts are not all there at once; `alive` is the most that is."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    alive: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the meta storages that are alive, each under the phase in which it was made.

    `now` is what is alive by phase, `most` the most that was of each, `peak` the most of all together. Views count
    once; storages that no operator under this mode has made, such as parameters, do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.peak = 0
        self.trace: list[tuple[int, int]] = []
        self._made = 0
        self._nodes: list[int] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    def measure_anew(self) -> None:
        """Forget the highest figures so far; what is alive stays counted."""
        self.most = dict(self.now)
        self.peak = sum(self.now.values())

    def forget_graph(self) -> None:
        """The backward pass has ended, and freed the graph."""
        self.trace += [(number, 0) for number in self._nodes]
        self._nodes = []

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take storages as known, so that an operator that gives a view of one, or writes to it, counts nothing."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.device == META:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size, phase = storage._cdata, storage.nbytes(), self.phase
        known = self._known.get(key)
        if known is not None and known() is storage:
            return

        number = self._made = self._made + 1

        def gone(_: Any) -> None:
            self.now[phase] -= size
            self.trace.append((number, 0))

        self._known[key] = weakref.ref(storage, gone)
        self.trace.append((number, size))
        if phase in GRAPH_PHASES:
            # Of the graph that the backward pass follows, what the operator leaves beside its result.
            self._made += 1
            self._nodes.append(self._made)
            self.trace.append((self._made, NODE_BYTES))
        self.now[phase] = self.now.get(phase, 0) + size
        self.most[phase] = max(self.most.get(phase, 0), self.now[phase])
        self.peak = max(self.peak, sum(self.now.values()))


def fused_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    """Attention by the kernel that devices take, which keeps no matrix of scores; on meta PyTorch would build it."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, is_causal=True)[0]


class Bf16Linear:
    """Linear layers as under bf16 autocast, which does not know the meta device: each weight is converted once."""

    def __init__(self) -> None:
        self.converted: dict[int, torch.Tensor] = {}

    def __call__(self, data: Any, weight: Any, bias: Any = None) -> Any:
        return linear(data.to(torch.bfloat16), self._of(weight), None if bias is None else self._of(bias))

    def _of(self, weight: torch.Tensor) -> torch.Tensor:
        if weight.dtype == torch.bfloat16:
            return weight
        if id(weight) not in self.converted:
            self.converted[id(weight)] = weight.to(torch.bfloat16)
        return self.converted[id(weight)]


@contextmanager
def as_on_device(bf16: bool, on_cpu: bool) -> Iterator[None]:
    """Kernels that the meta device would not choose, in place of PyTorch's functions; in the backward pass too, where
    layers may be computed again."""
    device = "cpu" if on_cpu else "cuda"
    changes: list[tuple[Any, str, Any]] = [
        (attention, "BLOCKS_ON", ("cpu", "meta") if on_cpu else ()),
        (next_token, "CHUNK_ELEMENTS", {**next_token.CHUNK_ELEMENTS, "meta": next_token.CHUNK_ELEMENTS[device]}),
        (torch.nn.functional, "scaled_dot_product_attention", fused_attention),
        (attention, "scaled_dot_product_attention", fused_attention),
    ]
    if bf16:
        changes.append((torch.nn.functional, "linear", Bf16Linear()))
    before = [getattr(module, name) for module, name, _ in changes]
    for module, name, function in changes:
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name, _), function in zip(changes, before, strict=True):
            setattr(module, name, function)


def model_on_meta(config: PreTrainedConfig, dtype: torch.dtype, lora: Lora | None, checkpointing: bool) -> Any:
    """The model of a config as it is trained, adapters included, without memory for its weights.

    Args:
        config: of a causal language model; unchanged.
        dtype: of frozen weights; those that are trained are fp32.
        lora: the recipe's adapters, if it has any.
        checkpointing: recompute each layer's activations in the backward pass.
    """
    auto: Any = AutoModelForCausalLM
    with META:
        model = auto.from_config(config, dtype=dtype if lora else torch.float32)
        if checkpointing:
            # There is no random state on the meta device to be kept for the second forward pass.
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        if lora:
            from peft import get_peft_model

            model = get_peft_model(model, lora_config(lora), autocast_adapter_dtype=True)
    return model.train()


def weight_bytes(model: Any, quantize: str | None) -> int:
    """Bytes of all weights; quantized are the linear layers without adapters' own and without the head."""
    base = unadapted(model)
    small: set[int] = set()
    if quantize:
        layers = (module for module in base.modules() if isinstance(module, torch.nn.Linear))
        small = {id(m.weight) for m in layers if not m.weight.requires_grad} - {id(base.get_output_embeddings().weight)}
    sizes = (p.numel() * (QUANTIZED[quantize or ""] if id(p) in small else p.itemsize) for p in model.parameters())
    return round(sum(sizes))


class DryTraining:
    """Training of a model on the meta device, step by step.

    Args:
        model: of `model_on_meta`.
        optimizer: makes the optimizer of the trained parameters.
        accumulation: micro-batches a step; from the second one on, gradients are there already.
        bf16: compute in bf16 mixed precision.
        quantize: how frozen weights are kept.
        reference: a reference is scored after each forward pass, by the same model without its adapters.
        on_cpu: the device trained on is the CPU.
        next_token: the loss is pretraining's, which keeps no logits.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Callable[[Sequence[torch.Tensor]], Any],
        *,
        accumulation: int = 1,
        bf16: bool = False,
        quantize: str | None = None,
        reference: bool = False,
        on_cpu: bool = True,
        next_token: bool = False,
    ) -> None:
        self.model, self.bf16, self.reference, self.on_cpu = model, bf16, reference, on_cpu
        self.next_token = next_token
        self.micro_batches = min(2, accumulation)
        self.weights = weight_bytes(model, quantize)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer(self.trained)
        self.live = LiveBytes()
        self.live.ignore([*model.parameters(), *model.buffers()])

    def step(self, batch: Batch) -> Footprint:
        """One optimizer step on micro-batches of this size. The first step has no optimizer's state yet."""
        live = self.live
        live.measure_anew()
        with attending_per_document(unadapted(self.model)), as_on_device(self.bf16, self.on_cpu), live:
            for _ in range(self.micro_batches):
                live.phase = "activations"
                loss = self._loss(batch)
                if self.reference:
                    with torch.no_grad():
                        self._loss(batch)
                live.phase = "backward"
                loss.backward()
                del loss
                live.forget_graph()
            gradients = sum(p.grad.numel() * p.grad.itemsize for p in self.trained if p.grad is not None)
            live.phase = "optimizer"
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self._footprint(gradients)

    def evaluation(self, batch: Batch) -> Footprint:
        """A forward pass on a batch of held-out rows, between two steps."""
        live = self.live
        live.measure_anew()
        with torch.no_grad(), attending_per_document(unadapted(self.model)), as_on_device(self.bf16, self.on_cpu), live:
            live.phase = "activations"
            self._loss(batch)
        return self._footprint(0)

    def _footprint(self, gradients: int) -> Footprint:
        return Footprint(
            weights=self.weights,
            gradients=gradients,
            optimizer=self.live.now.get("optimizer", 0),
            activations=self.live.most.get("activations", 0),
            logits=self.live.most.get("logits", 0),
            alive=self.weights + self.live.peak,
        )

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The forward pass as the trainers make it: the model below its head, then the head on trained tokens."""
        base = unadapted(self.model)
        hidden = base.base_model(
            input_ids=torch.zeros(1, batch.tokens, dtype=torch.long, device=META),
            position_ids=torch.zeros(1, batch.tokens, dtype=torch.long, device=META),
            use_cache=False,
            **batch.layout(),
        ).last_hidden_state
        self.live.phase = "logits"
        targets = torch.zeros(batch.trained, dtype=torch.long, device=META)
        if self.next_token:
            weight, scored = base.get_output_embeddings().weight, hidden[0, : batch.trained].clone()
            return next_token.NextTokenLoss.apply(scored, weight, targets, 1.0, 0.0, torch.is_grad_enabled())[0]
        scored = hidden[0, : batch.trained].clone()
        return ScoredTokens.apply(scored, base.get_output_embeddings().weight, targets)[0].sum()
