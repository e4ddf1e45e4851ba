"""What the small commands share on the command line. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

# The model whose card names these tasks: https://huggingface.co/HuggingFaceTB/SmolLM2-1.7B-Instruct
DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"


@dataclass(frozen=True)
class Wishes:
    """Which model writes, and how.

    Attributes:
        model: checkpoint folder, adapter folder, `.gguf` file or Hub id.
        max_new_tokens: longest reply, in tokens; None for what the command thinks right.
        temperature: 0 decodes greedily.
        seed: of the sampling; the same for every reply.
    """

    model: str = DEFAULT_MODEL
    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
