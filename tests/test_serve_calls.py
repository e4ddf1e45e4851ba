"""Calls that a model makes of its own accord, over the API, where nothing could hold it to a grammar."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from conftest import tiny_tokenizer
from test_serve import CLOCK, HI, KEY, LIGHTS, TOOLS, Server

from smolalign.chat.render import render_chat
from smolalign.model import save_model
from smolalign.recipe.pretraining import Architecture
from smolalign.rows import Chat, Message, ToolCall
from smolalign.train.pretrain import new_model

CALLS = (ToolCall("clock", {"zone": "UTC"}), ToolCall("set_lights", {"room": "hall", "on": True}))
LEARNED = (
    Chat((Message("user", "Hi"), Message("assistant", "Sure.", CALLS)), (LIGHTS, CLOCK)),
    Chat((Message("user", "Hi"), Message("assistant", "Hello."))),
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows two answers by heart: two calls where it is shown tools, else a word."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    sizes = Architecture(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    model = new_model(sizes, tokenizer, seed=0)
    rows = [render_chat(tokenizer, chat) for chat in LEARNED]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        for row in rows:
            ids = torch.tensor([row.ids])
            model(input_ids=ids, labels=torch.where(torch.tensor([row.trained]), ids, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("learned") / "model"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has no llguidance."""
    without = tmp_path_factory.mktemp("without")
    (without / "llguidance.py").write_text("raise ImportError\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(without), os.environ.get("PYTHONPATH")))))
        server = Server(model_folder, "--api-key", KEY)
    yield server
    code, _, err = server.stop()
    assert (code, err) == (0, "")


@pytest.fixture(scope="module")
def asked(server: Server) -> dict[str, Any]:
    return {"model": server.name, "messages": HI, "temperature": 0, "max_tokens": 200}


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}])
def test_calls_are_read_and_streamed_without_a_grammar(
    choice: dict[str, Any], server: Server, asked: dict[str, Any]
) -> None:
    made = [(call.name, call.arguments) for call in CALLS[: 1 if "parallel_tool_calls" in choice else None]]
    asked = {**asked, "tools": TOOLS, **choice}
    [whole] = server.client().chat.completions.create(**asked).choices
    with server.client().chat.completions.stream(**asked) as stream:
        [streamed] = stream.get_final_completion().choices
    for answer in (whole, streamed):
        assert answer.finish_reason == "tool_calls"
        assert (answer.message.content or "").strip() == "Sure."
        calls = [call.function for call in answer.message.tool_calls or []]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == made


@pytest.mark.parametrize("limit", [{"max_tokens": 30}, {"stop": "UTC"}])
def test_a_call_that_was_cut_is_text_and_no_call(limit: dict[str, Any], server: Server, asked: dict[str, Any]) -> None:
    asked = {**asked, "tools": TOOLS, **limit}
    [whole] = server.client().chat.completions.create(**asked).choices
    chunks = [chunk.choices[0] for chunk in server.client().chat.completions.create(**asked, stream=True)]
    assert whole.finish_reason == chunks[-1].finish_reason == ("stop" if "stop" in limit else "length")
    assert whole.message.tool_calls is None
    assert str(whole.message.content).startswith('Sure.\n<tool_call>[{"name": "clock"')
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content


def test_with_no_tools_to_choose_the_model_is_shown_none(server: Server, asked: dict[str, Any]) -> None:
    answers = [
        server.client().chat.completions.create(**asked, **tools).choices[0].message
        for tools in ({}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"})
    ]
    assert [(answer.content, answer.tool_calls) for answer in answers] == [("Hello.", None)] * 3


@pytest.mark.parametrize(
    "held",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        {"tools": [{"type": "function", "function": {**CLOCK, "strict": True}}]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_needs_a_grammar_is_refused_with_what_to_install(
    held: dict[str, Any], server: Server, asked: dict[str, Any]
) -> None:
    for stream in (False, True):
        with pytest.raises(
            openai.BadRequestError, match=r"llguidance, which is not installed.*smolalign\[constrained\]"
        ):
            server.client().chat.completions.create(**asked, **held, stream=stream)
