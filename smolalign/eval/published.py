"""The published scores of SmolLM2, and how a measured model stands beside them.

The figures are those of the model cards of HuggingFaceTB/SmolLM2-{135M,360M,1.7B}[-Instruct] on the Hub, whose team
measured them with lighteval, "zero-shot unless stated otherwise"; the prompts are in the team's repository
(huggingface/smollm, text/evaluation/tasks.py). They come without standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """How a published figure was measured, as far as it is known, and what of ours it is compared with.

    Attributes:
        tasks: our benchmarks, or kinds of task, whose figures are averaged; empty where there is none.
        metrics: of these tasks, averaged too.
        shots: examples in front of each item; None where it does not apply.
        differs: how the published measurement is known to differ from ours.
    """

    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    shots: int | None = 0
    differs: str = ""


MEASUREMENTS: dict[str, Measurement] = {
    "IFEval (average prompt/inst)": Measurement(
        ("ifeval",), ("prompt_strict", "inst_strict"), None, "whether strict or loose is not published"
    ),
    "MT-Bench": Measurement(("mt_bench",), ("score",), None, "the judge is not published"),
    "OpenRewrite-Eval (micro_avg RougeL)": Measurement((), ()),
    "HellaSwag": Measurement(("hellaswag",), ("acc_norm",)),
    "ARC (average)": Measurement(("arc_easy", "arc_challenge"), ("acc_norm",)),
    "PIQA": Measurement(("piqa",), ("acc_norm",)),
    "MMLU (cloze)": Measurement(("mmlu_cloze",), ("acc_norm",)),
    "MMLU-Pro (MCF)": Measurement(("mmlu_pro",), ("exact_match",), 0, "letters were scored; here answers are written"),
    "CommonsenseQA": Measurement(("commonsense_qa",), ("acc",), 0, "answers' texts were scored; here letters"),
    "TriviaQA": Measurement(("triviaqa",), ("exact_match",)),
    "Winogrande": Measurement(("winogrande",), ("acc",), 0, "endings were scored by length; here not"),
    "OpenBookQA": Measurement(("openbookqa",), ("acc_norm",)),
    "BBH (3-shot)": Measurement(("bbh",), ("exact_match",), 3, "without chains of thought; here with them"),
    "GSM8K (5-shot)": Measurement(
        ("gsm8k",), ("exact_match_flexible_extract",), 5, "which extraction is not published"
    ),
}

_BASE = ("HellaSwag", "ARC (average)", "PIQA")
_BASE_SMALL = (*_BASE, "MMLU (cloze)", "CommonsenseQA", "TriviaQA", "Winogrande", "OpenBookQA", "GSM8K (5-shot)")
_BASE_LARGE = (*_BASE, "MMLU-Pro (MCF)", "CommonsenseQA", "TriviaQA", "Winogrande", "OpenBookQA", "GSM8K (5-shot)")
_CHAT = ("IFEval (average prompt/inst)", "MT-Bench")
_CHAT_SMALL = (*_CHAT, *_BASE, "MMLU (cloze)", "BBH (3-shot)", "GSM8K (5-shot)")
_CHAT_LARGE = (
    *_CHAT,
    "OpenRewrite-Eval (micro_avg RougeL)",
    *_BASE,
    "MMLU-Pro (MCF)",
    "BBH (3-shot)",
    "GSM8K (5-shot)",
)


def _named(names: tuple[str, ...], *values: float) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


# In percent, MT-Bench from 1 to 10.
PUBLISHED: dict[str, dict[str, float]] = {
    "smollm2-135m": _named(_BASE_SMALL, 42.1, 43.9, 68.4, 31.5, 33.9, 4.1, 51.3, 34.6, 1.4),
    "smollm2-360m": _named(_BASE_SMALL, 54.5, 53.0, 71.7, 35.8, 38.0, 16.9, 52.5, 37.4, 3.2),
    "smollm2-1.7b": _named(_BASE_LARGE, 68.7, 60.5, 77.6, 19.4, 43.6, 36.7, 59.4, 42.2, 31.0),
    # A revision of this card has 19.8 under MT-Bench, whose marks go to 10.
    "smollm2-135m-instruct": _named(_CHAT_SMALL, 29.9, 1.98, 40.9, 37.3, 66.3, 29.3, 28.2, 1.4),
    "smollm2-360m-instruct": _named(_CHAT_SMALL, 41.0, 3.66, 52.1, 43.7, 70.8, 32.8, 27.3, 7.43),
    "smollm2-1.7b-instruct": _named(_CHAT_LARGE, 56.7, 6.13, 44.9, 66.1, 51.7, 74.4, 19.3, 32.2, 48.2),
}

# Width and layers, as published with the weights.
_SHAPES = {(576, 30): "smollm2-135m", (960, 32): "smollm2-360m", (2048, 24): "smollm2-1.7b"}


@dataclass(frozen=True, slots=True)
class Beside:
    """A figure here and as published; both in percent, but for MT-Bench.

    Attributes:
        name: as published, or of our task where nothing is published for it.
        here, error: measured, and its standard error; None where it was not.
        published: None where there is no published figure.
        note: what is known to differ between the two.
        items: how many were asked here.
    """

    name: str
    here: float | None
    error: float | None
    published: float | None
    note: str = ""
    items: int = 0

    @property
    def difference(self) -> float | None:
        """What is measured here, less what is published."""
        return None if self.here is None or self.published is None else self.here - self.published

    @property
    def within(self) -> bool | None:
        """Whether the published figure lies within two standard errors of the one here.

        Where all items came out alike, their error is 0 and says nothing: that of the published share over as many
        items takes its place.
        """
        error = self.error
        if self.published is not None and not error and self.items and 0 < self.published < 100:
            error = math.sqrt(self.published * (100 - self.published) / self.items)
        return None if self.difference is None or not error else abs(self.difference) <= 2 * error


def find_published(name: str, facts: Mapping[str, Any]) -> tuple[str | None, str]:
    """Which published model a measured one is to be held against, and if none, why.

    Args:
        name: of its row.
        facts: an eval step's on it: `source`, `hidden_size` and `layers`.
    """
    shape = (facts.get("hidden_size"), facts.get("layers"))
    size = _SHAPES.get(shape)  # type: ignore[arg-type]
    if size is None:
        return None, f"no published model has its shape ({shape[0]} wide, {shape[1]} layers)"
    source = str(facts.get("source", "")).lower()
    words = {name.lower(), *source.split("@")[0].split("/")}
    if "instruct" in f"{name} {source}".lower() or words & {"sft", "dpo", "fc", "chat"}:
        return f"{size}-instruct", ""
    if words & {"base", "pretrain"} or source.split("@")[0].endswith(size):
        return size, ""
    return None, f"base or instruct cannot be told: --against published:{size} or published:{size}-instruct"


def beside(metrics: Mapping[str, Any], name: str, key: str) -> list[Beside]:
    """Every published figure of a model with what was measured here, then what was measured and is not published.

    Args:
        metrics: an eval step's.
        name: of a model in its table.
        key: of `PUBLISHED`.
    """
    tasks: Mapping[str, Mapping[str, Any]] = metrics["details"][name]
    lines, used = [], set[str]()
    for figure, value in PUBLISHED[key].items():
        measurement = MEASUREMENTS[figure]
        titles = [_title(tasks, wanted, measurement.shots) for wanted in measurement.tasks]
        found = [title for title in titles if title is not None]
        used.update(found)
        if found and len(found) == len(titles):
            here, error = _averaged(metrics, name, found, measurement.metrics)
            # Marks of MT-Bench are no shares.
            items = 0 if measurement.metrics == ("score",) else sum(tasks[title]["items"] for title in found)
            lines.append(Beside(figure, here, error, value, _note(tasks, found, measurement), items))
        else:
            lacking = [one for one, title in zip(measurement.tasks, titles, strict=True) if title is None]
            note = f"{' and '.join(lacking)} was not measured" if found else ""
            lines.append(Beside(figure, None, None, value, note))
    known = {task for measurement in MEASUREMENTS.values() for task in measurement.tasks}
    for title in tasks:
        if title not in used and _kind(tasks[title]) in known:
            names = next(m.metrics for m in MEASUREMENTS.values() if _kind(tasks[title]) in m.tasks)
            lines.append(Beside(title, *_averaged(metrics, name, [title], names), None))
    return lines


def _kind(details: Mapping[str, Any]) -> str:
    return str(details.get("benchmark") or details.get("task"))


def _title(tasks: Mapping[str, Mapping[str, Any]], wanted: str, shots: int | None) -> str | None:
    """The task of that kind; of several, one with as many examples as in the published measurement."""
    found = [title for title, details in tasks.items() if _kind(details) == wanted]
    return next((title for title in found if tasks[title].get("num_fewshot") == shots), next(iter(found), None))


def _averaged(
    metrics: Mapping[str, Any], name: str, titles: list[str], names: tuple[str, ...]
) -> tuple[float | None, float | None]:
    """The mean over metrics, then over tasks, in percent unless it is a mark, with its standard error.

    Tasks have different items, so their errors add as squares. Several metrics of one task are of the same items: the
    mean of their errors is the largest that the mean's can be.
    """
    row = metrics["table"][name]
    values, errors = [], []
    for title in titles:
        stderr = metrics["details"][name][title].get("stderr", {})
        if not all(f"{title}.{one}" in row and one in stderr for one in names):
            return None, None
        values.append(sum(row[f"{title}.{one}"] for one in names) / len(names))
        errors.append(sum(stderr[one] for one in names) / len(names))
    scale = 1 if names == ("score",) else 100
    return scale * sum(values) / len(values), scale * math.hypot(*errors) / len(errors)


def _note(tasks: Mapping[str, Mapping[str, Any]], titles: list[str], measurement: Measurement) -> str:
    notes = [measurement.differs] if measurement.differs else []
    shots = {tasks[title].get("num_fewshot") for title in titles} - {measurement.shots}
    if measurement.shots is not None and shots:
        here = ", ".join(str(number) for number in sorted(shots, key=str))
        notes.append(f"published with {measurement.shots} examples, here {here}")
    return "; ".join(notes)
