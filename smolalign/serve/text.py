"""Stop strings in text as it comes: nothing is given out that may turn out to begin one."""

from __future__ import annotations

from collections.abc import Sequence


class Finder:
    """Looks for the first of some strings in text that comes in pieces of any size.

    Args:
        wanted: strings, none of them empty.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = wanted
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The text that is certain to stand before any wanted string.

        Once one is `found`, the text in front of it; nothing may be added afterwards.
        """
        self._held += text
        places = [place for one in self._wanted if (place := self._held.find(one)) >= 0]
        if places:
            self.found = True
            return self._held[: min(places)]
        keep = max((_overlap(self._held, one) for one in self._wanted), default=0)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    def rest(self) -> str:
        """What was held back when no more text follows; from the wanted string on, where one was found."""
        if not self.found:
            return self._held
        return self._held[min(place for one in self._wanted if (place := self._held.find(one)) >= 0) :]


def _overlap(text: str, wanted: str) -> int:
    """The length of the longest end of `text` that begins `wanted`, which it does not hold in full."""
    longest = min(len(text), len(wanted) - 1)
    return next((size for size in range(longest, 0, -1) if wanted.startswith(text[-size:])), 0)
