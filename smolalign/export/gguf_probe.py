"""Texts on which an export is compared with its original: what each makes tokens of, and what each computes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog looks up, yawns, and goes back to sleep in the sun.",
    "In 1969, 600 million people watched; 3.14159 is not 22/7.  12  345   6789\n\n42%\t-0.5e-3 (7 x 8 = 56).",
    "It's what they'd said: \"We're late!\" – I'LL wait, he didn’t… and that was all that I heard of it that evening.",
    "def area(r):\n    # of a circle\n\tif r < 0:\r\n        raise ValueError('r')\n    return 3.14 * r ** 2\n",
    "Zürich, São Paulo, Αθήνα, Москва, القاهرة, दिल्ली, 北京の天気, 서울 👩‍🚀🎉 e\u0301 ﬁ ½ Ⅷ",
    "Water boils at a lower temperature on a mountain because the air presses on it less. The higher one climbs, the",
    "<|im_start|>user\n<|endoftext|> <|im_end|>\n <tool_call>[]</tool_call> <unk> </s>",
    '{"name": "get_weather", "arguments": {"city": "Bern", "days": 3, "units": ["C", "F"], "wind": null}}\n',
    " leading and trailing spaces   ",
    "Once upon a time there was a small boat that wanted to cross the lake before the storm came. It asked the wind:",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, <now> & later",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_ASK = {"role": "user", "content": "What is the weather in Bern?"}
_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bern", "days": 3}}}
_RESULT = {"role": "tool", "name": "get_weather", "content": '{"sky": "clear"}'}
# Conversations with the tools that are offered in them. Templates need not know tools, so these come last.
CHATS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...] = (
    ([_ASK], []),
    ([{"role": "system", "content": "You answer in one word."}, _ASK], []),
    ([_ASK, {"role": "assistant", "content": "It is sunny."}, {"role": "user", "content": "And in Rome?"}], []),
    ([_ASK], [TOOL]),
    ([_ASK, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, _RESULT], [TOOL]),
)
# Longer texts are cut here before they are computed with.
MOST_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the logits of two models differ, over all places of all texts.

    Attributes:
        places: how many places of a text have logits.
        decided: of these, the share at which the original's first choice stands clear of its second.
        same: of the decided ones, the share at which the other model's first choice is the same.
        largest: the largest difference of two logits.
    """

    places: int
    decided: float
    same: float
    largest: float


def rendered(tokenizer: Any, template: str | None = None) -> list[str]:
    """What a template makes of the chats, by default the tokenizer's own; no texts where it has none."""
    from jinja2 import TemplateError

    texts: list[str] = []
    for messages, tools in CHATS if tokenizer.chat_template else ():
        try:
            options = {"tools": tools or None, "chat_template": template, "add_generation_prompt": True}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except (TemplateError, KeyError, TypeError):
            text = "(refused)"
        texts.append(text)
    return texts


def token_ids(tokenizer: Any) -> list[list[int]]:
    """The texts and rendered chats as tokens."""
    texts = [tokenizer(text)["input_ids"] for text in TEXTS]
    return [*texts, *(tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered(tokenizer))]


def logits(model: Any, ids: list[list[int]], most: int) -> list[Any]:
    """The logits of a model at each place of each text, `[tokens, vocabulary]` float32.

    Args:
        model: a causal language model.
        ids: texts as tokens.
        most: how many tokens of a text the model can read.
    """
    import torch

    with torch.inference_mode():
        cut = [text[: min(most, MOST_TOKENS)] for text in ids if text]
        return [model(torch.tensor([text], device=model.device)).logits[0].float().cpu() for text in cut]


def agreement(original: list[Any], other: list[Any]) -> Agreement:
    """Compare two models by their logits of the same texts.

    A place is decided where the original's two largest logits are further apart than a hundredth of the spread of all
    of them (four standard deviations): rounding turns the others over without harm.
    """
    import torch

    first, second = torch.cat(original), torch.cat(other)
    best = first.topk(2, dim=-1).values
    decided = best[:, 0] - best[:, 1] > 0.04 * first.std(dim=-1)
    same = (first.argmax(-1) == second.argmax(-1))[decided].float()
    return Agreement(
        places=len(first),
        decided=decided.float().mean().item(),
        same=same.mean().item() if len(same) else 1.0,
        largest=(first - second).abs().max().item(),
    )
