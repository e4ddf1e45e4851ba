"""The batch engine: answers in company are the answers alone, and every place that is taken becomes free again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.detokenize import Detokenizer, hidden_ids
from smolalign.model import load_model, load_tokenizer
from smolalign.serve.engine import PROMPT_PART, Busy, Engine
from smolalign.serve.row import Ask, Job, Piece
from smolalign.serve.sampling import Chooser, Sampling
from smolalign.serve.text import Finder

GREEDY = Sampling(temperature=0)
LONGEST = 30  # seconds that a test waits for an answer that does not come


@pytest.fixture(scope="module")
def loaded(sharp_model: Path) -> tuple[Any, Any]:
    # Without a stop token, so that each answer is as long as it was asked to be.
    tokenizer, model = load_tokenizer(str(sharp_model)), load_model(str(sharp_model)).eval()
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    return model, tokenizer


@pytest.fixture
def engine(loaded: tuple[Any, Any]) -> Iterator[Engine]:
    engine = Engine(*loaded, max_batch=4, max_queue=8)
    engine.start()
    yield engine
    engine.stop()


class Answers:
    """What an engine emits, by the number of the ask; `then` runs in the engine's thread after each piece."""

    def __init__(self, engine: Engine, then: Callable[[int, Piece], None] = lambda _index, _piece: None) -> None:
        self.engine, self.then = engine, then
        self.pieces: dict[int, list[Piece]] = {}
        self.ended: queue.Queue[int] = queue.Queue()

    def ask(self, index: int, ask: Ask) -> Job:
        self.pieces[index] = []
        return self.engine.submit([ask], lambda _one, piece: self.take(index, piece))[0]

    def take(self, index: int, piece: Piece) -> None:
        self.pieces[index].append(piece)
        self.then(index, piece)
        if piece.finish or piece.error:
            self.ended.put(index)

    def wait(self, count: int) -> None:
        for _ in range(count):
            self.ended.get(timeout=LONGEST)

    def tokens(self, index: int) -> list[int]:
        return [one.token for piece in self.pieces[index] for one in piece.tokens]

    def text(self, index: int) -> str:
        return "".join(piece.text for piece in self.pieces[index])


