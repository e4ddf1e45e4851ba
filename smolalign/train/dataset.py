"""Rows to token columns for the trainers, with a ledger of everything that did not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from datasets import Dataset

from smolalign.chat.render import Rendered, render_chat, render_pair
from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Pair

# The label that PyTorch's cross entropy skips.
IGNORED = -100


@dataclass(slots=True)
class Ledger:
    """What tokenizing kept, cut and dropped, in rows and tokens; `by_source` counts cut and dropped rows a file."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest_tokens: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0
    rows_dropped: int = 0
    by_source: dict[str, int] = field(default_factory=dict)

    def add(self, tokens: int, trained_tokens: int) -> None:
        self.rows += 1
        self.tokens += tokens
        self.trained_tokens += trained_tokens
        self.longest_tokens = max(self.longest_tokens, tokens)

    def lose(self, origin: str, tokens: int, *, whole_row: bool) -> None:
        """Count a row that is too long: cut at its end, or dropped because nothing to train on would remain."""
        self.rows_cut += not whole_row
        self.rows_dropped += whole_row
        self.tokens_cut += tokens
        source = origin.split("#")[0].rsplit(":", 1)[0]
        self.by_source[source] = self.by_source.get(source, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """The ledger on one line."""
        share = 100 * self.trained_tokens / max(1, self.tokens)
        lost = f"{self.rows_cut} rows cut, {self.rows_dropped} dropped, {self.tokens_cut:,} tokens lost"
        return f"{self.rows:,} rows, {self.tokens:,} tokens, {share:.0f} % trained on; {lost}"

    def check(self, max_cut: float, max_length: int) -> None:
        """Raise if more than the share `max_cut` of the rows was cut or dropped, or if nothing is left."""
        lost = self.rows_cut + self.rows_dropped
        whole = self.rows + self.rows_dropped
        if lost > max_cut * whole:
            raise UserError(
                f"{lost} of {whole} rows are longer than max_length {max_length} tokens "
                f"({self.rows_cut} would be cut, {self.rows_dropped} dropped), more than max_cut {max_cut:g} allows",
                mend="raise max_length, or max_cut if you accept the loss",
            )
        if not self.rows:
            raise UserError(
                f"no row is left to train on within max_length {max_length} tokens", mend="raise max_length"
            )


def tokenize_documents(tokenizer: Any, rows: Sequence[Document], max_length: int) -> tuple[Dataset, Ledger]:
    """Pretraining rows: every token trained on, `<|endoftext|>` (the padding token here) after each document.

    Documents longer than `max_length` go on in a further row; nothing is lost.

    Returns:
        A dataset of `input_ids` and `labels`, each `[length]`, and the ledger.
    """
    ledger = Ledger()
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    encoded = tokenizer([row.text for row in rows], add_special_tokens=False)["input_ids"]
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for ids in encoded:
        ids = [*ids, end_of_text]
        for start in range(0, len(ids), max_length):
            part = ids[start : start + max_length]
            ledger.add(len(part), len(part))
            columns["input_ids"].append(part)
            columns["labels"].append(part)
    return Dataset.from_dict(columns), ledger


def tokenize_chats(tokenizer: Any, rows: Sequence[Chat], max_length: int) -> tuple[Dataset, Ledger]:
    """SFT rows: labels on assistant tokens and their stop tokens, -100 elsewhere.

    A row that is too long loses its end; one that would lose every trained token is dropped. Both are counted.

    Returns:
        A dataset of `input_ids` and `labels`, each `[length]`, and the ledger.
    """
    ledger = Ledger()
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for row in rows:
        kept = _fit(_without_untrained_end(render_chat(tokenizer, row)), max_length, row.origin, ledger)
        if kept is None:
            continue
        columns["input_ids"].append(kept.ids)
        labels = [token if mark else IGNORED for token, mark in zip(kept.ids, kept.trained, strict=True)]
        columns["labels"].append(labels)
    return Dataset.from_dict(columns), ledger


def tokenize_pairs(tokenizer: Any, rows: Sequence[Pair], max_length: int) -> tuple[Dataset, Ledger]:
    """DPO rows. An answer that does not fit after its prompt is cut, and counted; a prompt that leaves it no room
    drops the row, and that is counted too.

    Returns:
        A dataset of `prompt_ids`, `chosen_ids` and `rejected_ids`, each `[length]`, and the ledger, in which a pair is
        one row and its trained tokens are those of both answers.
    """
    ledger = Ledger()
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for row in rows:
        pair = render_pair(tokenizer, row)
        answers = (pair.chosen_ids, pair.rejected_ids)
        total = len(pair.prompt_ids) + sum(map(len, answers))
        room = max_length - len(pair.prompt_ids)
        if room <= 0:
            ledger.lose(row.origin, total, whole_row=True)
            continue
        lost = sum(max(0, len(ids) - room) for ids in answers)
        if lost:
            ledger.lose(row.origin, lost, whole_row=False)
        columns["prompt_ids"].append(pair.prompt_ids)
        columns["chosen_ids"].append(pair.chosen_ids[:room])
        columns["rejected_ids"].append(pair.rejected_ids[:room])
        ledger.add(total - lost, sum(min(len(ids), room) for ids in answers))
    return Dataset.from_dict(columns), ledger


def _without_untrained_end(row: Rendered) -> Rendered:
    """The row up to its last trained token: what follows cannot change any loss."""
    end = len(row.trained) - row.trained[::-1].index(True) if any(row.trained) else 0
    return Rendered(row.ids[:end], row.trained[:end])


def _fit(row: Rendered, max_length: int, origin: str, ledger: Ledger) -> Rendered | None:
    """The row within `max_length`, or None where nothing trained would remain; the ledger knows."""
    excess = len(row.ids) - max_length
    if excess > 0:
        cut = Rendered(row.ids[:max_length], row.trained[:max_length])
        whole_row = not any(cut.trained[1:])
        ledger.lose(origin, len(row.ids) if whole_row else excess, whole_row=whole_row)
        if whole_row:
            return None
        row = cut
    ledger.add(len(row.ids), sum(row.trained))
    return row
