"""What may leave this machine of what manifests and recipes hold: no paths of its folders, and no secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

WITHHELD = "(withheld)"
_SECRET_NAME = re.compile(r"(?:^|_)(?:(?<!pad_)(?<!eos_)token|api_?key|secret|password)$", re.IGNORECASE)
# Tokens of the Hub and keys of OpenAI's kind.
_SECRET = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})")
# A path that begins at the root or at home, with a folder in it, where it does not go on a word, a URL or another path.
_PATH = re.compile(r"(?<![\w.:/~<>])(?:file://)?(?:~|(?:/[^\s/\"'`,;|<>]+)+)/(?P<name>[^\s/\"'`,;|<>]+)")


def public(value: Any) -> Any:
    """A JSON value without the folders of paths and without secrets, which are withheld by their names and their form.

    A text that is an absolute path is left its last part; relative paths and Hub ids stay.
    """
    if isinstance(value, dict):
        return {
            public_text(str(key)): WITHHELD if _is_secret(str(key), item) else public(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return public_text(value) if isinstance(value, str) else value


def public_text(text: str) -> str:
    """A text without folders of paths and without secrets."""
    # Names of files that are not UTF-8 hold what cannot be written.
    text = text.encode("utf-8", "replace").decode()
    if text.startswith(("/", "~/")) and "\n" not in text:
        return _SECRET.sub(WITHHELD, Path(text).name or "/")
    return _PATH.sub(lambda found: found["name"], _SECRET.sub(WITHHELD, text))


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and _SECRET_NAME.search(name) is not None
