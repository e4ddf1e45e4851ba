"""A reply as it is written: whole characters, told ends, no endless loop."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from smolalign.chat.generation import LOOP_PASSAGE, LOOP_TIMES, LOOP_TOKENS, LoopGuard, TextStream, write_reply
from smolalign.chat.grammar import json_schema, tool_calls
from smolalign.chat.render import render_prompt
from smolalign.errors import UserError
from smolalign.model import load_model, load_tokenizer
from smolalign.rows import Message

Loaded = tuple[Any, Any]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load_model(str(tiny_model)).eval(), load_tokenizer(str(tiny_model))


def streamed(tokenizer: Any, ids: list[int]) -> list[str]:
    pieces: list[str] = []
    stream = TextStream(tokenizer, pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))
    for token in ids:
        stream.put(torch.tensor([token]))
    stream.end()
    assert "".join(pieces) == stream.text
    return pieces


def test_a_character_of_several_tokens_comes_whole(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    text = "né – 日本 👍🏽 ok"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(text)
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)
    assert len(pieces) >= 9  # it is not kept back for longer than needed


def test_whatever_the_tokens_the_pieces_make_up_their_text(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    draw = random.Random(3)
    hidden = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    for _ in range(200):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(30))]
        kept = [token for token in ids if token not in hidden]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(kept, clean_up_tokenization_spaces=False)


def test_tags_that_are_special_tokens_are_part_of_the_text_and_the_stop_token_is_not(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tags = [AddedToken(tag, special=True, normalized=False) for tag in ("<tool_call>", "</tool_call>")]
    tokenizer.add_tokens(tags, special_tokens=True)
    ids = tokenizer.encode("<tool_call>[]</tool_call><|im_end|>", add_special_tokens=False)
    assert len(ids) == 5
    assert "".join(streamed(tokenizer, ids)) == "<tool_call>[]</tool_call>"


def stops_after(ids: list[int]) -> int | None:
    """After how many tokens of a reply the guard stops it."""
    guard, prompt = LoopGuard(3), [7, 7, 7]
    for length in range(1, len(ids) + 1):
        stopped = guard(torch.tensor([prompt + ids[:length]]), None)  # type: ignore[arg-type]
        assert stopped.shape == (1,)
        if stopped.item():
            return length
    return None


@pytest.mark.parametrize("period", [1, 2, 5, 20, LOOP_PASSAGE])
def test_a_passage_over_and_over_is_stopped_after_so_many_times(period: int) -> None:
    passage = list(range(100, 100 + period))
    after = max(LOOP_TOKENS, LOOP_TIMES * period)
    assert stops_after(passage * 100) == after
    assert stops_after([9, 8] + passage * 100) == after + 2
    assert stops_after([*(passage * 100)[: after - 1], 5, *(passage * 100)[: after - 1]]) is None


def test_text_that_repeats_itself_less_is_not_stopped() -> None:
    draw = random.Random(0)
    assert stops_after([draw.randrange(4) for _ in range(3000)]) is None
    # Rows of a table: each is the same but for one cell.
    assert stops_after([token for row in range(100) for token in (1, 2, 3, 4, 100 + row, 5)]) is None


def reply_to(loaded: Loaded, most: int = 40, temperature: float = 0.0, held_to: Any = None, said: Any = None) -> Any:
    model, tokenizer = loaded
    prompt = render_prompt(tokenizer, (Message("user", "Hi"),))
    pieces: list[str] = []
    reply = write_reply(
        model, tokenizer, prompt, said or pieces.append, max_new_tokens=most, temperature=temperature, held_to=held_to
    )
    assert said or reply.text == "".join(pieces)
    return reply


def constant(model: Any, token: int) -> Any:
    """The model, made to say one token for ever."""
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[token] = 50.0
    model.lm_head = head
    return model


def test_a_model_that_says_one_thing_for_ever_is_cut_off(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)).eval(), load_tokenizer(str(tiny_model))
    (token,) = tokenizer.encode("a", add_special_tokens=False)
    for temperature in (0.0, 1.0):
        reply = reply_to((constant(model, token), tokenizer), 200, temperature)
        assert (reply.text, reply.ended) == ("a" * LOOP_TOKENS, "loop")


def test_the_ends_of_a_reply_are_told_apart(tiny_model: Path, loaded: Loaded) -> None:
    tokenizer = loaded[1]
    stopping = constant(load_model(str(tiny_model)).eval(), tokenizer.eos_token_id)
    assert reply_to((stopping, tokenizer)).ended == "stop"
    assert reply_to((stopping, tokenizer)).text == ""
    assert reply_to(loaded, 5).ended == "length"
    torch.manual_seed(0)
    held = reply_to(loaded, 40, 1.0, json_schema({"enum": ["a", "b"]}).processor(tokenizer))
    assert (held.text in ('"a"', '"b"'), held.ended) == (True, "stop")


def test_a_call_is_written_with_its_tags(loaded: Loaded) -> None:
    held_to = tool_calls([{"name": "now"}], required=True).processor(loaded[1])
    torch.manual_seed(0)
    reply = reply_to(loaded, 200, 1.0, held_to)
    assert reply.text.startswith('<tool_call>[{"name": "now", "arguments": {}}')
    assert reply.text.endswith("]</tool_call>")


def test_ctrl_c_ends_the_reply_and_keeps_what_was_said(loaded: Loaded) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        torch.manual_seed(0)
        reply = reply_to(loaded, 200, 1.0, said=say)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reply.ended == "interrupted"
    assert reply.text == "".join(said)
    assert 4 <= len(said) < 20


def test_a_conversation_too_long_for_the_model_is_refused_and_a_long_one_is_cut_where_the_positions_end(
    loaded: Loaded,
) -> None:
    model, tokenizer = loaded
    with pytest.raises(UserError, match="256 tokens long, and the model reads 256 at most → /undo"):
        write_reply(model, tokenizer, [5] * 256, print, max_new_tokens=5, temperature=0)
    pieces: list[str] = []
    torch.manual_seed(1)
    reply = write_reply(model, tokenizer, [5] * 255, pieces.append, max_new_tokens=5, temperature=1.0)
    assert reply.ended == "length"
    assert reply.text in {tokenizer.decode([token]) for token in range(len(tokenizer))}
