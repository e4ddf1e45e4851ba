"""The language of a text by langdetect, which IFEval is defined by."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.eval.ifeval.sentences import INSTALL


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of a text's language, None where the text tells nothing of it.

    langdetect draws at random, and the original leaves it so: a short text may get another language at each look. Here
    each text is looked at with the same seed.

    Raises:
        UserError: langdetect is not installed.
    """
    factory, nothing_found = load_detector()
    detector = factory.create()
    detector.append(text)
    try:
        return str(detector.detect())
    except nothing_found:
        return None


@functools.cache
def load_detector() -> tuple[Any, type[Exception]]:
    """langdetect's factory of detectors, and what they raise. Raises UserError where it is not installed."""
    try:
        from langdetect import DetectorFactory, LangDetectException
        from langdetect.detector_factory import PROFILES_DIRECTORY
    except ImportError:
        raise UserError("languages are told by langdetect, which is not installed", mend=INSTALL) from None
    # A factory of our own: what another user of the library sets has no effect. langdetect itself takes the profiles in
    # the order in which the file system has them.
    factory = DetectorFactory()
    factory.load_json_profile([file.read_text(encoding="utf-8") for file in sorted(Path(PROFILES_DIRECTORY).iterdir())])
    factory.set_seed(0)
    return factory, LangDetectException
