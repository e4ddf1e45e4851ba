"""How pages for people are rendered: one look (`look.css`), pieces (`parts.html.jinja`), text that stays text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from smolalign.data.assembly import figures

# Control characters have pictures of their own; what cannot be written as UTF-8 or does not belong in HTML has none.
_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"} | {127: "\u2421"}
_NO_TEXT = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@cache
def page_environment(folder: Path) -> Environment:
    """Jinja for the templates of a folder and the pieces that all pages share; what a value holds is shown as text."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": figures.count, "compact": figures.compact, "cut": cut}
    environment.globals |= {"share": figures.share, "width": figures.width}
    return environment


def cut(text: str, characters: int) -> str:
    """The beginning of a text, with a word on how much is missing."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]} \u2026 ({len(text) - characters:,} more characters)"


def _printable(value: object) -> object:
    """Text without characters that a page cannot hold; everything else, such as markup, as it is."""
    return _NO_TEXT.sub("\ufffd", value.translate(_PICTURES)) if type(value) is str else value
