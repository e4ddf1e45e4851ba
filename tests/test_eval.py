"""The measurements measure what they say: generation, log-probabilities, each metric, and the table of stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

from smolalign.eval import generate as generating
from smolalign.eval import tasks
from smolalign.eval.generate import Generated, generate, log_probs
from smolalign.eval.tasks import Loaded, reward_accuracy, same_calls
from smolalign.model import load_model, load_tokenizer
from smolalign.recipe.measure import Exact, Loss, Preference, Style, ToolCalls
from smolalign.rows import Chat, Message, Pair, ToolCall

Cli = Callable[..., Ran]

DATA: Any = [{"source": "unused.jsonl"}]
TOOLS = ({"name": "f", "parameters": {}}, {"name": "g", "parameters": {}})


@pytest.fixture(scope="module")
def loaded(sharp_model: Path) -> Loaded:
    return Loaded(load_model(str(sharp_model)).eval(), load_tokenizer(str(sharp_model)), 3, 0)


def random_prompts(count: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(20, vocabulary, (3 + 5 * i % 17,), generator=generator).tolist() for i in range(count)]


def plain_greedy(model: Any, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(limit):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_batched_replies_are_those_of_each_prompt_alone_and_stops_are_seen(sharp_model: Path) -> None:
    model, tokenizer = load_model(str(sharp_model)).eval(), load_tokenizer(str(sharp_model))
    prompts = random_prompts(10, len(tokenizer))
    plain = [plain_greedy(model, prompt, 12) for prompt in prompts]
    assert len(set(map(tuple, plain))) > 5
    # A token that some replies reach in their middle, and others never, serves as the stop token.
    stop = next(t for row in plain for t in row[3:9] if 2 <= sum(t in other for other in plain) <= 8)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop)
    assert tokenizer.eos_token_id == stop
    expected = []
    for row in plain:
        stopped = stop in row
        text = tokenizer.decode(row[: row.index(stop)] if stopped else row, skip_special_tokens=True)
        expected.append(Generated(text, stopped))
    assert {reply.stopped for reply in expected} == {True, False}
    for batch_size in (1, 4, 16):
        assert generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size) == expected


def test_sampled_replies_follow_the_seed_and_the_models_own_distribution(loaded: Loaded) -> None:
    prompt = random_prompts(1, len(loaded.tokenizer))[0]

    def sample(seed: int, count: int = 1, tokens: int = 8) -> list[Generated]:
        many = [prompt] * count
        return generate(loaded.model, loaded.tokenizer, many, max_new_tokens=tokens, batch_size=count, sample_seed=seed)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    with torch.no_grad():
        odds = loaded.model(input_ids=torch.tensor([prompt])).logits[0, -1].float().softmax(-1)
    # Several tokens may decode to the same text, special ones to none.
    expected: Counter[str] = Counter()
    for token, share in enumerate(odds.tolist()):
        expected[loaded.tokenizer.decode([token], skip_special_tokens=True)] += share
    found = Counter(reply.text for reply in sample(3, 2000, 1))
    for text, share in expected.most_common(8):
        assert found[text] / 2000 == pytest.approx(share, abs=0.05)
    assert sum(found[text] for text, _ in expected.most_common()[20:]) > 0, "rare tokens are drawn too"


def test_a_models_own_sampling_settings_do_not_change_the_measurement(sharp_model: Path) -> None:
    model, tokenizer = load_model(str(sharp_model)).eval(), load_tokenizer(str(sharp_model))
    prompts = random_prompts(6, len(tokenizer))

    def replies(seed: int | None) -> list[Generated]:
        return generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=6, sample_seed=seed)

    before = replies(None), replies(1)
    model.generation_config.update(repetition_penalty=5.0, temperature=0.1, top_p=0.2, top_k=2, do_sample=True)
    assert (replies(None), replies(1)) == before


def plain_log_prob(model: Any, ids: list[int], marks: list[bool]) -> tuple[float, int]:
    with torch.no_grad():
        found = log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    marked = [i for i in range(1, len(ids)) if marks[i]]
    return sum(found[i - 1, ids[i]].item() for i in marked), len(marked)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=1, max_size=14), min_size=1, max_size=7)
)
@settings(max_examples=30, deadline=None)
def test_log_probs_are_the_plain_ones(loaded: Loaded, rows: list[list[tuple[int, bool]]]) -> None:
    split = [([token for token, _ in row], [mark for _, mark in row]) for row in rows]
    found = log_probs(loaded.model, split, batch_size=3)
    for (score, count), (ids, marks) in zip(found, split, strict=True):
        expected, number = plain_log_prob(loaded.model, ids, marks)
        assert count == number
        assert score == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_scoring_long_rows_takes_fewer_at_once(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(ids, [True] * len(ids)) for ids in random_prompts(9, 300)]
    whole = log_probs(loaded.model, rows, batch_size=9)
    sizes: list[int] = []
    forward = loaded.model.forward

    def spy(*args: Any, **more: Any) -> Any:
        sizes.append(more["input_ids"].numel())
        return forward(*args, **more)

    monkeypatch.setattr(loaded.model, "forward", spy)
    monkeypatch.setattr(generating, "LOGITS_AT_ONCE", 30 * loaded.model.config.vocab_size)
    split = log_probs(loaded.model, rows, batch_size=9)
    assert max(sizes) <= 30
    assert 3 < len(sizes) < 9
    for one, other in zip(split, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([], [], True),
        ([call("f", a=1)], [call("f", a=1)], True),
        ([call("f", a=1), call("g")], [call("g"), call("f", a=1)], True),
        ([call("f", a=1, b=2)], [call("f", b=2, a=1)], True),
        ([call("f", a=1)], [call("f", a=1.0)], True),
        ([call("f", a=1)], [call("f", a=True)], False),
        ([call("f", a=0)], [call("f", a=False)], False),
        ([call("f", a={"x": [1]})], [call("f", a={"x": [True]})], False),
        ([call("f", a="1")], [call("f", a=1)], False),
        ([call("f", a=None)], [call("f")], False),
        ([call("f", a=[1, 2])], [call("f", a=[2, 1])], False),
        ([call("f", a=[{"x": {"y": []}}])], [call("f", a=[{"x": {"y": []}}])], True),
        ([call("f", a=[{"x": {"y": []}}])], [call("f", a=[{"x": {"y": {}}}])], False),
        ([call("f")], [call("g")], False),
        ([call("f")], [call("f"), call("f")], False),
        ([call("f"), call("f")], [call("f")], False),
        ([call("f", a=True), call("f", a=1)], [call("f", a=1), call("f", a=True)], True),
        ([call("f", a=1), call("f", a=1)], [call("f", a=1), call("f", a=True)], False),
    ],
)
def test_calls_are_compared_by_value_in_any_order(found: list[ToolCall], expected: list[ToolCall], same: bool) -> None:
    assert same_calls(found, expected) is same
    assert same_calls(expected, found) is same


def test_reward_accuracy_compares_gains_over_the_reference() -> None:
    def scores(*values: tuple[float, float]) -> list[dict[str, Any]]:
        return [{"log_prob_chosen": chosen, "log_prob_rejected": rejected} for chosen, rejected in values]

    reference = scores((-10, -5), (-10, -5), (-10, -5), (-10, -5))
    # Gains of the chosen and the rejected answer: (2, 1), (-1, -3), (1, 2), (0, 0); a tie is no preference.
    model = scores((-8, -4), (-11, -8), (-9, -3), (-10, -5))
    assert reward_accuracy(model, reference) == 0.5
    assert reward_accuracy([], []) == 0


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Set what the model answers, in order; gives the arguments of each call to `generate`."""

    def prepare(*answers: tuple[str, bool]) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def stub(model: Any, tokenizer: Any, prompts: list[list[int]], **more: Any) -> list[Generated]:
            assert len(prompts) == len(answers)
            asked.append({"prompts": [tokenizer.decode(ids) for ids in prompts], **more})
            return [Generated(*answer) for answer in answers]

        monkeypatch.setattr("smolalign.eval.replies.generate", stub)
        return asked

    return prepare


