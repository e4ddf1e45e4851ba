"""A model that begins with an induction head looks one token back, and copies after little training."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import tiny_tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from smolalign.recipe.pretraining import Architecture
from smolalign.train.pretrain import new_model

LENGTH = 48


def model_of(induction_head: bool) -> LlamaForCausalLM:
    sizes = Architecture(
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_theta=100000,
        initializer_range=0.08,
        induction_head=induction_head,
    )
    return new_model(sizes, tiny_tokenizer(), seed=0)


@pytest.mark.parametrize("induction_head", [True, False])
def test_the_first_head_of_the_first_layer_looks_one_token_back_if_it_is_to(induction_head: bool) -> None:
    model = model_of(induction_head)
    model.set_attn_implementation("eager")
    ids = torch.randint(20, model.config.vocab_size, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    weights = model(ids, output_attentions=True).attentions[0][:, 0]
    one_back = weights.diagonal(offset=-1, dim1=1, dim2=2).mean().item()
    assert one_back > 0.5 if induction_head else one_back < 0.2


@pytest.mark.parametrize(("induction_head", "copies"), [(True, True), (False, False)])
def test_copying_of_unseen_pairs_is_learned_in_150_steps_with_the_head_and_not_without(
    induction_head: bool, copies: bool
) -> None:
    torch.manual_seed(0)
    chance = random.Random(0)
    model = model_of(induction_head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    right: list[float] = []
    for _ in range(150):
        ids, repeated = batch_of_pairs(chance, model.config.vocab_size)
        logits = model(ids).logits[:, :-1]
        cross_entropy(logits.transpose(1, 2), ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        right.append((logits.argmax(-1) == ids[:, 1:])[repeated[:, 1:]].float().mean().item())
    accuracy = sum(right[-10:]) / 10
    assert accuracy > 0.7 if copies else accuracy < 0.4


def batch_of_pairs(chance: random.Random, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """16 rows of 4 pairs of tokens that come again and again in any order, and where a second token was seen before."""
    rows, marks = [], []
    for _ in range(16):
        tokens = chance.sample(range(20, vocabulary), 8)
        row: list[int] = []
        mark: list[bool] = []
        seen: set[int] = set()
        while len(row) < LENGTH:
            pair = chance.randrange(4)
            row += tokens[2 * pair : 2 * pair + 2]
            mark += [False, pair in seen]
            seen.add(pair)
        rows.append(row[:LENGTH])
        marks.append(mark[:LENGTH])
    return torch.tensor(rows), torch.tensor(marks)
