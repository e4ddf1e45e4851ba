"""The quality step: annotated texts become a scorer of educational value, measured on annotations it has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolalign.outcome import Outcome
from smolalign.recipe.data import AnnotatedSource, source_names
from smolalign.recipe.schema import QualityStep
from smolalign.report import Reporter
from smolalign.store import whole_folder, write_text

if TYPE_CHECKING:
    from smolalign.quality.annotations import Annotated

# Texts of which scoring is timed, over again where there are fewer.
_TIMED = 2000


@dataclass(slots=True)
class _Texts:
    """Texts with their scores and kinds, as lists of one length."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add(self, found: Annotated, places: Sequence[int]) -> None:
        """Take some of a source's texts."""
        self.texts += [found.texts[place] for place in places]
        self.scores += [found.scores[place] for place in places]
        self.kinds += [found.kinds[place] for place in places]


def run(step: QualityStep, folder: Path, report: Reporter) -> Outcome:
    """Write the scorer into `scorer/`, with a page on how good it is.

    Raises:
        UserError: scikit-learn is missing, annotations cannot be read, or too few are left.
    """
    # NumPy and the rest are loaded by the step that needs them.
    import numpy as np

    from smolalign.quality.figures import held_out_figures
    from smolalign.quality.learn import learn, require_learner

    require_learner()
    train, held_out, sources = _gathered(step, report)
    scorer = learn(train.texts, np.array(train.scores), step.max_characters, step.seed, report)
    report.say(f"learned from {len(train.texts):,} texts, penalty {scorer.about['alpha']:g}")
    metrics: dict[str, Any] = {"texts": len(train.texts), "documents_per_second": _speed(scorer, train.texts)}
    if held_out.texts:
        scored = scorer.score(held_out.texts)
        metrics |= held_out_figures(scored, np.array(held_out.scores), held_out.kinds, step.threshold)
    else:
        report.warn(
            "no annotations are held out, so how good the scorer is is not known: set test_fraction or eval_data"
        )
    with whole_folder(folder / "scorer") as target:
        scorer.save(target)
        write_text(target / "README.md", page(metrics, step.threshold))
    return Outcome(metrics, sources)


def _gathered(step: QualityStep, report: Reporter) -> tuple[_Texts, _Texts, list[dict[str, Any]]]:
    """What is trained on, what is held out, and an entry a source. No text is in both."""
    import numpy as np

    from smolalign.data.assembly.staging import held_out as is_held_out
    from smolalign.data.assembly.text import hash_of
    from smolalign.errors import UserError

    train, test = _Texts(), _Texts()
    for _, found in _read(step.eval_data, step):
        test.add(found, range(len(found.texts)))
    measured = set(test.texts)
    entries = []
    for name, found in _read(step.data, step):
        hashes = np.array([hash_of(text) for text in found.texts], dtype=np.uint64)
        apart = is_held_out(hashes, step.test_fraction, step.seed)
        seen = np.array([text in measured for text in found.texts], dtype=bool)
        stays = np.flatnonzero(~apart & ~seen).tolist()
        train.add(found, stays)
        test.add(found, np.flatnonzero(apart & ~seen).tolist())
        dropped = {**found.dropped, "also in eval_data": int(seen.sum())}
        told = {reason: {"rows": rows} for reason, rows in dropped.items() if rows}
        entry = {"source": name, "rows_in": found.rows_in, "dropped": told, "rows_test": int((apart & ~seen).sum())}
        entries.append({**entry, "rows_out": len(stays)})
        taken = "".join(f", {rows:,} {reason}" for reason, rows in dropped.items() if rows)
        report.say(f"{name}: {found.rows_in:,} annotations{taken}")
    if len(set(train.scores)) < 2:
        what = f"{len(train.texts)} texts to learn from, all of one score" if train.texts else "no text to learn from"
        raise UserError(what, mend="name annotations of several scores")
    return train, test, entries


def _read(sources: Sequence[AnnotatedSource], step: QualityStep) -> list[tuple[str, Annotated]]:
    from smolalign.quality.annotations import read_annotated

    names = source_names(sources)
    return [
        (name, read_annotated(source, name, step.seed, step.max_rejected))
        for name, source in zip(names, sources, strict=True)
    ]


def _speed(scorer: Any, texts: Sequence[str]) -> int:
    """Texts that one process scores in a second, on texts such as these."""
    timed = [texts[place % len(texts)] for place in range(_TIMED)]
    began = time.perf_counter()
    scorer.score(timed)
    return round(len(timed) / (time.perf_counter() - began))


def page(metrics: dict[str, Any], threshold: int) -> str:
    """How good a scorer is, in Markdown: what `step.json` says, for whoever gets the folder alone."""
    lines = [
        "# A scorer of educational value, from 0 to 5",
        "",
        f"Learned from {metrics['texts']:,} annotated texts.",
        "",
    ]
    if "thresholds" not in metrics:
        return "\n".join([*lines, "No annotations were held out, so how good it is is not known.", ""])
    parts = {"all": metrics, **metrics.get("kinds", {})}
    lines += [f"On annotations that it was not trained on, keeping what scores {threshold} or more once rounded:", ""]
    lines += ["| | texts | precision | recall | F1 | mean absolute error | Spearman |", "|---|---|---|---|---|---|---|"]
    shown = ("precision", "recall", "f1", "mean_absolute_error", "spearman")
    lines += [
        f"| {name} | {part['held_out']:,} | {' | '.join(_figure(part[key]) for key in shown)} |"
        for name, part in parts.items()
    ]
    lines += ["", "| from | precision | recall | F1 | kept | annotated so |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {at['threshold']} | {' | '.join(_figure(at[key]) for key in ('precision', 'recall', 'f1'))} "
        f"| {at['kept']:,} | {at['wanted']:,} |"
        for at in metrics["thresholds"]
    ]
    lines += [
        "",
        "Rows: as annotated. Columns: as scored, rounded.",
        "",
        "| | 0 | 1 | 2 | 3 | 4 | 5 |",
        "|" + "---|" * 7,
    ]
    lines += [f"| {score} | {' | '.join(f'{n:,}' for n in row)} |" for score, row in enumerate(metrics["confusion"])]
    return "\n".join([*lines, ""])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
