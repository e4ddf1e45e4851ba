"""What lm-evaluation-harness gets of our model: what plain computation gives, and what harness's own `hf` gives."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from smolalign.eval import continuations
from smolalign.eval.continuations import Continuation, rows, score
from smolalign.eval.harness_model import HarnessModel
from smolalign.model import load_model, load_tokenizer

LONGEST = 48
WORDS = ["the", "cat", "sat", "on", "mat", "and", "said", "hello", "dog", "What", "is", "2", "+", "3?", "It", "5."]


@pytest.fixture(scope="module")
def model(sharp_model: Path) -> Any:
    return load_model(str(sharp_model)).eval()


@pytest.fixture(scope="module")
def both(sharp_model: Path, model: Any) -> tuple[HarnessModel, HFLM]:
    """Ours and harness's own of the same model, which reads `LONGEST` tokens."""
    tokenizer = load_tokenizer(str(sharp_model))
    ours = HarnessModel(model, tokenizer, 4)
    ours.max_length = LONGEST
    return ours, HFLM(pretrained=model, tokenizer=load_tokenizer(str(sharp_model)), max_length=LONGEST, batch_size=1)


def plain(model: Any, one: Continuation, longest: int) -> tuple[float, bool]:
    ids = [*one.context, *one.tokens][-(longest + 1) :]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -len(one.tokens) :].double()
    found = log_softmax(logits, -1)
    total = sum(found[place, token].item() for place, token in enumerate(one.tokens))
    return total, logits.argmax(-1).tolist() == list(one.tokens)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]  # type: ignore[arg-type]


def sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


# Few different tokens, so that sequences begin alike in every possible way.
TOKENS = st.lists(st.integers(20, 22), min_size=1, max_size=12)


@given(st.lists(st.builds(Continuation, TOKENS, TOKENS), min_size=1, max_size=12), st.integers(8, 40))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_each_sequence_alone(model: Any, asked: list[Continuation], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuations, "TOKENS_AT_ONCE", at_once)
        found = score(model, asked, 14)
    for one, (log_prob, greedy) in zip(asked, found, strict=True):
        expected, likeliest = plain(model, one, 14)
        assert log_prob == pytest.approx(expected, abs=1e-4, rel=1e-5)
        assert greedy == likeliest


def test_what_the_model_would_write_is_told(model: Any) -> None:
    context = [30, 40, 50]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context])).logits[0, -1]
    first, second = logits.topk(2).indices.tolist()
    found = score(model, [Continuation(context, [first]), Continuation(context, [second])], 100)
    assert [greedy for _, greedy in found] == [True, False]


def test_a_beginning_that_sequences_share_stands_in_a_row_once() -> None:
    context, other = list(range(100, 140)), list(range(200, 230))
    inputs = [[*context, 1, 2], [*other, 5], [*context, 3], [*context, 1, 9, 9], [*other, 5]]
    [row] = rows(inputs, [2, 1, 1, 3, 1], 1000)
    assert len(row.ids) == 40 + 4 + 1 + 31
    for index, places in row.members:
        assert [row.ids[place] for place in places] == inputs[index][-len(places) :]
    assert sorted(index for index, _ in row.members) == [0, 1, 2, 3, 4]
    read = {tuple(row.ids[place] for place in keys) for keys in row.keys}
    assert read == {tuple(one) for one in inputs}


def test_a_model_with_sliding_windows_is_scored_by_its_own_attention(model: Any) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    windowed = MistralForCausalLM(
        MistralConfig(**sizes, num_key_value_heads=2, vocab_size=100, sliding_window=4, initializer_range=0.3)
    ).eval()
    assert not continuations.shares_beginnings(windowed)
    asked = [Continuation(list(range(10, 10 + size)), [7, 8, size]) for size in (3, 9, 20)]
    for one, (log_prob, greedy) in zip(asked, score(windowed, asked, 64), strict=True):
        expected, likeliest = plain(windowed, one, 64)
        assert log_prob == pytest.approx(expected, abs=1e-4)
        assert greedy == likeliest


def test_harness_own_model_gives_the_same_scores(both: tuple[HarnessModel, HFLM]) -> None:
    ours, harness = both
    chance = random.Random(1)
    asked = []
    for size in (1, 4, 9, 30, 60):
        context = sentence(chance, size)
        asked += [(context, " " + sentence(chance, 1 + size % 5)) for _ in range(4)]
    # Blanks that move, no context at all, and texts that begin with the token that tells a text's beginning.
    begin = ours.tokenizer.decode(ours.prefix_token_id)
    asked += [("hello ", "dog"), ("", " the cat"), ("", begin + "dog"), (begin + "the cat", " sat")]
    before = ours.cut
    found = ours.loglikelihood(requests("loglikelihood", asked))
    expected = harness.loglikelihood(requests("loglikelihood", asked), disable_tqdm=True)
    for (log_prob, greedy), (theirs, likeliest) in zip(found, expected, strict=True):
        assert log_prob == pytest.approx(theirs, abs=1e-4, rel=1e-5)
        assert greedy == likeliest
    too_long = sum(len(ours.tok_encode(context + text)) > LONGEST + 1 for context, text in asked)
    assert ours.cut - before == too_long > 0


def test_harness_own_model_gives_the_same_whole_texts(both: tuple[HarnessModel, HFLM]) -> None:
    ours, harness = both
    texts = [(sentence(random.Random(size), size),) for size in (1, 20, 90)]
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    expected = harness.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-3, rel=1e-5)


def test_harness_own_model_writes_the_same_answers(both: tuple[HarnessModel, HFLM]) -> None:
    ours, harness = both
    chance = random.Random(2)
    contexts = [sentence(chance, size) for size in (1, 3, 8, 20, 60)]
    free = [(context, {"until": [], "max_gen_toks": 12}) for context in contexts]
    whole = ours.generate_until(requests("generate_until", free))
    assert len(set(whole)) > 2
    # A string of some answers' middle stops them there.
    stop = next(text[len(text) // 2] for text in whole if text)
    for until in ([], [stop]):
        asked = [(context, {"until": until, "max_gen_toks": 12}) for context in contexts]
        found = ours.generate_until(requests("generate_until", asked))
        assert found == harness.generate_until(requests("generate_until", asked), disable_tqdm=True)
        assert not until or all(stop not in text for text in found)


def test_an_answer_longer_than_the_model_reads_is_refused(both: tuple[HarnessModel, HFLM]) -> None:
    with pytest.raises(Exception, match="reads 48 at most"):
        both[0].loglikelihood([SimpleNamespace(args=("the", " cat" * 100))])
