"""Rows to token columns for the trainers, with a ledger of everything that did not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset

from smolalign.chat.render import Rendered, render_chat, render_pair
from smolalign.errors import UserError
from smolalign.report import Reporter
from smolalign.rows import Chat, Document, Pair

# The label that PyTorch's cross entropy skips.
IGNORED = -100
# Rows in a part of a table of tokens, and the type of its columns.
PART_ROWS = 10_000
TOKEN_IDS = pa.list_(pa.int32())

# Sources that lost something and are named one by one; a mixture may have hundreds of files.
NAMED_SOURCES = 5


@dataclass(slots=True)
class Count:
    """Rows and tokens kept, and lost to `max_length`. A row that is cut is kept as well, without its end.

    `tokens_cut` are those at the ends of cut rows, `tokens_dropped` those of rows dropped whole.
    """

    rows: int = 0
    tokens: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0
    rows_dropped: int = 0
    tokens_dropped: int = 0

    @property
    def rows_lost(self) -> int:
        return self.rows_cut + self.rows_dropped

    @property
    def tokens_lost(self) -> int:
        return self.tokens_cut + self.tokens_dropped

    @property
    def rows_seen(self) -> int:
        return self.rows + self.rows_dropped

    def line(self) -> str:
        """What was lost, on one line."""
        share = 100 * self.tokens_lost / (self.tokens + self.tokens_lost)
        return (
            f"{self.rows_cut:,} cut and {self.rows_dropped:,} dropped of {self.rows_seen:,} rows, "
            f"{self.tokens_lost:,} tokens lost ({share:.1f} %)"
        )


@dataclass(slots=True)
class Ledger(Count):
    """What tokenizing kept, cut and dropped: in all, and by source, which is the file or the Hub id of a row."""

    trained_tokens: int = 0
    longest_tokens: int = 0
    by_source: dict[str, Count] = field(default_factory=dict)

    def keep(self, origin: str, tokens: int, trained_tokens: int, *, cut: int = 0) -> None:
        """Count a row of so many tokens, without the `cut` ones that it lost at its end."""
        self.trained_tokens += trained_tokens
        self.longest_tokens = max(self.longest_tokens, tokens)
        for count in (self, self._of(origin)):
            count.rows += 1
            count.tokens += tokens
            count.rows_cut += cut > 0
            count.tokens_cut += cut

    def drop(self, origin: str, tokens: int) -> None:
        """Count a row that is dropped, because within `max_length` nothing of it could be trained on."""
        for count in (self, self._of(origin)):
            count.rows_dropped += 1
            count.tokens_dropped += tokens

    def _of(self, origin: str) -> Count:
        """`origin` is `path:line` or `path#row N`."""
        return self.by_source.setdefault(origin.split("#")[0].rsplit(":", 1)[0], Count())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The ledger for the screen: one line of totals, then one for each source that lost something."""
        trained = 100 * self.trained_tokens / max(1, self.tokens)
        kept = f"{self.rows:,} rows, {self.tokens:,} tokens, {trained:.0f} % trained on"
        worst = self._worst_first()
        if not worst:
            return [f"{kept}; nothing cut or dropped"]
        named = [f"  {self._short(name)}: {self.by_source[name].line()}" for name in worst[:NAMED_SOURCES]]
        more = len(worst) - NAMED_SOURCES
        rest = [f"  and {more} more sources; all are in step.json"] if more > 0 else []
        return [f"{kept}; {self.line()}", *named, *rest]

    def _worst_first(self) -> list[str]:
        """The sources that lost rows, those that lost most first."""
        lost = [name for name, count in self.by_source.items() if count.rows_lost]
        return sorted(lost, key=lambda name: (-self.by_source[name].rows_lost, name))

    def _short(self, name: str) -> str:
        """A source's name without its folder, unless two sources would then have one name."""
        names = [other.rsplit("/", 1)[-1] for other in self.by_source]
        short = name.rsplit("/", 1)[-1]
        return short if names.count(short) == 1 else name

    def check(self, max_cut: float, max_length: int) -> None:
        """Raise if more than the share `max_cut` of the rows was cut or dropped, or if nothing is left."""
        if self.rows_lost > max_cut * self.rows_seen:
            worst = self._worst_first()[0]
            count = self.by_source[worst]
            raise UserError(
                f"{self.rows_lost} of {self.rows_seen} rows are longer than max_length {max_length} tokens "
                f"({self.rows_cut} would be cut, {self.rows_dropped} dropped), more than max_cut {max_cut:g} allows; "
                f"most are of {self._short(worst)}: {count.rows_lost} of its {count.rows_seen} rows",
                mend="raise max_length, or max_cut if you accept the loss",
            )
        if not self.rows:
            raise UserError(
                f"no row is left to train on within max_length {max_length} tokens", mend="raise max_length"
            )


