"""The data report as one HTML page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from smolalign.data.assembly import figures
from smolalign.data.assembly.reasons import BALANCE, CONTAMINATED, EQUAL, NEAR, NOT_DRAWN, OVER_MAX_ROWS, in_stages

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

# Control characters have pictures of their own; what cannot be written as UTF-8 or does not belong in HTML has none.
_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"} | {127: "\u2421"}
_NO_TEXT = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def render_page(report: Mapping[str, Any], title: str) -> str:
    """The page of a data report, under a title. Whatever its texts hold is shown as text."""
    reasons = figures.reasons(report)
    examples = _examples(report, {line["name"]: line["rows"] for line in reasons})
    sources = [
        {**source, "flow": figures.flow(source), "histogram": figures.histogram(source["lengths"])}
        for source in report["sources"]
    ]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=title,
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


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": figures.count, "compact": figures.compact, "cut": _cut}
    environment.globals |= {"share": figures.share, "width": figures.width}
    environment.globals |= {"text_characters": TEXT_CHARACTERS, "span_characters": SPAN_CHARACTERS}
    return environment


def _printable(value: object) -> object:
    """Text without characters that a page cannot hold; everything else, such as markup, as it is."""
    return _NO_TEXT.sub("\ufffd", value.translate(_PICTURES)) if type(value) is str else value


def _cut(text: str, characters: int) -> str:
    """The beginning of a text, with a word on how much is missing."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]} \u2026 ({len(text) - characters:,} more characters)"
