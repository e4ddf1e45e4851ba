"""The measurements: each takes a loaded model and held-out rows, and gives figures and the outputs behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolalign.chat.calls import Reply, parse_reply
from smolalign.chat.render import render_chat, render_pair, render_prompt
from smolalign.eval.call_items import CallItem, items_of, judge_reply
from smolalign.eval.call_match import CLASSES
from smolalign.eval.generate import Generated, log_probs
from smolalign.eval.harness import Items, measure, template_hash
from smolalign.eval.ifeval.figures import accuracies, values
from smolalign.eval.ifeval.items import Prompt
from smolalign.eval.ifeval.verdict import check
from smolalign.eval.journal import Journal
from smolalign.eval.mt_bench import measure_mt_bench
from smolalign.eval.needle import measure_needle
from smolalign.eval.pairwise import measure_pairwise
from smolalign.eval.perplexity import measure_perplexity
from smolalign.eval.replies import reply_to
from smolalign.recipe.measure import BenchmarkTask, Exact, IfEval, Loss, Preference, Style, ToolCalls
from smolalign.rows import Chat, Message, Pair, ToolCall, message_to_openai

# Those that ask for replies here.
_Replies = Exact | Style | ToolCalls | IfEval


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model under measurement.

    Attributes:
        given: replies by prompt, where a file of them stands in the model's place.
        progress: told what is done, and of how many, by tasks of many answers.
        reference: of the task's own reference, where it has one and this is another model: the samples, row by row.
        journal: where answers and scores are kept as they are found, and those of a run that was cut off lie.
        folder: of the step, where a judge's answers are kept.
    """

    model: Any
    tokenizer: Any
    batch_size: int
    seed: int
    given: Mapping[str, str] | None = None
    progress: Callable[[int, int], None] = lambda done, total: None
    reference: Sequence[dict[str, Any]] | None = None
    journal: Journal = field(default_factory=Journal)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures by metric name (shares are 0 to 1), and one record a row on what was asked and answered.

    A sample has its own value of a metric under the metric's name: a number, true or false, or `[sum, count]` where
    several things are judged on it. Standard errors come from these, for one model and for the difference of two;
    samples with the same `row` are one cluster.

    `errors` counts what was wrong with answers, by class, and under `asked` and `right` the answers and the right ones.
    `details` is what stands behind the figures: `decoding` (None where nothing is generated), the `template` that
    prompts were rendered with, and parts; `stderr` where it is not that of the samples' values.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    errors: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def exact(loaded: Loaded, task: Exact, rows: Sequence[Chat]) -> Measured:
    """Share of greedy replies equal to the row's last turn, blanks at the ends aside, and that stop by themselves."""
    replies = _reply(loaded, task, rows)
    right = [_answer(row).content.strip() == r.text.strip() and r.stopped for row, r in zip(rows, replies, strict=True)]
    samples = [
        {**_asked(row), "expected": _answer(row).content, **_said(r), "exact": one, "stops": r.stopped}
        for row, r, one in zip(rows, replies, right, strict=True)
    ]
    metrics = {"exact": _share(right), "stops": _share([r.stopped for r in replies])}
    return Measured(metrics, samples, details=_generated(loaded, task))


def style(loaded: Loaded, task: Style, rows: Sequence[Chat]) -> Measured:
    """Share of sampled replies that hold an unwanted phrase, are too long (or do not stop), or either."""
    replies = _reply(loaded, task, rows, sample_seed=loaded.seed)
    unwanted = [any(phrase in reply.text for phrase in task.unwanted) for reply in replies]
    limit = task.max_words or float("inf")
    too_long = [len(reply.text.split()) > limit or not reply.stopped for reply in replies]
    samples = [
        {**_asked(row), **_said(r), "unwanted": u, "too_long": t, "bad": u or t}
        for row, r, u, t in zip(rows, replies, unwanted, too_long, strict=True)
    ]
    bad = _share([sample["bad"] for sample in samples])
    return Measured({"bad": bad}, samples, details=_generated(loaded, task, loaded.seed))


def preference(loaded: Loaded, task: Preference, rows: Sequence[Pair]) -> Measured:
    """Share of pairs whose chosen answer is likelier, and the reward accuracy against the reference."""
    pairs = [render_pair(loaded.tokenizer, row) for row in rows]
    sides = [
        ([*pair.prompt_ids, *answer], [False] * len(pair.prompt_ids) + [True] * len(answer))
        for pair in pairs
        for answer in (pair.chosen_ids, pair.rejected_ids)
    ]
    scores = [score for score, _ in _scores(loaded, sides)]
    samples: list[dict[str, Any]] = [
        {
            **_asked_of(row.prompt, row.tools),
            "log_prob_chosen": chosen,
            "log_prob_rejected": rejected,
            "chosen_likelier": chosen > rejected,
        }
        for row, chosen, rejected in zip(rows, scores[::2], scores[1::2], strict=True)
    ]
    metrics = {"chosen_likelier": _share([sample["chosen_likelier"] for sample in samples])}
    if loaded.reference is not None:
        gained = gains(samples, loaded.reference)
        samples = [{**sample, "reward_accuracy": one} for sample, one in zip(samples, gained, strict=True)]
        metrics = {"reward_accuracy": _share(gained), **metrics}
    return Measured(metrics, samples, details=_scored(loaded))


