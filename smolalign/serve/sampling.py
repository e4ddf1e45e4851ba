"""How one row's next token is chosen from its logits, in the terms of OpenAI's API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

# Below this a division by the temperature would overflow, and only the likeliest token has any weight.
GREEDY = 1e-4


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request says about choice: `bias` is added to the logits of token ids, both penalties are taken from those
    of tokens written already, as OpenAI defines them. Without a seed every run is another one."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)


class Chooser:
    """Chooses the tokens of one row. It has random numbers of its own, so that other rows do not change its choice.

    Args:
        sampling: what the request says.
        prompt: ids of the prompt, which a constraint is told with what follows.
        constraint: a logits processor for a batch of one row, or None.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], constraint: Any = None) -> None:
        self._sampling, self._constraint = sampling, constraint
        self._ids, self._written = list(prompt), Counter[int]()
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token by the logits of all, `[vocabulary]`, fp32 on the CPU.

        Raises:
            ValueError: nothing may follow, as where a constraint leaves no token.
        """
        scores = self._weighed(logits.clone())[None]
        if self._constraint is not None:
            scores = self._constraint(torch.tensor([self._ids]), scores)
        if not torch.isfinite(scores).any():
            raise ValueError("no token may follow")
        chosen = self._drawn(scores)
        self._ids.append(chosen)
        self._written[chosen] += 1
        return chosen

    def _weighed(self, scores: torch.Tensor) -> torch.Tensor:
        sampling = self._sampling
        for token, bias in sampling.bias.items():
            scores[token] += bias
        if sampling.frequency_penalty or sampling.presence_penalty:
            for token, count in self._written.items():
                scores[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
        return scores

    def _drawn(self, scores: torch.Tensor) -> int:
        sampling, none = self._sampling, torch.empty(0, dtype=torch.long)
        if sampling.temperature < GREEDY:
            return int(scores.argmax())
        if sampling.temperature != 1.0:
            scores = TemperatureLogitsWarper(sampling.temperature)(none, scores)
        if sampling.top_p < 1.0:
            scores = TopPLogitsWarper(sampling.top_p)(none, scores)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._random))
