"""Replies for evaluation: Transformers' own, whatever the model and the company, each told as soon as it is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from conftest import Ran, chats, tiny_tokenizer, write_jsonl

from smolalign.errors import UserError
from smolalign.eval.generate import Generated, generate
from smolalign.model import load_model, load_tokenizer
from smolalign.serve.engine import Engine
from smolalign.serve.offline import Answer, answer_all, can_batch
from smolalign.serve.row import Ask
from smolalign.serve.sampling import Sampling

VOCABULARY = len(tiny_tokenizer())
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
WINDOWED = {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 4}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
ARCHITECTURES: dict[str, tuple[bool, Callable[[], Any]]] = {
    "gpt2": (True, lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))),
    "mistral": (True, lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, **WINDOWED))),
    "bloom": (False, lambda: transformers.BloomForCausalLM(transformers.BloomConfig(**SIZES))),
    "mamba": (False, lambda: transformers.MambaForCausalLM(transformers.MambaConfig(**SIZES))),
    "lfm2": (
        False,
        lambda: transformers.Lfm2ForCausalLM(
            transformers.Lfm2Config(
                **SIZES, intermediate_size=48, num_key_value_heads=2, layer_types=["conv", "full_attention"]
            )
        ),
    ),
}


@pytest.fixture(scope="module")
def sharp(sharp_model: Path) -> tuple[Any, Any]:
    return load_model(str(sharp_model)).eval(), load_tokenizer(str(sharp_model))


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(20, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def by_transformers(model: Any, tokenizer: Any, prompt: list[int], limit: int) -> list[int]:
    """Greedy tokens of the prompt alone."""
    ids, stop = torch.tensor([prompt]), tokenizer.eos_token_id
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=stop
        )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_replies_are_those_of_transformers_whatever_the_architecture(name: str) -> None:
    batched, make = ARCHITECTURES[name]
    torch.manual_seed(1)
    model, tokenizer = make().eval(), tiny_tokenizer()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    assert can_batch(model) is batched
    asked = prompts(3, 17, 1, 30, 9)
    expected = [by_transformers(model, tokenizer, one, 12) for one in asked]
    assert len({tuple(one) for one in expected}) > 2
    # A token of some reply's middle ends it; the model is told by its own settings, too, which must not matter.
    stop = expected[1][5]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop)
    expected = [by_transformers(model, tokenizer, one, 12) for one in asked]
    model.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=0.1)
    kept = [row[: row.index(stop)] if stop in row else row for row in expected]
    greedy = [Ask(tuple(one), 12, Sampling(temperature=0)) for one in asked]
    assert [list(one.ids) for one in answer_all(model, tokenizer, greedy, max_batch=3)] == kept
    found = generate(model, tokenizer, asked, max_new_tokens=12, batch_size=3)
    assert [one.text for one in found] == [tokenizer.decode(row, skip_special_tokens=True) for row in kept]
    assert [one.stopped for one in found] == [stop in row for row in expected]
    assert model.generation_config.repetition_penalty == 5.0


def test_a_sampled_reply_is_the_same_in_any_company(sharp: tuple[Any, Any]) -> None:
    asked = prompts(5, 30, 5, 12, 3, 21)
    asked[2] = asked[0]

    def sample(indexes: list[int], batch_size: int, seed: int = 4) -> list[str]:
        found = generate(
            *sharp,
            [asked[index] for index in indexes],
            max_new_tokens=12,
            batch_size=batch_size,
            sample_seed=seed,
            numbers=indexes,
        )
        return [one.text for one in found]

    every = [0, 1, 2, 3, 4, 5]
    whole = sample(every, 6)
    assert sample(every, 1) == sample(every, 4) == whole
    assert sample([5, 2], 2) == [whole[5], whole[2]]
    assert whole[0] != whole[2], "equal prompts are drawn apart"
    assert sample(every, 6, seed=5) != whole
    plain = generate(*sharp, asked, max_new_tokens=12, batch_size=6, sample_seed=4)
    assert [one.text for one in plain] == whole


def test_models_that_are_not_batched_draw_by_the_rows_seed_too(
    sharp: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Ask(tuple(one), 12, Sampling(seed=9)) for one in prompts(5, 12)]
    asked += [Ask(tuple(one), 30, Sampling(temperature=0), stop=("e", "a", "i", "t")) for one in prompts(4, 8, 20)]
    batched = answer_all(*sharp, asked, max_batch=4)
    monkeypatch.setattr("smolalign.serve.offline.can_batch", lambda _: False)
    assert answer_all(*sharp, asked, max_batch=4) == batched
    assert {one.stopped for one in batched} == {True, False}


def test_each_reply_is_told_once_as_soon_as_it_is_finished(sharp: tuple[Any, Any]) -> None:
    model, tokenizer = sharp
    asks = [
        Ask(tuple(one), limit, Sampling(temperature=0))
        for one, limit in zip(prompts(6, 6, 6, 6), (9, 30, 2, 30), strict=True)
    ]
    told: list[tuple[int, Answer]] = []

    def take(index: int, answer: Answer) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append((index, answer))

    found = answer_all(model, tokenizer, asks, max_batch=4, answered=take)
    assert [index for index, _ in told][:2] == [2, 0]
    assert sorted(told, key=lambda one: one[0]) == list(enumerate(found))
    replies: dict[int, Generated] = {}
    whole = generate(model, tokenizer, prompts(6, 300, 2), max_new_tokens=5, batch_size=2, answered=replies.__setitem__)
    assert [replies[index] for index in range(3)] == whole


def test_a_row_that_stops_makes_room_and_is_computed_no_further(
    sharp: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    real = Engine._pass

    def counting(self: Engine, ids: list[list[int]], cache: Any, **inputs: Any) -> torch.Tensor:
        if len(ids[0]) == 1:
            rows.append(len(ids))
        return real(self, ids, cache, **inputs)

    monkeypatch.setattr(Engine, "_pass", counting)
    limits = (2, 40, 2, 2, 3, 2, 2)
    asks = [
        Ask(tuple(one), limit, Sampling(temperature=0)) for one, limit in zip(prompts(*[9] * 7), limits, strict=True)
    ]
    answers = answer_all(*sharp, asks, max_batch=2)
    # Of each answer the prompt's pass gives the first token, and a step each further one.
    assert sum(rows) == sum(len(one.ids) - 1 for one in answers)
    assert max(rows) == 2
    assert len(rows) <= max(limits) + 2


def test_what_a_model_cannot_read_is_told_and_a_reply_ends_with_its_positions(sharp: tuple[Any, Any]) -> None:
    model, tokenizer = sharp
    longest = model.config.max_position_embeddings
    asked = prompts(longest - 4, longest, longest + 9, 3)
    found = generate(model, tokenizer, asked, max_new_tokens=10, batch_size=2)
    assert [one.unread for one in found] == [False, True, True, False]
    assert found[1] == Generated("", False, unread=True)
    expected = by_transformers(model, tokenizer, asked[0], 4)
    assert found[0].text == tokenizer.decode(expected, skip_special_tokens=True)


def test_replies_that_fail_are_counted_and_the_others_told(
    sharp: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine._pass

    def failing(self: Engine, ids: list[list[int]], *rest: Any, **inputs: Any) -> torch.Tensor:
        if len(ids[0]) == 11:
            raise RuntimeError("no memory")
        return real(self, ids, *rest, **inputs)

    monkeypatch.setattr(Engine, "_pass", failing)
    told: list[int] = []
    with pytest.raises(UserError, match="1 answers could not be generated: RuntimeError: no memory"):
        generate(
            *sharp, prompts(3, 11, 5), max_new_tokens=4, batch_size=2, answered=lambda index, _reply: told.append(index)
        )
    assert sorted(told) == [0, 2]
    assert generate(*sharp, [], max_new_tokens=4, batch_size=2) == []


def test_prompts_that_do_not_fit_count_as_not_answered_and_are_told(
    cli: Callable[..., Ran], sharp_model: Path, tmp_path: Path
) -> None:
    rows = chats(3)
    rows[1]["messages"][0]["content"] = "What? " * 200
    write_jsonl(tmp_path / "chats.jsonl", rows)
    task = {"task": "exact", "data": [{"source": "chats.jsonl"}], "max_new_tokens": 4}
    recipe = {"kind": "eval", "models": {"m": str(sharp_model)}, "tasks": {"chat": task}}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    ran = cli("eval", tmp_path / "eval.yaml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "m: chat: 1 prompts are longer than the model reads, and count as not answered" in ran.out
    metrics = json.loads((tmp_path / "out" / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["details"]["m"]["chat"]["prompts_unread"] == 1
    samples = [json.loads(line) for line in (tmp_path / "out/eval/samples.jsonl").read_text().splitlines()]
    assert [one.get("unread", False) for one in samples] == ["What? What?" in str(one["prompt"]) for one in samples]
