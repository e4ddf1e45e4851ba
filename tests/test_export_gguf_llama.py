"""Exported files in llama.cpp itself, where llama-cpp-python is installed: slow, since it is built from source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran
from transformers import AutoModelForCausalLM

from smolalign.export.probe import CHATS, TEXTS
from smolalign.model import load_gguf_tokenizer, load_tokenizer

Cli = Callable[..., Ran]
pytestmark = pytest.mark.slow
llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 12 + 30?",
    "Name three colours.",
    "Who wrote Hamlet?",
    "Say hello in Spanish.",
    "Why is the sky blue? Answer briefly.",
    "What do bees make?",
    "Give me a word that rhymes with cat.",
    "Is ice cold? Answer yes or no.",
)
MOST = 48


def load(file: Path) -> Any:
    """A file in llama.cpp, keys and values kept in f32: by default it rounds them to f16."""
    exact = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(file), n_ctx=256, n_threads=1, logits_all=True, verbose=False, type_k=exact, type_v=exact
    )


def by_llama(model: Any, ids: list[int], stop: int) -> list[int]:
    found: list[int] = []
    for token in model.generate(ids, temp=0.0, repeat_penalty=1.0, top_k=1):
        found.append(token)
        if token == stop or len(found) == MOST:
            return found
    return found


def by_transformers(model: Any, ids: list[int], stop: int) -> list[int]:
    with torch.inference_mode():
        options = {"do_sample": False, "max_new_tokens": MOST, "eos_token_id": stop, "pad_token_id": 0}
        return list(model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist())


def first_choices(model: Any, ids: list[int], reply: list[int]) -> list[int]:
    """The first choice of llama.cpp at each token of a reply that is given to it."""
    model.reset()
    model.eval([*ids, *reply])
    return list(model.scores[len(ids) - 1 : len(ids) + len(reply) - 1].argmax(-1))


@pytest.fixture(scope="module", params=["nano", "SmolLM2-135M"])
def source(request: pytest.FixtureRequest) -> str:
    """A model to export: the real one, or the small one (random weights where no nano run is named)."""
    if request.param == "nano":
        return os.environ.get("SMOLALIGN_NANO") or str(request.getfixturevalue("sharp_model"))
    if "SMOLALIGN_GGUF" not in os.environ:
        pytest.skip("SMOLALIGN_GGUF is not set")
    return os.environ["SMOLALIGN_GGUF"]


def is_trained(source: str) -> bool:
    return source in (os.environ.get("SMOLALIGN_NANO"), os.environ.get("SMOLALIGN_GGUF"))


@pytest.mark.parametrize("chosen", ["f32", "q8_0"])
def test_llama_cpp_does_what_transformers_does(chosen: str, source: str, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "model.gguf"
    ran = cli("export", source, "--to", "gguf", "--out", out, "--types", chosen)
    assert ran.code == 0, ran.err
    tokenizer, model = load_gguf_tokenizer(out), load(out)
    original = load_tokenizer(source)
    for text in TEXTS:
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        assert ids == original(text)["input_ids"], text
    template = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
        model.metadata["tokenizer.chat_template"], tokenizer.eos_token, tokenizer.bos_token
    )
    for messages, tools in CHATS:
        options: dict[str, Any] = {"tools": tools or None, "tokenize": False, "add_generation_prompt": True}
        rendered = template(messages=messages, tools=tools or None).prompt
        assert rendered == original.apply_chat_template(messages, **options)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=out.name, dtype=torch.float32)
    stop, same, stopped, agreed = tokenizer.eos_token_id, 0, 0, []
    for question in QUESTIONS:
        asked = [{"role": "user", "content": question}]
        ids = original.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        model.reset()
        theirs, ours = by_llama(model, ids, stop), by_transformers(reference, ids, stop)
        agreed += [one == two for one, two in zip(first_choices(model, ids, ours), ours, strict=True)]
        same, stopped = same + (theirs == ours), stopped + (theirs[-1] == stop)
    share = sum(agreed) / len(agreed)
    print(f"{source} {chosen}: {same} of 10 replies the same, {share:.1%} of tokens, {stopped} stop within {MOST}")
    # llama.cpp rounds what it multiplies q8_0 with to 8 bits too: near ties fall otherwise, and what follows with
    # them, so there a reply is given, and each of its tokens compared. Weights drawn at random have only near ties.
    assert same == len(QUESTIONS) if chosen == "f32" else share > 0.95 or not is_trained(source)
    assert stopped or not is_trained(source)
