"""Quantized weights: how bitsandbytes is asked for them, what a checkpoint says of its own, and back to plain ones."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig


def configuration(quantize: str, here: torch.device) -> BitsAndBytesConfig:
    """bitsandbytes' configuration of `int8` or `nf4`; 4-bit weights are multiplied in the dtype that is fast there."""
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.float32 if here.type == "cpu" else torch.bfloat16
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def method(config: dict[str, Any] | None) -> str | None:
    """The name of what a checkpoint's `quantization_config` says."""
    if not config:
        return None
    if config.get("quant_method") != "bitsandbytes":
        return str(config.get("quant_method", "by a method without a name"))
    return "int8" if config.get("load_in_8bit") else str(config.get("bnb_4bit_quant_type"))


def rest_in_fp32(model: Any) -> None:
    """Hold in fp32 what is not quantized: Transformers leaves it in the checkpoint's dtype, which CPUs are slow in."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    model.config.dtype = torch.float32


def dequantized(model: Any) -> Any:
    """A model of quantized weights as a plain one, of what they stand for."""
    # Transformers gives them the dtype that they were quantized from, which need not be that of the rest.
    plain = model.dequantize(dtype=model.get_input_embeddings().weight.dtype)
    for name in ("is_loaded_in_8bit", "is_loaded_in_4bit", "is_quantized", "quantization_method"):
        if hasattr(plain, name):
            delattr(plain, name)
    # Saving would turn these round, which those that read quantized weights cannot be.
    plain._weight_conversions = [
        one
        for one in getattr(plain, "_weight_conversions", None) or []
        if not any(type(step).__name__.startswith("Bnb") for step in getattr(one, "operations", ()))
    ]
    forget_quantization(plain)
    return plain


def forget_quantization(model: Any) -> None:
    """Have a model saved as what it is by now: Transformers refuses to save what it thinks is still quantized."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
