"""A Llama checkpoint as GGUF names and lays it out: its sizes, and its weights one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

from smolalign.errors import UserError
from smolalign.store import read_json

ARCHITECTURE = "llama"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What llama.cpp has to know of a model beside its weights."""

    context_length: int
    embedding_length: int
    block_count: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    head_width: int
    norm_eps: float
    rope_theta: float
    rows: int
    tied: bool

    def write(self, writer: GGUFWriter) -> None:
        """Put them into a file's metadata."""
        writer.add_context_length(self.context_length)
        writer.add_embedding_length(self.embedding_length)
        writer.add_block_count(self.block_count)
        writer.add_feed_forward_length(self.feed_forward_length)
        writer.add_head_count(self.head_count)
        writer.add_head_count_kv(self.head_count_kv)
        writer.add_key_length(self.head_width)
        writer.add_value_length(self.head_width)
        writer.add_rope_dimension_count(self.head_width)
        writer.add_rope_freq_base(self.rope_theta)
        writer.add_layer_norm_rms_eps(self.norm_eps)
        writer.add_vocab_size(self.rows)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight of the checkpoint that goes into the file.

    Attributes:
        name: in GGUF.
        source: in the checkpoint.
        file: that holds it.
        shape: `[out, in]`, or `[width]` of a norm.
        heads: that its rows are of, where llama.cpp orders the rows within a head otherwise; else 0.
    """

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]
    heads: int

    def read(self) -> np.ndarray[Any, Any]:
        """Its values, float32, rows in llama.cpp's order."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as weights:
            values: np.ndarray[Any, Any] = weights.get_tensor(self.source).float().numpy()
        return interleaved(values, self.heads) if self.heads else values


def interleaved(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key projection as llama.cpp's rotary embedding takes them.

    Transformers turns row `i` of a head together with row `i + width / 2`; llama.cpp turns rows `2 i` and `2 i + 1`.

    Args:
        values: `[heads * width, in]`.
        heads: queries or keys.
    """
    split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def sizes(config: Any) -> Sizes:
    """The sizes of a model, from its configuration.

    Raises:
        UserError: it computes what llama.cpp's `llama` does not.
    """
    if config.model_type != "llama":
        raise UserError(
            f"the model is of type {config.model_type}; to GGUF goes llama alone, which SmolLM2 is",
            mend="use --to merged, and llama.cpp's own converter",
        )
    rope = config.rope_parameters or {}
    differs = {
        f"rotary embeddings of type {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        "biases": config.attention_bias or config.mlp_bias,
        "rotary embeddings of part of a head": rope.get("partial_rotary_factor", 1) != 1,
    }
    for what, is_so in differs.items():
        if is_so:
            raise UserError(f"the model has {what}, which this export cannot write", mend="use --to merged")
    return Sizes(
        context_length=config.max_position_embeddings,
        embedding_length=config.hidden_size,
        block_count=config.num_hidden_layers,
        feed_forward_length=config.intermediate_size,
        head_count=config.num_attention_heads,
        head_count_kv=config.num_key_value_heads,
        head_width=config.head_dim,
        norm_eps=config.rms_norm_eps,
        rope_theta=rope["rope_theta"],
        rows=config.vocab_size,
        tied=config.tie_word_embeddings,
    )


def tensors(folder: Path, of: Sizes) -> list[Tensor]:
    """The weights of a checkpoint, the embeddings first, blocks in their order, norm and head last.

    Raises:
        UserError: one is missing, unknown, or of another shape than the configuration says.
    """
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, of.block_count)
    expected = _shapes(of)
    found: dict[str, Tensor] = {}
    for file, source, shape in _stored(folder):
        if source.endswith(".rotary_emb.inv_freq") or (of.tied and source == "lm_head.weight"):
            continue
        name = names.get_name(source, try_suffixes=(".weight",)) or source
        if expected.get(name) != shape:
            wanted = f"should be {list(expected[name])}" if name in expected else "is not a part of it"
            raise UserError(f"the weight {source} {list(shape)} does not fit config.json: it {wanted}", where=str(file))
        heads = of.head_count if ".attn_q." in name else of.head_count_kv if ".attn_k." in name else 0
        found[name] = Tensor(name, source, file, shape, heads)
    if missing := expected.keys() - found.keys():
        raise UserError(f"{len(missing)} weights are missing, such as {min(missing)}", where=str(folder))
    return [found[name] for name in expected]


def _shapes(of: Sizes) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights by their names in GGUF, in the order in which they are written."""
    width, keys = of.embedding_length, of.head_count_kv * of.head_width
    queries, inner = of.head_count * of.head_width, of.feed_forward_length
    block = {
        "attn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_output": (width, queries),
        "ffn_norm": (width,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (of.rows, width)}
    for number in range(of.block_count):
        shapes |= {f"blk.{number}.{part}.weight": shape for part, shape in block.items()}
    shapes["output_norm.weight"] = (width,)
    return shapes if of.tied else shapes | {"output.weight": (of.rows, width)}


def _stored(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    from safetensors import safe_open

    index = read_json(folder / "model.safetensors.index.json")
    for file in sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]:
        with safe_open(folder / file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                yield folder / file, name, tuple(weights.get_slice(name).get_shape())