class TokenColumns:
    """Columns of token ids that are given row by row, kept as a table's parts: a list takes ten times the memory.

    Args:
        names: of the columns.
    """

    def __init__(self, *names: str) -> None:
        self._lists: dict[str, list[list[int]]] = {name: [] for name in names}
        self._parts: list[pa.Table] = []

    def add(self, *row: list[int]) -> None:
        """A row, a list a column."""
        for column, ids in zip(self._lists.values(), row, strict=True):
            column.append(ids)
        if len(column) == PART_ROWS:
            self._end_part()

    def dataset(self) -> Dataset:
        """All rows."""
        self._end_part()
        return Dataset(pa.concat_tables(self._parts))

    def _end_part(self) -> None:
        self._parts.append(pa.table({name: pa.array(ids, TOKEN_IDS) for name, ids in self._lists.items()}))
        self._lists = {name: [] for name in self._lists}


def say_ledger(what: str, ledger: Ledger, report: Reporter) -> None:
    """Show the ledger of the rows that `what` names."""
    first, *rest = ledger.lines()
    for line in (f"{what}: {first}", *rest):
        report.say(line)


def tokenize_documents(tokenizer: Any, rows: Sequence[Document], max_length: int) -> tuple[Dataset, Ledger]:
    """Pretraining rows: every token trained on, `<|endoftext|>` (the padding token here) after each document.

    Documents longer than `max_length` go on in a further row; nothing is lost.

    Returns:
        A dataset of `input_ids` and `labels`, each `[length]`, and the ledger.
    """
    ledger = Ledger()
    columns = TokenColumns("input_ids", "labels")
    encoded = tokenizer([row.text for row in rows], add_special_tokens=False)["input_ids"]
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for row, ids in zip(rows, encoded, strict=True):
        ids = [*ids, end_of_text]
        for start in range(0, len(ids), max_length):
            part = ids[start : start + max_length]
            ledger.keep(row.origin, len(part), len(part))
            columns.add(part, part)
    return columns.dataset(), ledger


def tokenize_chats(tokenizer: Any, rows: Sequence[Chat], max_length: int) -> tuple[Dataset, Ledger]:
    """SFT rows: labels on assistant tokens and their stop tokens, -100 elsewhere.

    A row that is too long loses its end; one that would lose every trained token is dropped. Both are counted.

    Returns:
        A dataset of `input_ids` and `labels`, each `[length]`, and the ledger.
    """
    ledger = Ledger()
    columns = TokenColumns("input_ids", "labels")
    for row in rows:
        kept = _fit(_without_untrained_end(render_chat(tokenizer, row)), max_length, row.origin, ledger)
        if kept is None:
            continue
        labels = [token if mark else IGNORED for token, mark in zip(kept.ids, kept.trained, strict=True)]
        columns.add(kept.ids, labels)
    return columns.dataset(), ledger


def tokenize_pairs(tokenizer: Any, rows: Sequence[Pair], max_length: int) -> tuple[Dataset, Ledger]:
    """DPO rows. An answer that does not fit after its prompt is cut, and counted; a prompt that leaves it no room
    drops the row, and that is counted too.

    Returns:
        A dataset of `prompt_ids`, `chosen_ids` and `rejected_ids`, each `[length]`, and the ledger, in which a pair is
        one row and its trained tokens are those of both answers.
    """
    ledger = Ledger()
    columns = TokenColumns("prompt_ids", "chosen_ids", "rejected_ids")
    for row in rows:
        pair = render_pair(tokenizer, row)
        answers = (pair.chosen_ids, pair.rejected_ids)
        total = len(pair.prompt_ids) + sum(map(len, answers))
        room = max_length - len(pair.prompt_ids)
        if room <= 0:
            ledger.drop(row.origin, total)
            continue
        lost = sum(max(0, len(ids) - room) for ids in answers)
        columns.add(pair.prompt_ids, pair.chosen_ids[:room], pair.rejected_ids[:room])
        ledger.keep(row.origin, total - lost, sum(min(len(ids), room) for ids in answers), cut=lost)
    return columns.dataset(), ledger


def _without_untrained_end(row: Rendered) -> Rendered:
    """The row up to its last trained token: what follows cannot change any loss."""
    end = len(row.trained) - row.trained[::-1].index(True) if any(row.trained) else 0
    return Rendered(row.ids[:end], row.trained[:end])


def _fit(row: Rendered, max_length: int, origin: str, ledger: Ledger) -> Rendered | None:
    """The row within `max_length`, or None where nothing trained would remain; the ledger knows."""
    kept = Rendered(row.ids[:max_length], row.trained[:max_length])
    if len(row.ids) > max_length and not any(kept.trained[1:]):
        ledger.drop(origin, len(row.ids))
        return None
    ledger.keep(origin, len(kept.ids), sum(kept.trained), cut=len(row.ids) - len(kept.ids))
    return kept
