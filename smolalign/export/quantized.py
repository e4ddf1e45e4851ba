"""`--to int8` and `--to nf4`: a checkpoint folder whose linear layers bitsandbytes holds in 8 or in 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.export.facts import read_facts
from smolalign.export.package import packaged, require_unquantized, tell
from smolalign.export.run import Wishes
from smolalign.export.source import Source
from smolalign.export.target import new_folder, writing

TAKES = {"out"}

# How far the weights of a layer may be from the model's, in parts of their size (root mean squares): rounding normal
# ones gives 0.01 and 0.1, those of another layer are 1.4 away.
LARGEST_ERROR = {"int8": 0.05, "nf4": 0.2}
# What `Deviation.relative` may be; that of a model that is another is about 1.4.
LARGEST_DEVIATION = {"int8": 0.6, "nf4": 1.2}


def require(source: Source, wishes: Wishes) -> Path:
    """The folder to write.

    Raises:
        UserError: none is named, something lies there, or the model is quantized already.
    """
    out = new_folder(wishes)
    require_unquantized(source)
    return out


def export(source: Source, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Write the checkpoint to a new folder, whole or not at all.

    Raises:
        UserError: no folder is named, something lies there, it cannot be written, the model is quantized already, or
            what was written is not the model.
    """
    from smolalign.export.check import read_back

    out = require(source, wishes)
    place = out.name if out.is_absolute() else out.as_posix()
    quantize = partial(write_quantized, wishes.to)
    with packaged(source, out.resolve().name, place, wishes.licence, quantize=quantize) as package:
        tell(package, source, say)
        if wishes.dry_run:
            say(f"\n{package.card}")
            return
        with writing(out) as folder:
            package.write(folder)
            say(read_back(folder, source.reference, LARGEST_DEVIATION[wishes.to], weights=LARGEST_ERROR[wishes.to]))
    say(f"wrote {out}; talk to it: smolalign chat {out}")


def write_quantized(method: str, folder: Path, target: Path) -> list[str]:
    """Write the weights and the configuration of a checkpoint, its linear layers quantized.

    Embeddings, norms and the head, which bitsandbytes leaves as they are, are written in the checkpoint's own dtype
    where that has 16 bits, else in bf16.

    Args:
        method: `int8` or `nf4`.
        folder: the plain checkpoint's.
        target: gets `config.json` and the weights.

    Returns:
        The dtypes of the weights, by their names on the card.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from smolalign.model import UNREADABLE, device

    rest = torch.float16 if read_facts(folder).dtypes == ["float16"] else torch.bfloat16
    auto: Any = AutoModelForCausalLM
    try:
        model = auto.from_pretrained(
            folder,
            # int8 is rounded from what the weights are; the scales of nf4 are told the dtype to multiply in.
            dtype=torch.float32 if method == "int8" else rest,
            quantization_config=_configuration(method),
            device_map={"": device()},
        )
    except UNREADABLE as error:
        raise UserError(f"cannot be quantized: {str(error).splitlines()[0][:200]}", where=str(folder)) from None
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype == torch.float32:
            tensor.data = tensor.data.to(rest)
    model.config.dtype = rest
    model.save_pretrained(target)
    (target / "generation_config.json").unlink(missing_ok=True)
    return [method, str(rest).removeprefix("torch.")]


def _configuration(method: str) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        # The scales in 8 bits: 0.4 bits a weight less, at no loss that Dettmers et al. (2023) could measure.
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