def tool_calls(loaded: Loaded, task: ToolCalls, rows: Sequence[Chat | CallItem]) -> Measured:
    """Share of turns with the right calls, with well-formed ones, and, where no tool fits, with none.

    Every assistant turn that calls, or decides that no tool fits, is measured, and in a chat without one its last
    turn, on which any call is wrong. `ast` and, where no call is due, `irrelevance` are as `call_match` judges. Against
    a row's own turn, `exact` is the same calls by value, in any order, `refusals` the very refusal, and both want no
    text that the row does not have. Well-formed means a whole call list, of offered tools only, on the turns where one
    is due. Of a set of several categories each has its own share of `ast`.
    """
    numbered = [(number, item) for number, row in enumerate(rows) for item in items_of(row)]
    items = [item for _, item in numbered]
    replies = _reply_to(loaded, task, [(item.messages, item.tools) for item in items])
    categories = {item.category for item in items if item.expected}
    samples: list[dict[str, Any]] = []
    verdicts: dict[str, list[bool]] = {}
    wrong: Counter[str] = Counter()
    for (row, item), reply in zip(numbered, replies, strict=True):
        mismatch = judge_reply(reply.text, item.expected)
        read = parse_reply(reply.text)
        found = {"ast" if item.expected else "irrelevance": mismatch is None}
        if item.answer is not None:
            found["exact" if item.expected else "refusals"] = _is_exact(read, item.answer)
        if item.expected or (item.answer is not None and item.answer.tool_calls is not None):
            found["well_formed"] = reply.stopped and _only_offered(read, item.tools)
        if item.expected and len(categories) > 1:
            found[item.category] = mismatch is None
        for name, verdict in found.items():
            verdicts.setdefault(name, []).append(verdict)
        wrong.update([mismatch.kind] if mismatch else [])
        strict = parse_reply(reply.text, item.tools)
        problem = strict.problem or ("no call" if strict.calls is None else None)
        category = {"category": item.category} if item.category else {}
        judged = {"error": mismatch.kind, "detail": mismatch.detail} if mismatch else {}
        asked = {**category, "row": row, **_asked_of(item.messages, item.tools), "expected": item.shown}
        asked |= _said(reply)
        samples.append({**asked, "problem": problem, **found, **judged})
    errors = {"asked": len(items), "right": len(items) - wrong.total(), **{c: wrong[c] for c in CLASSES if wrong[c]}}
    names = [*(name for name in _CALL_METRICS if name in verdicts), *sorted(categories & verdicts.keys())]
    return Measured({name: _share(verdicts[name]) for name in names}, samples, errors, _generated(loaded, task))


# In the order of the table.
_CALL_METRICS = ("exact", "ast", "well_formed", "refusals", "irrelevance")


def _only_offered(read: Reply, tools: Sequence[dict[str, Any]]) -> bool:
    """Whether a reply has a list of calls, all to tools on offer."""
    offered = {tool["name"] for tool in tools}
    return read.calls is not None and all(call.name in offered or not offered for call in read.calls)


def _is_exact(read: Reply, answer: Message) -> bool:
    """Whether a reply is the row's own turn: its calls, or none, and no text around calls that it does not have."""
    if answer.tool_calls is None:
        return not read.calls and read.problem is None
    only_calls = bool(answer.content) or not read.text
    return read.calls is not None and only_calls and same_calls(list(read.calls), list(answer.tool_calls))


def loss(loaded: Loaded, task: Loss, rows: Sequence[Chat]) -> Measured:
    """Mean loss, in nats a token, over the assistant's tokens of all rows."""
    rendered = [render_chat(loaded.tokenizer, row) for row in rows]
    scores = _scores(loaded, [(r.ids, r.trained) for r in rendered])
    tokens = sum(count for _, count in scores)
    samples = [
        {**_asked(row), "log_prob": score, "tokens": count, "loss": [-score, count]}
        for row, (score, count) in zip(rows, scores, strict=True)
    ]
    metrics = {"loss": -sum(score for score, _ in scores) / max(1, tokens)}
    return Measured(metrics, samples, details={**_scored(loaded), "tokens": tokens})


def ifeval(loaded: Loaded, task: IfEval, prompts: Sequence[Prompt]) -> Measured:
    """Share of prompts with all instructions followed by greedy replies, and of instructions; strict and loose."""
    asked = [(Message("user", prompt.text),) for prompt in prompts]
    if loaded.given is None:
        replies = _reply_to(loaded, task, [(messages, ()) for messages in asked])
    else:
        replies = [Generated(loaded.given[prompt.text], True) for prompt in prompts]
    verdicts = [
        check(prompt.instruction_ids, prompt.kwargs, reply.text) for prompt, reply in zip(prompts, replies, strict=True)
    ]
    metrics, details = accuracies(prompts, verdicts)
    samples = [
        {
            "key": prompt.key,
            **_asked_of(messages, ()),
            **_said(reply),
            "instructions": list(prompt.instruction_ids),
            "kwargs": list(prompt.kwargs),
            "strict": list(verdict.strict),
            "loose": list(verdict.loose),
            **values(verdict),
        }
        for prompt, messages, reply, verdict in zip(prompts, asked, replies, verdicts, strict=True)
    ]
    if loaded.given is None:
        details |= _generated(loaded, task)
    return Measured(metrics, samples, details=details)


