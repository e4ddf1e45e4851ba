"""A published classifier of educational value: an encoder with one output, on the device that models run on here.

As its card says to use it: the text as it is, cut at the end of what the model reads (512 tokens of FineWeb-Edu's and
FineMath's, 1024 of Stack-Edu's), and the output taken for the score.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from smolalign.errors import UserError
from smolalign.model import UNREADABLE, on_device

# Tokens computed at once, padding included, on a GPU and elsewhere.
_TOKENS_GPU, _TOKENS_CPU = 65_536, 4_096
# Where neither tokenizer nor model says how much it reads.
_LENGTH = 512


class Classifier:
    """A classifier that has been loaded."""

    def __init__(self, folder: Path, reference: str) -> None:
        """Load it from its folder; `reference` is what it is called. Raises UserError where that fails."""
        if multiprocessing.parent_process() is not None and not torch.cuda.is_available():
            torch.set_num_threads(1)  # One of several workers, each of which has a core.
        auto: Any = AutoModelForSequenceClassification
        options = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, found = auto.from_pretrained(folder, output_loading_info=True, **options)
        except UNREADABLE as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"cannot load the classifier {reference}: {first[:200]}", mend="download it again"
            ) from None
        if missing := sorted(found["missing_keys"]):
            what = f"cannot load the classifier {reference}: it lacks weights, such as {missing[0]}"
            raise UserError(what, mend="name a classifier that was trained")
        self._model: Any = on_device(model.eval())
        self._length = min(
            self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _LENGTH) or _LENGTH
        )

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> np.ndarray:
        """The scores of texts, float64, as they come out: neither rounded nor held between 0 and 5."""
        if not texts:
            return np.zeros(0)
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._length)["input_ids"]
        scores = np.zeros(len(texts))
        on_gpu = self._model.device.type == "cuda"
        for batch in _batches([len(one) for one in ids], _TOKENS_GPU if on_gpu else _TOKENS_CPU):
            tokens, mask = _padded([ids[place] for place in batch])
            with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
                given = self._model(input_ids=tokens.to(self._model.device), attention_mask=mask.to(self._model.device))
            scores[batch] = given.logits[:, 0].double().cpu().numpy()
        return scores


def _batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places of texts of about one length together, the longest first, so that little is padded."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _padded(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and what of them is no padding, both int64 [texts, longest]; what pads is never looked at."""
    longest = max(1, max(map(len, ids)))
    tokens = torch.zeros(len(ids), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
        mask[row, : len(one)] = 1
    return tokens, mask
