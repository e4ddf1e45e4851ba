"""The real SmolLM2-135M-Instruct: its chats render as its own template writes them, and its weights are the file's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolalign.chat.render import render_chat, render_prompt, render_text, require_trainable_template, template_inputs
from smolalign.model import load_model, load_tokenizer
from smolalign.rows import Chat, Message, Role

NAMED = os.environ.get("SMOLALIGN_GGUF", "")

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.skipif(not NAMED, reason="SMOLALIGN_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf"),
    pytest.mark.skipif(bool(NAMED) and not Path(NAMED).is_file(), reason=f"SMOLALIGN_GGUF: no file {NAMED}"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of its own, so that the conversion itself is tested."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def own(cache: Any) -> Any:
    """The tokenizer with the template that the file carries."""
    return AutoTokenizer.from_pretrained(str(Path(NAMED).parent), gguf_file=Path(NAMED).name)


@pytest.fixture(scope="module")
def ours(cache: Any) -> Any:
    """The tokenizer with smolalign's template."""
    return load_tokenizer(NAMED, "smollm2")


turn_texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """With or without a system turn, ending with the user's turn or the assistant's."""
    messages = [Message("system", draw(turn_texts))] if draw(st.booleans()) else []
    roles: tuple[Role, Role] = ("user", "assistant")
    messages += [Message(roles[i % 2], draw(turn_texts)) for i in range(draw(st.integers(1, 5)))]
    return tuple(messages)


@given(conversations())
@settings(max_examples=150, deadline=None)
def test_plain_chats_render_as_the_files_own_template_writes_them(
    own: Any, ours: Any, messages: tuple[Message, ...]
) -> None:
    inputs = template_inputs(messages, ())
    assert render_text(ours, messages) == own.apply_chat_template(**inputs, tokenize=False)
    encoded = own.apply_chat_template(**inputs, add_generation_prompt=True, return_dict=True)
    assert render_prompt(ours, messages) == encoded["input_ids"]


def test_each_template_is_the_one_asked_for(own: Any, ours: Any) -> None:
    assert load_tokenizer(NAMED).chat_template == own.chat_template
    assert "endgeneration" not in own.chat_template
    assert "{%- generation -%}" in ours.chat_template
    require_trainable_template(ours)


@pytest.mark.parametrize("answer", ["Yes.", " Yes.", "\nYes.", "\n\n\nYes.", "猫", " é"])
def test_the_answer_and_its_stop_token_are_trained(answer: str, ours: Any) -> None:
    rendered = render_chat(ours, Chat((Message("user", "Hi"), Message("assistant", answer))))
    trained = [token for token, mark in zip(rendered.ids, rendered.trained, strict=True) if mark]
    # The tokenizer joins line breaks that an answer begins with to the one before it.
    joined = "\n" if answer.startswith("\n\n") else ""
    assert ours.decode(trained) == f"{joined}{answer}<|im_end|>"
    assert trained[-1] == ours.eos_token_id == 2
    before = rendered.ids[: rendered.trained.index(True)]
    assert ours.decode(before).endswith("<|im_start|>assistant" + ("" if joined else "\n"))


def test_the_converted_model_is_the_files_own(ours: Any) -> None:
    direct = AutoModelForCausalLM.from_pretrained(
        str(Path(NAMED).parent), gguf_file=Path(NAMED).name, dtype=torch.float32
    )
    ids = torch.tensor([render_prompt(ours, (Message("user", "What is the capital of France?"),))])
    with torch.inference_mode():
        expected = direct(ids).logits
        for _ in range(2):  # converted, then read back from the cache
            assert torch.equal(load_model(NAMED)(ids).logits, expected)
    assert "Paris" in ours.decode(direct.generate(ids, max_new_tokens=12, do_sample=False)[0])