def prompt(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(10, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def alone(model: Any, ids: tuple[int, ...], count: int) -> list[int]:
    """Greedy tokens by the model itself, without a cache and without company."""
    row = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(ids) :]


def test_answers_that_join_and_leave_a_running_batch_are_those_of_each_alone(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    lengths = [(7, 40), (31, 12), (1, 25), (90, 30), (3, 5), (18, 22)]
    asks = [Ask(prompt(size, seed), count, GREEDY, top=0) for seed, (size, count) in enumerate(lengths)]
    # Each begins when the one before has written some tokens, so they are in the batch in ever new company.
    begins = [3, 4, 2, 6, 2]

    def next_one(index: int, piece: Piece) -> None:
        if index == len(answers.pieces) - 1 < len(begins) and piece.written >= begins[index]:
            answers.ask(index + 1, asks[index + 1])

    answers = Answers(engine, next_one)
    answers.ask(0, asks[0])
    answers.wait(len(asks))
    for index, ask in enumerate(asks):
        assert answers.tokens(index) == alone(loaded[0], ask.prompt, ask.max_tokens), index
    load = engine.load()
    written = sum(count for _, count in lengths)
    assert (load.tokens, load.prompt_passes) == (written, len(asks))
    # Less than half of the passes that one after the other would take.
    assert load.step_passes < (written - len(asks)) / 2


def test_a_prompt_in_parts_is_the_prompt_at_once(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolalign.serve.engine.PROMPT_PART", 16)
    engine = Engine(*loaded, max_batch=2, max_queue=2)
    engine.start()
    answers, ids = Answers(engine), prompt(70, 5)
    answers.ask(0, Ask(ids, 10, GREEDY, top=0, score_prompt=True))
    answers.wait(1)
    engine.stop()
    assert engine.load().prompt_passes == 5
    assert answers.tokens(0) == alone(loaded[0], ids, 10)
    with torch.inference_mode():
        logs = loaded[0](input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    scores = [one.logprob for one in answers.pieces[0][0].prompt]
    assert scores[0] is None
    assert scores[1:] == pytest.approx([float(logs[i, ids[i + 1]]) for i in range(69)], abs=1e-4)
    assert PROMPT_PART > 70


def test_a_sliding_window_is_kept_in_company() -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=256,
        initializer_range=0.5,
        eos_token_id=None,
        pad_token_id=0,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    engine = Engine(model, tokenizer, max_batch=4, max_queue=4)
    engine.start()
    answers = Answers(engine)
    asks = [Ask(prompt(size, size), 20, GREEDY, top=0) for size in (3, 30, 12)]
    for index, ask in enumerate(asks):
        answers.ask(index, ask)
    answers.wait(3)
    engine.stop()
    for index, ask in enumerate(asks):
        assert answers.tokens(index) == alone(model, ask.prompt, 20), index


def test_a_seed_gives_the_same_answer_in_any_company(engine: Engine) -> None:
    answers = Answers(engine)
    ask = Ask(prompt(9, 1), 20, Sampling(seed=5, top_p=0.9), top=0)
    answers.ask(0, ask)
    answers.wait(1)
    answers.ask(1, Ask(prompt(40, 2), 30))
    answers.ask(2, ask)
    answers.ask(3, Ask(prompt(9, 1), 20, Sampling(seed=6, top_p=0.9), top=0))
    answers.wait(3)
    assert answers.tokens(0) == answers.tokens(2) != answers.tokens(3)


def test_logprobs_are_the_models_own_whatever_is_sampled(engine: Engine, loaded: tuple[Any, Any]) -> None:
    answers, ids = Answers(engine), prompt(12, 3)
    answers.ask(0, Ask(ids, 6, Sampling(temperature=1.7, seed=1, bias={4: -100.0}), top=3))
    answers.wait(1)
    tokens = [one for piece in answers.pieces[0] for one in piece.tokens]
    row = [*ids, *(one.token for one in tokens)]
    with torch.inference_mode():
        logs = loaded[0](input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
    assert len(tokens) == 6
    for place, one in enumerate(tokens, start=len(ids) - 1):
        assert one.logprob == pytest.approx(float(logs[place, one.token]), abs=1e-4)
        best = logs[place].topk(3)
        assert [token for token, _ in one.top] == best.indices.tolist()
        assert [logprob for _, logprob in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_cancelled_answer_frees_its_place_and_changes_no_other(
    loaded: tuple[Any, Any],
) -> None:
    engine = Engine(*loaded, max_batch=2, max_queue=1)
    jobs: list[Job] = []

    def hang_up(index: int, piece: Piece) -> None:
        if index == 0 and piece.written == 4:
            jobs[0].cancel()

    answers = Answers(engine, hang_up)
    jobs += [answers.ask(index, Ask(prompt(5 + index, index), 60, GREEDY, top=0)) for index in range(3)]
    with pytest.raises(Busy):
        answers.ask(3, Ask(prompt(5, 1), 1))
    engine.start()
    answers.wait(2)
    assert len(answers.tokens(0)) == 4
    for index in (1, 2):
        assert answers.tokens(index) == alone(loaded[0], jobs[index].ask.prompt, 60)
    assert (engine.load().running, engine.load().waiting) == (0, 0)
    engine.stop()


def test_an_answer_that_cannot_go_on_fails_alone(engine: Engine, loaded: tuple[Any, Any]) -> None:
    def nothing_after_three(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores if ids.shape[1] < 8 else scores - torch.inf

    answers = Answers(engine)
    answers.ask(0, Ask(prompt(5, 0), 20, GREEDY, constraint=nothing_after_three))
    answers.ask(1, Ask(prompt(6, 1), 20, GREEDY, top=0))
    answers.wait(2)
    assert answers.pieces[0][-1].error == "ValueError: no token may follow"
    assert answers.tokens(1) == alone(loaded[0], prompt(6, 1), 20)


def test_a_failing_pass_ends_its_answers_and_the_engine_goes_on(
    engine: Engine, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, real = iter(range(1000)), Engine._pass

    def failing(self: Engine, *arguments: Any, **inputs: Any) -> torch.Tensor:
        if next(passes) == 3:
            raise RuntimeError("no memory")
        return real(self, *arguments, **inputs)

    monkeypatch.setattr(Engine, "_pass", failing)
    answers = Answers(engine)
    answers.ask(0, Ask(prompt(5, 0), 20, GREEDY))
    answers.wait(1)
    assert answers.pieces[0][-1].error == "RuntimeError: no memory"
    answers.ask(1, Ask(prompt(6, 1), 20, GREEDY, top=0))
    answers.wait(1)
    assert answers.tokens(1) == alone(loaded[0], prompt(6, 1), 20)


def test_stopping_ends_what_runs_and_what_waits(loaded: tuple[Any, Any]) -> None:
    engine, some = Engine(*loaded, max_batch=1, max_queue=2), threading.Event()
    answers = Answers(engine, lambda _index, _piece: some.set())
    for index in range(3):
        answers.ask(index, Ask(prompt(5, index), 200, GREEDY))
    engine.start()
    assert some.wait(LONGEST)
    engine.stop()
    answers.wait(3)
    assert {answers.pieces[index][-1].error for index in range(3)} == {"the server is shutting down"}
    with pytest.raises(Busy):
        answers.ask(3, Ask(prompt(5, 1), 1))


def test_the_temperature_divides_and_penalties_and_bias_are_added() -> None:
    logits = torch.tensor([2.0, 1.9, 0.0, -1.0])
    counted = Chooser(Sampling(temperature=0, frequency_penalty=0.06, presence_penalty=0.07), [0])
    # Written once a token is worth 0.13 less, twice 0.19, three times 0.25.
    assert [counted.choose(logits) for _ in range(5)] == [0, 1, 0, 0, 1]
    assert Chooser(Sampling(temperature=0, bias={3: 3.5}), [0]).choose(logits) == 3
    assert Chooser(Sampling(top_p=0.0), [0]).choose(logits) == 0
    hot = Chooser(Sampling(temperature=2.0, seed=0), [0])
    drawn = torch.bincount(torch.tensor([hot.choose(logits) for _ in range(4000)]), minlength=4) / 4000
    assert drawn.tolist() == pytest.approx((logits / 2).softmax(-1).tolist(), abs=0.03)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_pieces_of_text_are_whole_characters_and_together_the_whole_text(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    detokenizer = Detokenizer(TOKENIZER, hidden_ids(TOKENIZER))
    pieces = [detokenizer.add(token) for token in ids]
    assert "".join(pieces) + detokenizer.rest() == TOKENIZER.decode(ids, skip_special_tokens=True)
    assert "�" in text or not any("�" in piece for piece in pieces)


TOKENIZER = tiny_tokenizer()


def test_special_tokens_are_no_text_but_for_the_tags_of_calls() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>", "<secret>"]})
    ids = tokenizer("a<secret><tool_call>[]</tool_call>")["input_ids"]
    detokenizer = Detokenizer(tokenizer, hidden_ids(tokenizer))
    text = "".join(detokenizer.add(token) for token in [*ids, tokenizer.eos_token_id])
    assert text + detokenizer.rest() == "a<tool_call>[]</tool_call>"


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
@settings(max_examples=300, deadline=None)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(parts: list[str], stops: list[str]) -> None:
    finder, given_out, whole = Finder(stops), "", "".join(parts)
    for part in parts:
        given_out += finder.add(part)
        if finder.found:
            break
    ends = [place for stop in stops if (place := whole.find(stop)) >= 0]
    assert finder.found == bool(ends)
    if ends:
        # What comes first in time counts: a stop string that is whole, not a longer one that begins before it.
        first = min(whole.find(stop) + len(stop) for stop in stops if stop in whole)
        assert given_out in {whole[: whole.find(stop)] for stop in stops if stop in whole}
        assert len(given_out) <= first
    else:
        assert given_out + finder.rest() == whole
