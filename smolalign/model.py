"""Load, adapt and save models. The only module that knows where weights come from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.integrations.gguf import read_gguf_metadata

from smolalign import processes
from smolalign.adapters import base_of, is_adapter, mend_base
from smolalign.chat.template import chat_template
from smolalign.checkpoint import require_config, require_tokenizer, require_weights
from smolalign.errors import UserError
from smolalign.hub import hub_model, model_folder
from smolalign.quantization import configuration, dequantized, forget_quantization, method, rest_in_fp32
from smolalign.recipe.schema import Lora
from smolalign.store import cache_folder, digest_path, read_json, taking_turns, whole_folder
from smolalign.vocabulary import added_tokens, fit_vocabulary, speak_template

# Raised when a GGUF file is read otherwise than before: what was converted of it is kept.
_GGUF_VERSION = 2
# What Transformers raises on checkpoints that are missing, torn or not checkpoints at all.
UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError)


def device() -> torch.device:
    """The device that models run on here: the first GPU, or this process's own; else Apple's, else the CPU."""
    if processes.count() > 1 and processes.on_cpu():
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", processes.local_index()) if processes.count() > 1 else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_tokenizer(reference: str, template: str = "model") -> Tokenizer:
    """The tokenizer of a model, with the chat template that a recipe names, and with that template's tokens.

    Args:
        reference: checkpoint folder, adapter folder, `.gguf` file, or Hub id with an optional `@revision`.
        template: `smollm2`, `chatml`, `hermes`, or `model` for the model's own. Tokens of the others that the
            vocabulary lacks are added to it; `fit_vocabulary` gives the model rows for them.

    Raises:
        UserError: it cannot be loaded.
    """
    name = _location(reference)
    require_tokenizer(Path(name), reference, _mend(reference))
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except UNREADABLE as error:
        raise _not_loadable(reference, error) from None
    if template != "model":
        tokenizer.chat_template = chat_template(template)
        speak_template(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def tokens_added(reference: str, tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens of `tokenizer`, with their ids in ascending order, that a model's own tokenizer lacks."""
    return added_tokens(load_tokenizer(reference), tokenizer)


def load_model(reference: str, quantize: str | None = None) -> PreTrainedModel:
    """A causal language model, in fp32 on the CPU and in its own dtype on an accelerator. What a checkpoint holds
    quantized stays so.

    Args:
        reference: checkpoint folder, adapter folder, `.gguf` file, or Hub id with an optional `@revision`. Adapters are
            merged into their base, before it is quantized.
        quantize: `int8` or `nf4` loads the linear layers through bitsandbytes (Dettmers et al. 2022, 2023).

    Raises:
        UserError: it cannot be loaded, or is to be quantized and is so already.
    """
    if is_adapter(Path(reference)):
        return _adapted_model(Path(reference), quantize)
    name, here = _location(reference, weights=True), device()
    require_weights(Path(name), reference, _mend(reference))
    options: dict[str, Any] = {"dtype": torch.float32 if here.type == "cpu" else "auto", "use_safetensors": True}
    kept = method((read_json(Path(name) / "config.json") or {}).get("quantization_config"))
    if quantize and kept:
        mend = "leave quantize out, or name the model that it was made of"
        raise UserError(f"{reference} is quantized already ({kept})", mend=mend)
    if quantize:
        options["quantization_config"] = configuration(quantize, here)
    if quantize or kept:
        options["device_map"] = {"": here}
    # Transformers gives weights that a checkpoint lacks at random, with no more than a warning.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    auto: Any = AutoModelForCausalLM
    try:
        model, found = auto.from_pretrained(name, **options)
        _require_every_weight(found)
    except UNREADABLE as error:
        raise _not_loadable(reference, error) from None
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(
            f"{reference} is adapters on the Hub, or beside a model's weights",
            mend="name a local folder that holds the adapters alone",
        )
    if hub := hub_model(reference):
        # Adapters that are trained over it note this as their base.
        model.name_or_path = model.config.name_or_path = hub[0]
    if kept and here.type == "cpu":
        rest_in_fp32(model)
    return model if quantize or kept else on_device(model)


def quantization_kept(reference: str) -> str | None:
    """How the weights of a checkpoint are quantized: `int8`, `nf4`, or the name of another method; None where they are
    not, as those of adapters merged into their base never are.

    Raises:
        UserError: it cannot be loaded.
    """
    if is_adapter(Path(reference)):
        return None
    return method(getattr(load_config(reference), "quantization_config", None))


def load_config(reference: str) -> Any:
    """The configuration of a model, or of the base of adapters, without its weights.

    Raises:
        UserError: it cannot be loaded.
    """
    while is_adapter(Path(reference)):
        reference = base_of(Path(reference))
    try:
        return AutoConfig.from_pretrained(_location(reference))
    except UNREADABLE as error:
        raise _not_loadable(reference, error) from None


def on_device(model: Any) -> Any:
    """The model moved to the device that models run on here."""
    return model.to(device())


def lora_config(lora: Lora, rows: dict[str, list[int]] | None = None) -> LoraConfig:
    """peft's configuration of a recipe's `lora` block, with rows of the embeddings to train, by name of the layer."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        trainable_token_indices=rows,
        task_type="CAUSAL_LM",
    )


def unadapted(model: Any) -> Any:
    """The model inside its adapters, or itself where it has none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merged(
    model: PreTrainedModel | PeftModel, reference: str, quantize: str | None, folder: Path, tokenizer: Tokenizer
) -> PreTrainedModel:
    """The model with its adapters merged into full-precision weights, so that what is saved is a plain checkpoint.

    Adapters trained over quantized weights are merged into the weights that were quantized, not into their rounding.

    Args:
        model: what was trained.
        reference: where its base came from.
        quantize: how its base had been quantized.
        folder: gets a copy of the adapters, in peft's format and with the tokenizer, as `adapter/`.
        tokenizer: what the model was trained with.
    """
    if not isinstance(model, PeftModel):
        return model
    with whole_folder(folder / "adapter") as target:
        for config in model.peft_config.values():
            config.revision = (hub_model(reference) or (None, None))[1]
        # The rows of added tokens are saved as adapters are, so the embeddings themselves need not be.
        model.save_pretrained(str(target), save_embedding_layers=False)
        tokenizer.save_pretrained(target)
    if quantize or quantization_kept(reference):
        return _merge(folder / "adapter", reference)
    return model.merge_and_unload()


