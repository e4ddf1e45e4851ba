"""Names of splits and files that hold rows to measure on, which no step trains on."""

from __future__ import annotations

import re
from pathlib import PurePath

# The published splits of ultrafeedback_binarized, ultrachat_200k and smoltalk; a letter after them makes another word.
_PUBLISHED = r"test_(?:prefs|sft|gen)(?![a-z0-9])"
_FILE = re.compile(rf"(?:{_PUBLISHED}|test[-.]).*", re.IGNORECASE)
_FOLDER = re.compile(rf"{_PUBLISHED}.*", re.IGNORECASE)
_DATA_FILE = re.compile(r".*\.(?:jsonl|json|parquet|txt)", re.IGNORECASE)
_HUB_ID = re.compile(r"[^./~][^/]*/[^/]+")


def is_test_file(name: str) -> bool:
    """Whether a data file is named as rows to measure on: `test.jsonl`, `test-00000-of-00001.parquet`,
    `test_prefs.jsonl`; not `test_cases.jsonl`, nor `tests.jsonl`."""
    return bool(_DATA_FILE.fullmatch(name) and _FILE.fullmatch(name))


def is_held_out_split(split: str) -> bool:
    """Whether a split, or one of several joined by `+`, holds rows to measure on: all that begin with `test`, `all`."""
    return any(part.strip().startswith(("test", "all")) for part in split.split("+"))


def is_held_out_source(source: str) -> bool:
    """Whether a source's own name says that it holds rows to measure on.

    So does a file as in `is_test_file`, and one in a folder of a published test split (`test_prefs/0000.parquet`, the
    Hub's layout); such a folder itself; and a folder `test`, unless what is written could be a Hub id (`owner/test`).
    Nothing is looked up.
    """
    path = PurePath(source)
    if _DATA_FILE.fullmatch(path.name):
        return is_test_file(path.name) or bool(_FOLDER.fullmatch(path.parent.name))
    return bool(_FOLDER.fullmatch(path.name)) or (path.name.lower() == "test" and not _HUB_ID.fullmatch(source))