def benchmark(loaded: Loaded, task: BenchmarkTask, items: Items) -> Measured:
    """The scores of a published benchmark, by lm-evaluation-harness."""
    scores = measure(loaded, task, items)
    return Measured(scores.means, scores.samples, details=scores.details)


def _of_its_own(measure: Callable[..., Any]) -> Callable[[Loaded, Any, Any], Measured]:
    """A measurement from a module of its own, which gives metrics, samples and details."""

    def measured(loaded: Loaded, task: Any, rows: Any) -> Measured:
        metrics, samples, details = measure(loaded, task, rows)
        return Measured(metrics, samples, details=details)

    return measured


TASKS: dict[str, Callable[[Loaded, Any, Any], Measured]] = {
    "exact": exact,
    "style": style,
    "preference": preference,
    "tool_calls": tool_calls,
    "loss": loss,
    "ifeval": ifeval,
    "benchmark": benchmark,
    "mt_bench": _of_its_own(measure_mt_bench),
    "pairwise": _of_its_own(measure_pairwise),
    "needle": _of_its_own(measure_needle),
    "perplexity": _of_its_own(measure_perplexity),
}


def same_calls(found: list[ToolCall], expected: list[ToolCall]) -> bool:
    """Whether two lists hold equal calls in any order; 1 and 1.0 are equal, 1 and True are not."""
    left = list(expected)
    for call in found:
        same = (_same(call.name, other.name) and _same(call.arguments, other.arguments) for other in left)
        match = next((index for index, is_same in enumerate(same) if is_same), None)
        if match is None:
            return False
        del left[match]
    return not left


def reward_accuracy(model: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> float:
    """Share of pairs whose chosen answer gained more log-probability over the reference than the rejected one."""
    return _share(gains(model, reference))


def gains(model: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> list[bool]:
    """Of each pair, whether its chosen answer gained more log-probability over the reference than the rejected one.

    That is DPO's implicit reward (Rafailov et al. 2023, equation 5) compared; beta does not change the comparison.
    """
    return [
        (m["log_prob_chosen"] - r["log_prob_chosen"]) > (m["log_prob_rejected"] - r["log_prob_rejected"])
        for m, r in zip(model, reference, strict=True)
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _reply(
    loaded: Loaded, task: Exact | Style, rows: Sequence[Chat], sample_seed: int | None = None
) -> list[Generated]:
    return _reply_to(loaded, task, [(row.messages[:-1], row.tools) for row in rows], sample_seed)


def _reply_to(
    loaded: Loaded,
    task: _Replies,
    asked: Sequence[tuple[Sequence[Message], Sequence[dict[str, Any]]]],
    sample_seed: int | None = None,
) -> list[Generated]:
    prompts = [render_prompt(loaded.tokenizer, messages, tools) for messages, tools in asked]
    return reply_to(loaded, prompts, max_new_tokens=task.max_new_tokens, sample_seed=sample_seed)


def _scores(loaded: Loaded, rows: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> list[tuple[float, int]]:
    """Summed log-probability of the marked tokens of each row, and their number."""
    recalled = loaded.journal.of("score", [[list(ids), list(marks)] for ids, marks in rows])
    known = {place: (float(score), int(count)) for place, (score, count) in recalled.known.items()}
    return log_probs(loaded.model, rows, batch_size=loaded.batch_size, scored=recalled.keep, known=known)


def _generated(loaded: Loaded, task: _Replies, seed: int | None = None) -> dict[str, Any]:
    """How replies came about: greedy, or sampled by a seed from the whole distribution."""
    how = {"do_sample": False} if seed is None else {"do_sample": True, "temperature": 1.0, "seed": seed}
    return {"decoding": {**how, "max_new_tokens": task.max_new_tokens}, "template": template_hash(loaded.tokenizer)}


def _scored(loaded: Loaded) -> dict[str, Any]:
    return {"decoding": None, "template": template_hash(loaded.tokenizer)}


def _said(reply: Generated) -> dict[str, Any]:
    return {"reply": reply.text, "stopped": reply.stopped, **({"unread": True} if reply.unread else {})}


def _answer(row: Chat) -> Message:
    return row.messages[-1]


def _asked(row: Chat) -> dict[str, Any]:
    return _asked_of(row.messages[:-1], row.tools)


def _asked_of(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": [message_to_openai(message) for message in messages]}
    return {**asked, "tools": [tool["name"] for tool in tools]} if tools else asked


def _share(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts) if verdicts else 0.0