def _merge(folder: Path, base: str) -> PreTrainedModel:
    """A base model, in full precision, with the adapters of a folder merged into its weights."""
    try:
        model = load_model(base)
        if quantization_kept(base):
            model = dequantized(model)
    except UserError as error:
        raise UserError(f"the base model of the adapters in {folder}: {error.what}", mend=mend_base(folder)) from None
    fit_vocabulary(model, tokens_added(base, load_tokenizer(str(folder))))
    try:
        if PeftConfig.from_pretrained(str(folder)).is_prompt_learning:
            raise ValueError("they are prompts, which cannot be merged into weights")
        adapted = PeftModel.from_pretrained(model, str(folder))
        # peft only warns of adapters that do not fit; loading once more tells which those are.
        found = adapted.load_adapter(str(folder), "default")
    except (*UNREADABLE, TypeError) as error:
        raise _adapters_unfit(folder, base, str(error)) from None
    if unfit := sorted([*found.missing_keys, *found.unexpected_keys]):
        raise _adapters_unfit(folder, base, f"{len(unfit)} weights are missing or too many, such as {unfit[0]}")
    return adapted.merge_and_unload()


def _adapted_model(folder: Path, quantize: str | None) -> PreTrainedModel:
    """The model that an adapter folder stands for, quantized after its adapters are merged."""
    model = _merge(folder, base_of(folder))
    if quantize:
        with tempfile.TemporaryDirectory() as place:
            model.save_pretrained(place)
            model = load_model(place, quantize)
    # Adapters that are trained over it note this as their base.
    model.name_or_path = str(folder)
    return model


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, target: Path, state: dict[str, Any] | None = None) -> None:
    """Write a checkpoint in Transformers format, whole or not at all: weights, tokenizer, template, generation config.

    Generation stops at the tokenizer's end of sequence, which is the template's stop token.

    Args:
        model: what to save.
        tokenizer: goes with it.
        target: the folder that the checkpoint becomes.
        state: its weights by name, where the model itself holds only a share of them.
    """
    model.set_attn_implementation("sdpa")
    model.config.use_cache = True
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if state is not None:
        # Weights that are one and the same are gathered under each of their names.
        state = {name: value for name, value in state.items() if name not in model.all_tied_weights_keys}
    with whole_folder(target) as folder:
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)


def _location(reference: str, *, weights: bool = False) -> str:
    """The folder that `from_pretrained` takes, with the model's weights in it where they are asked for."""
    if reference.endswith(".gguf"):
        return str(_converted_gguf(Path(reference)))
    folder = Path(reference)
    if is_adapter(folder):
        return reference if (folder / "tokenizer_config.json").is_file() else _location(base_of(folder))
    if hub := hub_model(reference):
        folder = model_folder(*hub, weights=weights)
        if is_adapter(folder):
            mend = "download the adapters and name the folder that holds them"
            raise UserError(f"{reference} is adapters on the Hub", mend=mend)
    elif not folder.is_dir():
        raise UserError(f"cannot load the model {reference}: there is no such folder", mend="name a checkpoint folder")
    require_config(folder, reference, _mend(reference))
    return str(folder)


def _mend(reference: str) -> str:
    """What to do about a checkpoint that is broken."""
    if hub := hub_model(reference):
        return f"download it anew: `hf cache rm model/{hub[0]}`, then the same command"
    return "name a whole checkpoint"


def _converted_gguf(file: Path) -> Path:
    """A GGUF file as a checkpoint folder in the cache: reading GGUF dequantizes it, slowly, so that is done once."""
    target = cache_folder() / "gguf" / f"{digest_path(file)[:16]}-{_GGUF_VERSION}"
    with taking_turns(target):
        if not (target / "config.json").is_file():
            _convert_gguf(file, target)
    return target


def _convert_gguf(file: Path, target: Path) -> None:
    options = {"gguf_file": file.name}
    try:
        tokenizer = load_gguf_tokenizer(file)
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
    except UNREADABLE as error:
        raise _not_loadable(str(file), error) from None
    forget_quantization(model)
    with whole_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load_gguf_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer in a GGUF file, through Transformers, which knows not every name of a pre-tokenizer.

    It reads `smollm`, where each digit is a piece of its own, as GPT-2's: two spaces before a digit come out otherwise.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    if read_gguf_metadata(str(file))[0].get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _require_every_weight(found: dict[str, Any]) -> None:
    """Raise ValueError where the checkpoint does not hold each weight that its config asks for, in its shape."""
    lacking = sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])
    if lacking:
        raise ValueError(f"{len(lacking)} weights are missing or do not fit its config, such as {lacking[0]}")


def _adapters_unfit(folder: Path, base: str, why: str) -> UserError:
    first = why.strip().splitlines()[0] if why.strip() else "they cannot be read"
    return UserError(f"the adapters in {folder} do not fit {base}: {first[:300]}", mend=mend_base(folder))


def _not_loadable(reference: str, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    mend = "name another model or revision" if hub_model(reference) else "name a whole checkpoint"
    return UserError(f"cannot load the model {reference}: {first[:300]}", mend=mend)
