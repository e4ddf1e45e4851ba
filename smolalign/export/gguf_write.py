"""A GGUF file, written tensor by tensor: one tensor is in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape, quantize
from gguf.utility import size_label

from smolalign.errors import UserError
from smolalign.export.gguf_llama import ARCHITECTURE, Sizes, Tensor
from smolalign.export.gguf_tokens import Vocabulary

# By the names that llama.cpp's tools take: the type of the matrices, and the number by which a file says it has them.
TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_FINE = {"f32", "f16", "bf16", "q8_0"}


@dataclass(frozen=True, slots=True)
class Model:
    """What a file is made of.

    Attributes:
        name: `general.name`.
        sizes: of the model.
        vocabulary: its tokenizer and template.
        tensors: its weights.
        about: metadata of the card, as the Hub names its fields.
    """

    name: str
    sizes: Sizes
    vocabulary: Vocabulary
    tensors: list[Tensor]
    about: Mapping[str, Any]


def type_of(tensor: Tensor, chosen: str, *, tied: bool) -> GGMLQuantizationType:
    """The type in which a weight is kept, as llama.cpp's quantizer decides it.

    Norms stay f32. The matrix that gives the logits (the embeddings, where the two are one) has 8 bits at least: each
    token's logit hangs on one row. llama.cpp gives it q6_K there where its rows allow, and q8_0 else; there is no q6_K
    in the gguf library. Rows that do not divide into blocks stay f16.

    Args:
        tensor: the weight.
        chosen: one of `TYPES`.
        tied: whether the embeddings give the logits.
    """
    wanted = TYPES[chosen][0]
    if len(tensor.shape) == 1:
        return GGMLQuantizationType.F32
    if tensor.name == ("token_embd.weight" if tied else "output.weight") and chosen not in _FINE:
        wanted = GGMLQuantizationType.Q8_0
    return wanted if tensor.shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def weight_bytes(tensors: Sequence[Tensor], chosen: str, *, tied: bool) -> int:
    """Bytes of the weights in a file, without its metadata."""
    return sum(_bytes(tensor.shape, type_of(tensor, chosen, tied=tied)) for tensor in tensors)


def write(model: Model, chosen: str, file: Path) -> None:
    """Write a model.

    Args:
        model: what to write.
        chosen: one of `TYPES`.
        file: where to; what is there is overwritten.

    Raises:
        UserError: a weight is not finite in this type.
        OSError: it cannot be written.
    """
    writer = GGUFWriter(file, ARCHITECTURE)
    try:
        _describe(writer, model, chosen)
        types = [type_of(tensor, chosen, tied=model.sizes.tied) for tensor in model.tensors]
        for tensor, kind in zip(model.tensors, types, strict=True):
            # Its dtype matters only where no type is given.
            dtype = np.dtype(np.float32)
            writer.add_tensor_info(tensor.name, tensor.shape, dtype, _bytes(tensor.shape, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(model.tensors, types, strict=True):
            writer.write_tensor_data(_packed(tensor, kind))
        writer.flush()
    finally:
        writer.close()


def _packed(tensor: Tensor, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    values = tensor.read()
    if not np.isfinite(values).all():
        raise UserError(f"the weight {tensor.source} has values that are not finite", where=str(tensor.file))
    with np.errstate(over="ignore"):
        packed: np.ndarray[Any, Any] = quantize(values, kind)
    if kind is GGMLQuantizationType.F16 and not np.isfinite(packed).all():
        raise UserError(f"the weight {tensor.source} is too large for f16", mend="use --types bf16")
    return packed


def _bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    if kind is GGMLQuantizationType.F32:
        return 4 * int(np.prod(shape))
    if kind is GGMLQuantizationType.F16:
        return 2 * int(np.prod(shape))
    return int(np.prod(quant_shape_to_byte_shape(shape, kind)))


def _describe(writer: GGUFWriter, model: Model, chosen: str) -> None:
    parameters = sum(int(np.prod(tensor.shape)) for tensor in model.tensors)
    writer.add_type("model")
    writer.add_name(model.name)
    writer.add_size_label(size_label(parameters, 0, 0, 0))
    writer.add_file_type(TYPES[chosen][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _describe_origin(writer, model.about)
    model.sizes.write(writer)
    model.vocabulary.write(writer)


def _describe_origin(writer: GGUFWriter, about: Mapping[str, Any]) -> None:
    """What a card's metadata say of licence, languages and origin; nothing of what they do not say."""
    if about.get("license") not in (None, "unknown"):
        writer.add_license(str(about["license"]))
    for field, add in (("language", writer.add_languages), ("tags", writer.add_tags)):
        if values := _listed(about.get(field)):
            add(values)
    if bases := _listed(about.get("base_model")):
        writer.add_base_model_count(len(bases))
        for number, base in enumerate(bases):
            owner, _, name = base.rpartition("/")
            writer.add_base_model_name(number, name)
            if owner:
                writer.add_base_model_organization(number, owner)
                writer.add_base_model_repo_url(number, f"https://huggingface.co/{base}")


def _listed(value: Any) -> list[str]:
    """The texts of a field that holds one or several."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]
