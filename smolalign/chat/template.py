"""The chat templates that smolalign trains with and saves with every model it makes.

A template is one Jinja text for training and inference alike. Its `{% generation %}` block spans what the assistant
writes, stop token included, which is where the loss falls.
"""

from __future__ import annotations

import json
from pathlib import Path

from smolalign.errors import UserError

STOP_TOKEN = "<|im_end|>"
# The special tokens of every template here.
TURN_TOKENS = ("<|im_start|>", STOP_TOKEN)

# The system turn that SmolLM2-Instruct was trained to see where a chat brings none (its tokenizer_config.json).
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

DEFAULT_SYSTEM = {"smollm2": SMOLLM2_SYSTEM, "chatml": "", "hermes": ""}


def chat_template(name: str) -> str:
    """The Jinja text of a template.

    Args:
        name: `smollm2`, which puts SmolLM2's own system turn before a chat that has none; `chatml`, which does not; or
            `hermes`, which writes tools, calls and tool results as Hermes does: one schema a line, one call a tag.

    Raises:
        UserError: no template has this name.
    """
    if name not in DEFAULT_SYSTEM:
        raise UserError(f"unknown chat template {name!r}", mend=f"use one of {', '.join(DEFAULT_SYSTEM)}, or model")
    file = "hermes.jinja" if name == "hermes" else "chatml.jinja"
    body = (Path(__file__).parent / "templates" / file).read_text(encoding="utf-8").rstrip("\n")
    return f"{{%- set default_system = {json.dumps(DEFAULT_SYSTEM[name])} -%}}\n{body}"