def asking(question: str, answer: Message, tools: Any = ()) -> Chat:
    return Chat((Message("user", question), answer), tools)


def test_exact_needs_the_very_answer_and_a_stop(loaded: Loaded, replies: Any) -> None:
    rows = [asking(f"q{i}", Message("assistant", "Yes. ")) for i in range(5)]
    asked = replies((" Yes.", True), ("Yes.", False), ("yes.", True), ("Yes. No", True), ("Yes.\n", True))
    measured = tasks.exact(loaded, Exact(data=DATA, max_new_tokens=7), rows)
    assert measured.metrics == {"exact": 2 / 5, "stops": 4 / 5}
    assert (asked[0]["max_new_tokens"], asked[0]["sample_seed"]) == (7, None)
    assert asked[0]["prompts"][1] == "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n"
    assert [sample["reply"] for sample in measured.samples] == [" Yes.", "Yes.", "yes.", "Yes. No", "Yes.\n"]
    assert measured.samples[1]["stopped"] is False
    assert measured.samples[0]["expected"] == "Yes. "


def test_style_counts_unwanted_phrases_and_replies_that_are_too_long(loaded: Loaded, replies: Any) -> None:
    rows = [asking("q", Message("assistant", "x"))] * 4
    asked = replies(("fine", True), ("one two three", True), ("ugh", True), ("ugh two three four", True))
    measured = tasks.style(loaded, Style(data=DATA, max_words=2, unwanted=["ugh", "bah"]), rows)
    assert measured.metrics == {"bad": 3 / 4}
    assert asked[0]["sample_seed"] == loaded.seed
    free = tasks.style(loaded, Style(data=DATA), rows)
    assert free.metrics == {"bad": 0}


