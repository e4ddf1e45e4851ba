"""`smolalign export --compare`: a model in several formats, and what each costs and gives beside the original."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.export.run import COMPARED, FORMATS, Wishes
from smolalign.export.source import find
from smolalign.rows import Document
from smolalign.store import cache_folder

# Held out from nano's training, and ours: no other model has seen it either.
DEFAULT_TEXTS = "data/nano/heldout/pretrain.jsonl"
# Characters of it that are read.
DEFAULT_SIZE = 12_000


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; the shares and changes are against the original's line, which has none."""

    name: str
    size_bytes: int
    size_share: float | None
    load_seconds: float
    tokens_per_second: float
    engine: str
    perplexity: float
    perplexity_change: float | None
    bits_per_byte: float
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table, and what stands under it."""

    rows: list[Row]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def compare(
    model: str, formats: Sequence[str], wishes: Wishes, data: Path | None, say: Callable[[str], None]
) -> Comparison:
    """Export a model in each format and measure them all.

    Args:
        model: see `source.find`.
        formats: of `run.COMPARED`; empty for all of them.
        wishes: `out` keeps what was written, in a folder a format; `types` go to the formats that take them.
        data: a file of documents; None for text of our own.
        say: shows a line.

    Raises:
        UserError: a format is none, or an export (said before anything is measured, where it can be) or a measurement
            cannot be made.
    """
    chosen = list(formats) or list(COMPARED)
    for name in chosen:
        if name not in COMPARED:
            raise UserError(f"no format {name!r} to compare", mend=f"use some of {', '.join(COMPARED)}")
    documents, texts = _texts(data)
    source = find(model)
    from smolalign.export.measure import NEW_TOKENS, PROMPT_TOKENS, TIMES, Figures, Job, in_own_process

    with _place(wishes.out) as place:
        planned = []
        for name in chosen:
            module = importlib.import_module(FORMATS[name])
            types = wishes.types if "types" in module.TAKES else ()
            planned.append((module, Wishes(to=name, out=place / name, types=types)))
            # All of them first: what is refused is not worth minutes of measuring.
            module.require(source, planned[-1][1])
        say("original: measuring")
        original = in_own_process(Job(source.reference, documents))
        rows = [_row("original", _size(source.reference), original, None)]

        def beside(name: str, file: Path) -> None:
            found: Figures = in_own_process(Job(str(file), documents))
            rows.append(_row(name, _size(str(file)), found, (rows[0], original.likeliest)))

        for module, asked in planned:
            say(f"{asked.to}: writing")
            module.export(source, asked, lambda line: None)
            for file in sorted(place.glob(f"{asked.to}/*.gguf")) or [place / asked.to]:
                say(f"{file.name}: measuring")
                beside(asked.to if file.is_dir() else file.stem, file)
    timed = (
        f"tokens/s: {NEW_TOKENS} tokens, greedy, after {PROMPT_TOKENS} of a prompt, one reply at a time, the median of "
        f"{TIMES}; load: from files that were just written or read, libraries imported; each in a process of its own, "
        f"on {original.device}"
    )
    return Comparison(rows, [f"perplexity: of a token of {texts}", timed, *_engines(rows)])


def _row(name: str, size: int, found: Any, against: tuple[Row, list[int]] | None) -> Row:
    first, likeliest = against or (None, [])
    same = sum(a == b for a, b in zip(likeliest, found.likeliest, strict=True)) if first else 0
    return Row(
        name=name,
        size_bytes=size,
        size_share=size / first.size_bytes if first else None,
        load_seconds=found.load_seconds,
        tokens_per_second=found.tokens_per_second,
        engine=found.engine,
        perplexity=found.perplexity,
        perplexity_change=found.perplexity / first.perplexity - 1 if first else None,
        bits_per_byte=found.bits_per_byte,
        agreement=same / len(likeliest) if first else None,
    )


def _engines(rows: Sequence[Row]) -> list[str]:
    """Which lines another engine than Transformers generated, or from other weights than those in the file."""
    return [f"{row.name}: tokens/s by {row.engine}" for row in rows if row.engine != "Transformers"]


def _texts(data: Path | None) -> tuple[list[Document], str]:
    """The documents that are predicted, and what they are called."""
    from smolalign.data.load import load_rows
    from smolalign.recipe.shipped import SHIPPED

    rows: list[Any] = list(load_rows(str(data or SHIPPED / DEFAULT_TEXTS), "document").rows)
    if data is None:
        size, kept = 0, []
        for row in rows:
            kept.append(row)
            size += len(row.text)
            if size >= DEFAULT_SIZE:
                break
        rows = kept
    rows = [row for row in rows if row.text.strip()]
    if not rows:
        raise UserError("there is no text in it", where=str(data))
    size = sum(len(row.text.encode()) for row in rows)
    return rows, f"{data.name if data else DEFAULT_TEXTS} ({len(rows)} documents, {size:,} bytes)"


def _size(reference: str) -> int:
    """Bytes on disk: of a file, of the files in a checkpoint's folder, or of a model on the Hub."""
    from smolalign.export.package import checkpoint_files

    path = Path(reference)
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in checkpoint_files(reference))


@contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    """Where the exports are written: a folder that stays, or one for the time being."""
    if out is not None:
        yield out.expanduser()
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache_folder()) as place:
        yield Path(place)
