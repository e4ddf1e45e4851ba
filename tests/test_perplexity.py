"""Bits per byte are what plain computation gives, windows included, whatever the tokenizer."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import Ran, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from smolalign.errors import UserError
from smolalign.eval import perplexity
from smolalign.eval.perplexity import measure_perplexity, window_of, windows
from smolalign.eval.tasks import Loaded
from smolalign.model import load_model, load_tokenizer, save_model
from smolalign.recipe.measure import Perplexity
from smolalign.rows import Document

Cli = Callable[..., Ran]

WORDS = ["the", "cat", "sat", "on", "mat", "and", "said", "hello", "dog", "What", "is", "2", "+", "ünïcödé", "猫", "🐈"]


@pytest.fixture(scope="module")
def loaded(sharp_model: Path) -> Loaded:
    return Loaded(load_model(str(sharp_model)).eval(), load_tokenizer(str(sharp_model)), 4, 0)


def task(**fields: Any) -> Perplexity:
    return Perplexity.model_validate({"data": [{"source": "unused.jsonl"}], **fields})


def documents(*sizes: int) -> list[Document]:
    chance = random.Random(1)
    return [Document(" ".join(chance.choices(WORDS, k=size)), f"texts.jsonl:{size}") for size in sizes]


def plain_nats(loaded: Loaded, text: str, max_length: int, stride: int) -> tuple[float, int]:
    """Token by token, each behind what its window has of those before it."""
    row = [loaded.tokenizer.bos_token_id, *loaded.tokenizer.encode(text, add_special_tokens=False)]
    total = 0.0
    for place in range(1, len(row)):
        end = min(len(row), 1 + stride * (1 + (place - 1) // stride))
        seen = row[max(0, end - 1 - max_length) : place]
        with torch.no_grad():
            logs = loaded.model(input_ids=torch.tensor([seen])).logits[0, -1].double().log_softmax(-1)
        total -= float(logs[row[place]])
    return total, len(row) - 1


@pytest.mark.parametrize(("max_length", "stride"), [(None, None), (32, None), (32, 5), (32, 32), (7, 1)])
def test_figures_are_those_of_plain_computation(loaded: Loaded, max_length: int | None, stride: int | None) -> None:
    given_ = documents(1, 9, 30, 44)
    metrics, samples, details = measure_perplexity(loaded, task(max_length=max_length, stride=stride), given_)
    used = details["max_length"], details["stride"]
    assert used == (max_length or 256, stride or (max_length or 256) // 2)
    plain = [plain_nats(loaded, document.text, *used) for document in given_]
    sizes = [len(document.text.encode()) for document in given_]
    assert sizes[2] > len(given_[2].text)
    for sample, (nats, tokens), size in zip(samples, plain, sizes, strict=True):
        assert sample["bits_per_byte"] == pytest.approx([nats / math.log(2), size], rel=1e-5)
        assert sample["tokens"] == tokens
    nats, tokens = (sum(column) for column in zip(*plain, strict=True))
    bits = nats / math.log(2) / sum(sizes)
    assert metrics == pytest.approx(
        {"bits_per_byte": bits, "byte_perplexity": 2**bits, "token_perplexity": math.exp(nats / tokens)}, rel=1e-4
    )
    assert (details["bytes"], details["tokens"]) == (sum(sizes), tokens)


def test_disjoint_windows_are_those_of_lm_evaluation_harness(loaded: Loaded) -> None:
    pytest.importorskip("lm_eval")
    from smolalign.eval.harness_model import HarnessModel

    harness = HarnessModel(loaded.model, loaded.tokenizer, 4)
    harness.max_length = 32
    given_ = documents(1, 12, 40, 77)
    expected = harness.loglikelihood_rolling([SimpleNamespace(args=(document.text,)) for document in given_])
    _, samples, _ = measure_perplexity(loaded, task(max_length=32, stride=32), given_)
    assert [-sample["nats_per_token"][0] for sample in samples] == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_windows_predict_every_token_once_behind_as_much_as_promised(length: int, longest: int, data: Any) -> None:
    stride = data.draw(st.integers(1, longest))
    ids = list(range(100, 100 + length))
    found = windows(ids, 7, longest, stride)
    assert [token for one in found for token in one.tokens] == ids
    row, place = [7, *ids], 1
    for one in found:
        assert row[place - len(one.context) : place] == one.context
        assert len(one.context) >= min(place, longest - stride + 1)
        assert len(one.context) + len(one.tokens) <= longest + 1
        place += len(one.tokens)


def test_bits_per_byte_of_a_model_that_knows_nothing_are_those_of_its_tokens(loaded: Loaded) -> None:
    model = load_model(loaded.model.name_or_path).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    [document] = documents(20)
    metrics, [sample], details = measure_perplexity(Loaded(model, loaded.tokenizer, 4, 0), task(), [document])
    vocabulary = model.config.vocab_size
    assert metrics["token_perplexity"] == pytest.approx(vocabulary, rel=1e-5)
    bits = sample["tokens"] * math.log2(vocabulary) / len(document.text.encode())
    assert metrics["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert details["stderr"]["bits_per_byte"] == 0, "one document tells nothing of others"


def test_errors_take_each_document_as_a_cluster(loaded: Loaded) -> None:
    metrics, samples, details = measure_perplexity(loaded, task(), documents(3, 10, 25, 40))
    pairs = [sample["bits_per_byte"] for sample in samples]
    count = sum(size for _, size in pairs)
    ratio = sum(bits for bits, _ in pairs) / count
    error = math.sqrt(4 / 3 * sum((bits - ratio * size) ** 2 for bits, size in pairs)) / count
    assert details["stderr"]["bits_per_byte"] == pytest.approx(error, abs=1e-6)
    slope = math.log(2) * metrics["byte_perplexity"]
    assert details["stderr"]["byte_perplexity"] == pytest.approx(slope * error, abs=1e-5)
    assert details["stderr"]["token_perplexity"] > 0


def test_no_more_logits_are_held_than_fit(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    [document] = documents(150)
    whole, _, _ = measure_perplexity(loaded, task(), [document])
    held: list[int] = []
    forward = loaded.model.forward

    def spy(*args: Any, **more: Any) -> Any:
        found = forward(*args, **more)
        held.append(found.logits.shape[1])
        return found

    monkeypatch.setattr(loaded.model, "forward", spy)
    for module in (perplexity, "smolalign.eval.continuations"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.LOGITS_AT_ONCE", 20 * loaded.model.config.vocab_size)
    assert window_of(loaded.model, task()) == (256, 20)
    small, _, _ = measure_perplexity(loaded, task(), [document])
    assert max(held) <= 20
    assert small == pytest.approx(whole, rel=0.2)


def recipe(folder: Path, model: Path, **fields: Any) -> Path:
    given_ = [{"text": document.text} for document in documents(5, 30, 60)]
    write_jsonl(folder / "texts.jsonl", given_)
    tasks = {"books": {"task": "perplexity", "data": [{"source": "texts.jsonl"}], **fields}}
    file = folder / "eval.yaml"
    file.write_text(yaml.safe_dump({"kind": "eval", "models": {"m": str(model)}, "tasks": tasks}), encoding="utf-8")
    return file


def test_a_base_model_is_measured_without_a_template(cli: Cli, sharp_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(sharp_model))
    tokenizer.chat_template = None
    save_model(load_model(str(sharp_model)), tokenizer, tmp_path / "base")
    file = recipe(tmp_path, tmp_path / "base", max_length=64)
    checked = cli("check", file, "--out", tmp_path / "out")
    assert checked.code == 0, checked.err
    assert "texts.jsonl: text, 3 rows read" in " ".join(checked.out.split())
    ran = cli("eval", file, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    metrics = json.loads((tmp_path / "out" / "eval" / "step.json").read_text(encoding="utf-8"))["metrics"]
    row = metrics["table"]["m"]
    assert list(row) == ["books.bits_per_byte", "books.byte_perplexity", "books.token_perplexity"]
    assert f"{row['books.bits_per_byte']:.3f}" in ran.out
    assert f"{row['books.token_perplexity']:.2f}" in ran.out
    assert metrics["items"] == {"books": 3}
    samples = [json.loads(line) for line in (tmp_path / "out/eval/samples.jsonl").read_text().splitlines()]
    assert row["books.bits_per_byte"] == pytest.approx(
        sum(one["bits_per_byte"][0] for one in samples) / sum(one["bytes"] for one in samples), abs=1e-4
    )
    assert metrics["details"]["m"]["books"]["stderr"].keys() == {name.removeprefix("books.") for name in row}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_length": 300}, "max_length: 300 tokens are more than the model reads → 256 at most"),
        ({"max_length": 10, "stride": 11}, "stride 11 is more than max_length 10"),
        ({"stride": 300}, "stride: 300 tokens are more than the window of 256 has"),
        ({"stride": 0}, "stride"),
        ({"lengths": [9]}, "lengths is for task: needle, this one is perplexity"),
        ({"data": []}, "data: list should have at least 1 item"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    fields: dict[str, Any], words: str, cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    ran = cli("eval", recipe(tmp_path, sharp_model, **fields), "--out", tmp_path / "out")
    assert ran.code == 2
    assert words in " ".join(ran.err.split())
    assert "Traceback" not in ran.err


def test_a_tokenizer_that_can_begin_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="neither a beginning nor an end of sequence"):
        perplexity.prefix_of(SimpleNamespace(bos_token_id=None, eos_token_id=None))
    assert perplexity.prefix_of(SimpleNamespace(bos_token_id=None, eos_token_id=0)) == 0