def test_tool_calls_are_right_well_formed_or_refused(loaded: Loaded, replies: Any) -> None:
    due = Message("assistant", "", (call("f", a=1), call("g")))
    none_fits = Message("assistant", "", ())
    right = '<tool_call>[{"name": "g", "arguments": {}}, {"name": "f", "arguments": {"a": 1}}]</tool_call>'
    rows = [asking(f"q{i}", due, TOOLS) for i in range(5)] + [asking("q", none_fits, TOOLS)] * 3
    replies(
        (right, True),
        (right, False),
        ("Look: " + right, True),
        (right.replace('"g"', '"h"'), True),
        ("No idea.", True),
        ("<tool_call>[]</tool_call>", True),
        (right, True),
        ("Sorry.", True),
    )
    measured = tasks.tool_calls(loaded, ToolCalls(data=DATA), rows)
    # Text around the calls, and a refusal in words, are wrong against the row and right by syntax.
    shares = {"exact": 2 / 5, "ast": 3 / 5, "well_formed": 4 / 8, "refusals": 1 / 3, "irrelevance": 2 / 3}
    assert measured.metrics == shares
    assert [sample["problem"] for sample in measured.samples] == [
        *(None, None, None, "no tool is named 'h'", "no call", None, None, "no call")
    ]
    verdicts = [(sample.get("exact", sample.get("refusals")), sample.get("error")) for sample in measured.samples]
    assert verdicts == [
        *[(True, None), (True, None), (False, None), (False, "wrong tool"), (False, "no call")],
        *[(True, None), (False, "called though nothing fits"), (False, None)],
    ]
    wrong = {"no call": 1, "wrong tool": 1, "called though nothing fits": 1}
    assert measured.errors == {"asked": 8, "right": 5, **wrong}
    assert measured.samples[0]["tools"] == ["f", "g"]


def test_without_rows_to_refuse_there_is_no_figure_for_refusals(loaded: Loaded, replies: Any) -> None:
    replies(("hm", True))
    rows = [asking("q", Message("assistant", "", (call("f"),)), TOOLS)]
    measured = tasks.tool_calls(loaded, ToolCalls(data=DATA), rows)
    assert measured.metrics == {"exact": 0, "ast": 0, "well_formed": 0}


def test_loss_is_the_mean_over_assistant_tokens_of_all_rows(loaded: Loaded) -> None:
    rows = [asking("a", Message("assistant", "b" * length)) for length in (1, 4, 9, 2)]
    measured = tasks.loss(loaded, Loss(data=DATA), rows)
    scores = []
    for row in rows:
        ids = loaded.tokenizer(
            f"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{row.messages[1].content}<|im_end|>"
        )
        start = len(loaded.tokenizer("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
        length = len(ids["input_ids"])
        scores.append(plain_log_prob(loaded.model, ids["input_ids"], [i >= start for i in range(length)]))
    expected = -sum(score for score, _ in scores) / sum(count for _, count in scores)
    assert measured.metrics["loss"] == pytest.approx(expected, rel=1e-4)
    assert [sample["tokens"] for sample in measured.samples] == [count for _, count in scores]


def test_preference_scores_each_answer_with_its_stop_after_the_prompt(loaded: Loaded) -> None:
    row = Pair((Message("user", "q"),), Message("assistant", "Good."), Message("assistant", "Bad, bad."))
    (sample,) = tasks.preference(loaded, Preference(data=DATA), [row]).samples
    opening = loaded.tokenizer("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    for side, text in (("chosen", "Good."), ("rejected", "Bad, bad.")):
        answer = loaded.tokenizer(f"{text}<|im_end|>")["input_ids"]
        marks = [False] * len(opening) + [True] * len(answer)
        expected, _ = plain_log_prob(loaded.model, [*opening, *answer], marks)
        assert sample[f"log_prob_{side}"] == pytest.approx(expected, rel=1e-4)
