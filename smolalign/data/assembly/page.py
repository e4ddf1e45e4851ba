"""The data report as one HTML page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolalign.data.assembly import figures
from smolalign.data.assembly.reasons import BALANCE, CONTAMINATED, EQUAL, NEAR, NOT_DRAWN, OVER_MAX_ROWS, in_stages
from smolalign.pages.environment import page_environment

TEMPLATE = "page.html.jinja"
# Characters of a row's text that the page shows at most.
TEXT_CHARACTERS = 4000
SPAN_CHARACTERS = 600

# What the reasons mean that do not say so themselves; filters are named as in the recipe.
MEANING = {
    CONTAMINATED: "shares a question, or a long run of its words, with an evaluation set",
    EQUAL: "the same text as a row that stays",
    NEAR: "almost the same text as a row that stays",
    BALANCE: "left out so that the longer answer is not the better one more often than not",
    NOT_DRAWN: "not among the share of its source that was drawn",
    OVER_MAX_ROWS: "its source had given as many rows as it may",
}


def render_page(report: Mapping[str, Any], title: str) -> str:
    """The page of a data report, under a title. Whatever its texts hold is shown as text."""
    reasons = figures.reasons(report)
    examples = _examples(report, {line["name"]: line["rows"] for line in reasons})
    sources = [
        {**source, "flow": figures.flow(source), "histogram": figures.histogram(source["lengths"])}
        for source in report["sources"]
    ]
    return (
        page_environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            title=title,
            text_characters=TEXT_CHARACTERS,
            span_characters=SPAN_CHARACTERS,
            report=report,
            sources=sources,
            reasons=reasons,
            meaning=MEANING,
            examples=examples,
            example_of={example["reason"]: number for number, example in enumerate(examples, start=1)},
            duplicates=figures.duplicates(report["duplicates"], [source["source"] for source in report["sources"]]),
            contamination=figures.contamination(report),
        )
    )


def _examples(report: Mapping[str, Any], rows: Mapping[str, int]) -> list[dict[str, Any]]:
    """Examples per reason, in the order of the stages."""
    examples: Mapping[str, Any] = report["examples"]
    return [
        {"reason": reason, "rows": rows.get(reason, 0), "shown": examples[reason]}
        for reason in in_stages([rows, examples])
        if examples.get(reason)
    ]
