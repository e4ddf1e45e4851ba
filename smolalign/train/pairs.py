"""Preference pairs as one row without padding in which both answers share their prompt.

TRL's DPO trainer computes its losses from a padded batch of prompt and answer, every prompt in it twice. That batch
stays what the trainer sees. Between it and the model's layers, `share_prompts` puts one row: prompt, chosen answer,
rejected answer, and the next pair. The chosen answer follows its prompt; the rejected one takes the prompt's keys and
values and the positions after it, so each is computed as if it stood alone behind the prompt.
"""

from __future__ import annotations

import types
from itertools import accumulate
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference


class PairCollator(DataCollatorForPreference):
    """TRL's padded batch, and with it how the same pairs lie in one row.

    Adds to TRL's `input_ids`, `attention_mask` and `completion_mask`, each `[2 * pairs, length]`, chosen before
    rejected: `row_index` `[tokens]`, where in the flattened batch each token of the row stands; `padded_index`
    `[2 * pairs, length]`, where in the row each token of the batch stands, padding at 0; `position_ids` `[1, tokens]`;
    and what `attention.py` reads: `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`, `max_length_k`, `key_index`.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        sizes = [tuple(len(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")) for row in examples]
        return {**batch, **row_layout(sizes, batch["input_ids"].shape[1])}


def row_layout(sizes: list[tuple[int, ...]], length: int) -> dict[str, Any]:
    """How pairs lie in one row, as `PairCollator` describes it.

    Args:
        sizes: tokens of the prompt, the chosen and the rejected answer of each pair.
        length: of the padded batch.
    """
    row, positions, keys = [], [], []
    padded = torch.zeros(2 * len(sizes), length, dtype=torch.long)
    queries_of, keys_of = [], []
    start = 0
    for index, (prompt, chosen, rejected) in enumerate(sizes):
        one, other = torch.arange(prompt + chosen), torch.arange(prompt, prompt + rejected)
        row += [index * length + one, (len(sizes) + index) * length + other]
        positions += [one, other]
        in_row = start + torch.arange(prompt + chosen + rejected)
        behind_prompt = torch.cat([in_row[:prompt], in_row[prompt + chosen :]])
        padded[index, : prompt + chosen] = in_row[: prompt + chosen]
        padded[len(sizes) + index, : prompt + rejected] = behind_prompt
        keys += [in_row[: prompt + chosen], behind_prompt]
        queries_of += [prompt + chosen, rejected]
        keys_of += [prompt + chosen, prompt + rejected]
        start += prompt + chosen + rejected
    return {
        "row_index": torch.cat(row),
        "padded_index": padded,
        "position_ids": torch.cat(positions)[None],
        "key_index": torch.cat(keys),
        "cu_seq_lens_q": torch.tensor([0, *accumulate(queries_of)], dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor([0, *accumulate(keys_of)], dtype=torch.int32),
        "max_length_q": max(queries_of),
        "max_length_k": max(keys_of),
    }


def share_prompts(backbone: Any) -> None:
    """Make the layers of a model compute a `PairCollator` batch as one row; other batches are computed as before.

    Args:
        backbone: the model without its language-model head (`base_model`), changed in place. Its
            `last_hidden_state` is `[2 * pairs, length, width]` again, that of the row's first token where padding is.
    """
    padded_forward = backbone.forward

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        *,
        row_index: torch.Tensor | None = None,
        padded_index: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        if row_index is None or padded_index is None:
            return padded_forward(input_ids=input_ids, **options)
        assert input_ids is not None
        options["attention_mask"] = None
        output = padded_forward(input_ids=input_ids.reshape(-1)[row_index][None], **options)
        output.last_hidden_state = output.last_hidden_state[0][padded_index]
        return output

    backbone.forward = types.MethodType(forward, backbone)
