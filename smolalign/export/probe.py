"""What an export and its model are asked alike: texts and chats, as which tokens, and what is computed of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smolalign.chat.generation import positions
from smolalign.errors import UserError

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
    "Grüße aus Köln — «ça va»? 今日は。 Привет! 🙂  two  spaces,\ttab\r\n<|im_end|> and\n\n\nlines",
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
_BRIEF = {"role": "system", "content": "Be brief."}
_RESULT = {"role": "tool", "name": "get_weather", "content": '{"sky": "clear"}'}
# Conversations with the tools that are offered in them, which templates need not know. Those that a person's turn or a
# tool's ends are rendered up to where the reply begins.
CHATS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...] = (
    ([_ASK], []),
    ([{"role": "system", "content": "You answer in one word."}, _ASK], []),
    ([_ASK, {"role": "assistant", "content": "It is sunny."}, {"role": "user", "content": "And in Rome?"}], []),
    ([_ASK], [TOOL]),
    ([_ASK, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, _RESULT], [TOOL]),
    ([_BRIEF, {"role": "user", "content": "Köln <today>?"}, {"role": "assistant", "content": "None."}], []),
)
# Longer texts are cut here before they are computed with.
MOST_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Words:
    """What a tokenizer makes of the probes.

    Attributes:
        ids: tokens of each text, and of each chat that is rendered.
        rendered: the chats through its template, None where it refuses one; empty without a template.
        stop: the id of its stop token.
    """

    ids: list[list[int]]
    rendered: list[str | None]
    stop: int | None


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far the logits of an export are from the model's.

    A token is a near tie where the model's two largest logits are no further apart than a hundredth of the spread of
    all of them (four standard deviations): rounding turns it over without harm.

    Attributes:
        largest: difference of two logits.
        relative: root mean square of the differences, over that of the model's logits around their mean.
        agreement: the share of tokens, near ties left out, after which both find the same token likeliest.
        decided: the share of tokens that are no near ties.
        tokens: that were compared.
    """

    largest: float
    relative: float
    agreement: float
    decided: float
    tokens: int

    def line(self) -> str:
        """In words."""
        ties = "" if self.decided == 1 else f" ({1 - self.decided:.1%} near ties left out)"
        return (
            f"logits within {self.largest:.2g} of the model's ({self.relative:.2%} of their spread), "
            f"first choice the same at {self.agreement:.2%} of {self.tokens} places{ties}"
        )


def words(tokenizer: Any) -> Words:
    """The texts and chats, rendered, as tokens."""
    chats = rendered(tokenizer)
    ids = [list(tokenizer(text)["input_ids"]) for text in TEXTS]
    ids += [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in chats if text is not None]
    return Words(ids, chats, tokenizer.eos_token_id)


def rendered(tokenizer: Any, template: str | None = None) -> list[str | None]:
    """The chats through a template, by default the tokenizer's own; see `Words`."""
    return [_render(tokenizer, template, *chat) for chat in CHATS] if tokenizer.chat_template else []


def _render(tokenizer: Any, template: str | None, messages: list[Any], tools: list[Any]) -> str | None:
    from jinja2 import TemplateError

    asked = messages[-1]["role"] != "assistant"
    options = {"tools": tools or None, "chat_template": template, "add_generation_prompt": asked}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, KeyError, TypeError):
        return None


def difference(model: Words, export: Words) -> str | None:
    """What an export's tokenizer does otherwise than the model's; None where nothing."""
    for what, one, other in (
        ("renders a chat in another way", model.rendered, export.rendered),
        ("cuts a text into other tokens", model.ids, export.ids),
        ("has another stop token", model.stop, export.stop),
    ):
        if one != other:
            return f"{what} than the model"
    return None


def logits(model: Any, ids: Sequence[Sequence[int]]) -> list[Any]:
    """The logits of a model after each token of each text, `[tokens, vocabulary]` float32, on the CPU.

    Texts are cut to `MOST_TOKENS`, or to what the model reads.
    """
    import torch

    was_training, most = model.training, min(positions(model), MOST_TOKENS)
    model.eval()
    with torch.inference_mode():
        found = [model(torch.tensor([text[:most]], device=model.device)).logits[0].float().cpu() for text in ids]
    model.train(was_training)
    return found


def deviation(model: Sequence[Any], export: Sequence[Any]) -> Deviation:
    """Compare the logits of two models, `[tokens, vocabulary]` each.

    Raises:
        UserError: they are not of one shape.
    """
    import torch

    shapes = [[list(one.shape) for one in both] for both in (model, export)]
    if shapes[0] != shapes[1]:
        raise UserError(f"the export gives logits of shape {shapes[1][0]}, and the model of {shapes[0][0]}")
    ours, theirs = torch.cat(list(model)), torch.cat(list(export))
    apart = theirs - ours
    spread = (ours - ours.mean(-1, keepdim=True)).square().mean().sqrt()
    best = ours.topk(2, dim=-1).values
    decided = best[:, 0] - best[:, 1] > 0.04 * ours.std(dim=-1)
    same = (ours.argmax(-1) == theirs.argmax(-1))[decided].float()
    return Deviation(
        largest=float(apart.abs().max()),
        relative=float(apart.square().mean().sqrt() / spread.clamp(min=1e-12)),
        agreement=float(same.mean()) if len(same) else 1.0,
        decided=float(decided.float().mean()),
        tokens=len(ours),
    )
