"""What a model costs and gives, measured in a process of its own, so that one model's loading warms no other's."""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.environment import prepare
from smolalign.errors import UserError
from smolalign.rows import Document

# Generated after as many tokens of a prompt, three times; the median counts.
NEW_TOKENS, PROMPT_TOKENS, TIMES = 32, 16, 3
# Tokens after which the likeliest one is compared with the original's.
COMPARED_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """A model to measure: a folder, a `.gguf` file or a Hub id, and the texts that it is measured on."""

    model: str
    documents: Sequence[Document]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured.

    Attributes:
        load_seconds: until model and tokenizer are there to answer, without what importing the libraries takes.
        tokens_per_second: of a greedy reply, alone, its prompt read included.
        engine: what generated it.
        perplexity: of a token of the texts.
        bits_per_byte: of the texts.
        likeliest: the likeliest token after each of the first tokens of the texts.
        device: where.
    """

    load_seconds: float
    tokens_per_second: float
    engine: str
    perplexity: float
    bits_per_byte: float
    likeliest: list[int]
    device: str


def in_own_process(job: Job) -> Figures:
    """`measure`, in a new process.

    Raises:
        UserError: the model cannot be loaded, or the process was ended.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        try:
            return pool.submit(measure, job).result()
        except BrokenProcessPool:
            what = "the process that measures it was ended, as the system does where memory is short"
            raise UserError(what, where=job.model) from None


def measure(job: Job) -> Figures:
    """Load a model and measure it.

    Raises:
        UserError: it cannot be loaded, or reads none of the texts.
    """
    from smolalign.eval.perplexity import measure_perplexity
    from smolalign.eval.tasks import Loaded
    from smolalign.model import device
    from smolalign.recipe.measure import Perplexity

    began = time.perf_counter()
    model, tokenizer = _load(job.model)
    load_seconds = time.perf_counter() - began
    speed, engine = _speed(model, tokenizer, job)
    task = Perplexity.model_validate({"data": [{"source": "texts"}]})
    found, _, _ = measure_perplexity(Loaded(model, tokenizer, 1, 0), task, job.documents)
    likeliest = _likeliest(model, tokenizer, job.documents)
    perplexity, bits = found["token_perplexity"], found["bits_per_byte"]
    return Figures(load_seconds, speed, engine, perplexity, bits, likeliest, device().type)


def _load(reference: str) -> tuple[Any, Any]:
    """A model and its tokenizer. Transformers reads a `.gguf` file itself, not by way of the cache, where it would lie
    dequantized."""
    from smolalign.model import device, load_gguf_tokenizer, load_model, load_tokenizer

    if not reference.endswith(".gguf"):
        return load_model(reference).eval(), load_tokenizer(reference)
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    file = Path(reference)
    model = auto.from_pretrained(str(file.parent), dtype=torch.float32, gguf_file=file.name)
    return model.to(device()).eval(), load_gguf_tokenizer(file)


def _speed(model: Any, tokenizer: Any, job: Job) -> tuple[float, str]:
    """Tokens a second of a greedy reply, and what generated it: llama.cpp for a `.gguf` file, where it is installed."""
    ids = list(tokenizer.encode(job.documents[0].text))[:PROMPT_TOKENS]
    if not job.model.endswith(".gguf"):
        return _rate(_reply(model, ids)), "Transformers"
    if importlib.util.find_spec("llama_cpp"):
        return _rate(_reply_of_llama_cpp(job.model, ids)), "llama.cpp"
    return _rate(_reply(model, ids)), "Transformers, dequantized"


def _reply(model: Any, ids: list[int]) -> Callable[[], int]:
    import torch

    prompt = torch.tensor([ids], device=model.device)
    options = {"do_sample": False, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}

    def reply() -> int:
        with torch.inference_mode():
            found = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        return int(found.shape[1] - prompt.shape[1])

    return reply


def _reply_of_llama_cpp(file: str, ids: list[int]) -> Callable[[], int]:
    from llama_cpp import Llama

    engine = Llama(file, n_ctx=2 * (PROMPT_TOKENS + NEW_TOKENS), verbose=False)

    def reply() -> int:
        engine.reset()
        return sum(1 for _ in itertools.islice(engine.generate(ids, temp=0.0), NEW_TOKENS))

    return reply


def _rate(reply: Callable[[], int]) -> float:
    reply()
    rates = []
    for _ in range(TIMES):
        began = time.perf_counter()
        tokens = reply()
        rates.append(tokens / (time.perf_counter() - began))
    return statistics.median(rates)


def _likeliest(model: Any, tokenizer: Any, documents: Sequence[Document]) -> list[int]:
    import torch

    from smolalign.chat.generation import positions

    found: list[int] = []
    for document in documents:
        if len(found) >= COMPARED_TOKENS:
            break
        ids = list(tokenizer.encode(document.text))[: min(positions(model), COMPARED_TOKENS - len(found))]
        with torch.inference_mode():
            logits = model(torch.tensor([ids], device=model.device)).logits[0]
        found += logits.argmax(-1).tolist()
    return found
