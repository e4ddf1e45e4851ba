"""Tokens that a chat template needs and a vocabulary lacks: in the tokenizer, and as rows of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import AddedToken

from smolalign.chat.template import STOP_TOKEN, TURN_TOKENS
from smolalign.errors import UserError


def speak_template(tokenizer: Any) -> None:
    """Make the tokens of smolalign's templates single tokens, the stop token the end of sequence, and pad with another.

    Tokens that the vocabulary lacks come after its last. Padding is never the stop token: who masks padding by its id
    would hide the stop token from the loss.
    """
    for token in TURN_TOKENS:
        if not _is_single(tokenizer, token):
            tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    before, tokenizer.eos_token = tokenizer.eos_token, STOP_TOKEN
    if tokenizer.pad_token in (None, STOP_TOKEN):
        others = (before, tokenizer.unk_token, tokenizer.bos_token, *TURN_TOKENS)
        tokenizer.pad_token = next(token for token in others if token not in (None, STOP_TOKEN))


def _is_single(tokenizer: Any, token: str) -> bool:
    number = tokenizer.get_vocab().get(token)
    return number is not None and number in tokenizer(token, add_special_tokens=False)["input_ids"]


def added_tokens(before: Any, after: Any) -> dict[str, int]:
    """The tokens, and their ids in ascending order, that one tokenizer has and another lacks."""
    known = before.get_vocab()
    added = {token: number for token, number in after.get_vocab().items() if token not in known}
    return dict(sorted(added.items(), key=lambda item: item[1]))


@torch.no_grad()
def fit_vocabulary(model: Any, added: Mapping[str, int]) -> None:
    """Give each added token a row in the embeddings and in the head: the mean of the rows before the first of them.

    With the mean, the added tokens take little probability from the others, while rows drawn at random can take nearly
    all of it (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"). Transformers' own
    `mean_resizing` draws from a narrow normal distribution around the mean instead, and leaves out rows that a
    vocabulary has to spare. Such rows are used here; the embeddings never shrink.

    Args:
        model: the causal language model, without adapters; changed in place.
        added: ids by token, as `added_tokens` gives them.
    """
    if not added:
        return
    ids = list(added.values())
    embeddings = model.get_input_embeddings()
    if ids[-1] >= len(embeddings.weight):
        model.resize_token_embeddings(ids[-1] + 1, mean_resizing=False)
    for layer in (embeddings, model.get_output_embeddings()):
        for parameter in (layer.weight, getattr(layer, "bias", None)):
            if parameter is not None:
                parameter[ids] = parameter[: ids[0]].float().mean(0).to(parameter.dtype)


def rows_to_train(model: Any, added: Mapping[str, int]) -> dict[str, list[int]] | None:
    """The rows of added tokens by name of the layer, as peft's `trainable_token_indices`; None where there are none.

    A head tied to the embeddings is not named: peft lets it follow them.

    Raises:
        UserError: the head has a bias, which peft would leave out of the logits.
    """
    if not added:
        return None
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(
            f"the model's head has a bias, so {named(added)} cannot be trained beside adapters",
            mend="train all weights: leave out lora",
        )
    layers = [embeddings] if head.weight is embeddings.weight else [embeddings, head]
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(layer)]: list(added.values()) for layer in layers}


def give_head_its_bias(model: Any) -> None:
    """Let a head whose rows peft trains have the attribute `bias`, which TRL reads; such a head has none."""
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None


def named(added: Mapping[str, int]) -> str:
    """The tokens, for a sentence."""
    return ", ".join(added)
