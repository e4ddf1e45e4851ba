"""One part of a source: its records become rows, filtered, hashed and staged on disk. Run by workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smolalign.data.assembly import near
from smolalign.data.assembly.contamination import Hit, Index, find
from smolalign.data.assembly.filters import Drop, batch_drops, column_drop, quality_drops, row_drop
from smolalign.data.assembly.plan import Plan
from smolalign.data.assembly.reasons import BROKEN, CONTAMINATED
from smolalign.data.assembly.staging import Rejected, Staged, unit_is_staged, write_unit
from smolalign.data.assembly.tally import Tally
from smolalign.data.assembly.text import content_hash, first_prompt, hash_of, said_in, text_of, user_texts
from smolalign.data.assembly.tokens import Counter, estimated_tokens
from smolalign.data.assembly.words import Hashes, joined, word_hashes, words_of
from smolalign.data.catalogue import offer, read_catalogue
from smolalign.data.formats.rated import rated_pair, scored_pair
from smolalign.data.load import convert_record
from smolalign.data.negatives import kinds_of, pool_of, with_negatives
from smolalign.data.records import Part, read_part
from smolalign.data.row_files import rows_table
from smolalign.data.strict_json import shorten
from smolalign.data.validate import STRUCTURE, UNKNOWN_TOOL
from smolalign.errors import RowError, UserError
from smolalign.recipe.data import DataSource, Filters
from smolalign.rows import Chat, Document, Pair, Row, Skip

_CLASS: dict[str, type[Row]] = {"document": Document, "chat": Chat, "pair": Pair}
# Rows that are hashed together; bounds a worker's memory.
_BATCH_ROWS = 500
_BATCH_CHARACTERS = 8 << 20


@dataclass(frozen=True, slots=True)
class Means:
    """What a worker holds besides the plan: the benchmarks' index and the tokenizer, where the recipe has them."""

    index: Index | None
    counter: Counter | None


@dataclass(slots=True)
class _Unit:
    """The work on one unit as it grows."""

    source: DataSource
    name: str
    filters: Filters
    format: str
    catalogue: Mapping[str, dict[str, Any]] | None
    tally: Tally = field(default_factory=Tally)
    rejected: list[Rejected] = field(default_factory=list)
    hits: list[dict[str, str]] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)


def prepare_unit(plan: Plan, number: int, means: Means, work: Path) -> None:
    """Stage the rows of one unit under `work`; nothing is done where they are staged already."""
    if unit_is_staged(work, number):
        return
    assembly, unit = plan.assembly, plan.units[number]
    source = assembly.sources[unit.source]
    name, filters, format = assembly.names[unit.source], assembly.filters_of(unit.source), plan.formats[unit.source]
    own = _Unit(source, name, filters, format, read_catalogue(source.tools) if source.tools else None)
    own.tally.format = own.format
    for batch in _batches(_negated(plan, own, unit.part)):
        _take_batch(plan, own, batch, means)
    write_unit(work, number, own.staged, plan, own.tally, own.rejected, own.hits)


def _negated(plan: Plan, own: _Unit, part: Part) -> Iterator[tuple[Row, str]]:
    """`_rows` of a part, with the negatives that its source asks for. Distractors need all tools of the part first."""
    rows, asked = _rows(plan, own, read_part(part)), own.source.negatives
    if asked is None:
        yield from rows
        return
    pool = pool_of(_tools(plan, own, part) if asked.distractors or asked.remove_tool else ())
    own.tally.made = dict.fromkeys(kinds_of(asked), 0)
    for row, text in rows:
        assert isinstance(row, Chat)
        changed, made = with_negatives(row, asked, pool, plan.assembly.seed, plan.assembly.test_fraction)
        for name in made:
            own.tally.made[name] += 1
        yield (changed, text_of(changed)) if made else (row, text)


def _tools(plan: Plan, own: _Unit, part: Part) -> Iterator[dict[str, Any]]:
    yield from (own.catalogue or {}).values()
    unseen = _Unit(own.source, own.name, own.filters, own.format, own.catalogue)
    for row, _ in _rows(plan, unseen, read_part(part)):
        if isinstance(row, Chat):
            yield from row.tools


def _rows(plan: Plan, own: _Unit, records: Iterator[tuple[str, Any]]) -> Iterator[tuple[Row, str]]:
    """Rows with their texts; everything that is no row, or that a quick filter drops, is counted here."""
    assembly = plan.assembly
    rated = own.format == "ultrafeedback_raw"
    choice = own.source.pairs
    for origin, record in records:
        if isinstance(record, UserError):
            found = record.found if isinstance(record, RowError) else None
            own.rejected.append(_reject(own.tally, origin, record, found))
            continue
        if drop := column_drop(record, own.filters):
            _count_record(own.tally, drop, origin, record)
            continue
        choose = (lambda raw: rated_pair(raw, choice, assembly.seed)) if rated else None
        for row in convert_record(
            own.format, assembly.kind, origin, record, expect=own.source.format == "auto", convert=choose
        ):
            if isinstance(row, Pair) and not rated:
                row = scored_pair(row, choice)
            if isinstance(row, Chat) and own.catalogue is not None:
                row = offer(row, own.catalogue)
            if isinstance(row, Skip):
                _count_record(own.tally, Drop(row.reason), origin, record)
            elif isinstance(row, UserError):
                if reason := _asked_to_drop(row, own.filters):
                    _count_record(own.tally, Drop(reason, row.what), origin, record)
                else:
                    own.rejected.append(_reject(own.tally, origin, row, record))
            else:
                yield row, text_of(row)


def _asked_to_drop(error: UserError, filters: Filters) -> str:
    """The reason to drop a row that is out of order, where a filter asks for that; else it is a broken row."""
    reason = error.reason if isinstance(error, RowError) else ""
    asked = (filters.structure and reason in STRUCTURE) or (filters.tool_calls and reason == UNKNOWN_TOOL)
    return reason if asked else ""


def _count_record(tally: Tally, drop: Drop, origin: str, record: Mapping[str, Any]) -> None:
    text = shorten(record, 10_000_000)
    tokens = estimated_tokens(text)
    tally.take(tokens)
    tally.drop(drop.reason, tokens)
    tally.show(drop.reason, origin, drop.detail, text)


def _reject(tally: Tally, origin: str, error: UserError, record: Any) -> Rejected:
    tally.take(0)
    tally.drop(BROKEN, 0)
    tally.show(BROKEN, origin, error.what, record if isinstance(record, str) else shorten(record, 10_000))
    return Rejected(origin, error.reason if isinstance(error, RowError) else "", error.what, record)


def _batches(rows: Iterator[tuple[Row, str]]) -> Iterator[list[tuple[Row, str]]]:
    while first := next(rows, None):
        batch, characters = [first], len(first[1])
        for row in itertools.islice(rows, _BATCH_ROWS - 1):
            batch.append(row)
            characters += len(row[1])
            if characters > _BATCH_CHARACTERS:
                break
        yield batch


def _take_batch(plan: Plan, own: _Unit, batch: list[tuple[Row, str]], means: Means) -> None:
    """Count, filter and hash rows that were converted together."""
    texts = [text for _, text in batch]
    tokens = means.counter.count(texts) if means.counter else [estimated_tokens(text) for text in texts]
    left = []
    for (row, text), count in zip(batch, tokens, strict=True):
        own.tally.take(count)
        if drop := row_drop(row, own.filters):
            _drop(own.tally, drop, row, text, count)
        else:
            left.append((row, text, count))
    rows, texts, tokens = [one[0] for one in left], [one[1] for one in left], [one[2] for one in left]
    said = [said_in(row) for row in rows]
    turns = word_hashes(itertools.chain.from_iterable(said)) if _needs_words(plan, own.filters) else None
    words = joined(turns, [len(one) for one in said]) if turns is not None else None
    drops = batch_drops(rows, own.filters, tokens, turns)
    if own.filters.quality is not None:
        own.tally.count_scores(quality_drops(texts, own.filters.quality, drops))
    if means.index is not None and turns is not None:
        _find_contaminated(own, rows, find(means.index, rows, turns), drops)
    for row, text, count, found in zip(rows, texts, tokens, drops, strict=True):
        if found is not None:
            _drop(own.tally, found, row, text, count)
    kept = [place for place, found in enumerate(drops) if found is None]
    if kept:
        chosen = _select(words, kept) if words is not None else None
        own.staged.append(_stage(plan, [rows[i] for i in kept], [tokens[i] for i in kept], chosen))


def _drop(tally: Tally, drop: Drop, row: Row, text: str, tokens: int) -> None:
    tally.drop(drop.reason, tokens)
    tally.show(drop.reason, row.origin, drop.detail, text)


def _find_contaminated(own: _Unit, rows: Sequence[Row], hits: Mapping[int, Hit], drops: list[Drop | None]) -> None:
    """Note the rows that hold a question, unless a filter drops them anyway."""
    for place, hit in sorted(hits.items()):
        if drops[place] is None:
            drops[place] = Drop(CONTAMINATED, f"{hit.benchmark}: {hit.span}")
            told = {"benchmark": hit.benchmark, "question": hit.question_origin, "how": hit.how, "span": hit.span}
            own.hits.append({"row": rows[place].origin, "source": own.name, **told})


def _needs_words(plan: Plan, filters: Filters) -> bool:
    near_too = plan.assembly.deduplicate is not None and plan.assembly.deduplicate.near is not None
    return near_too or plan.assembly.decontaminate is not None or filters.max_repetition is not None


def _select(hashes: Hashes, places: Sequence[int]) -> Hashes:
    """The hashes of some of the texts."""
    if len(places) == len(hashes):
        return hashes
    offsets = np.concatenate([[0], np.cumsum(np.diff(hashes.offsets)[places])])
    return Hashes(np.concatenate([hashes.of(place) for place in places]), offsets)


def _stage(plan: Plan, rows: Sequence[Row], tokens: Sequence[int], words: Hashes | None) -> Staged:
    """The rows as columns, with all that is needed to choose among them."""
    assembly = plan.assembly
    content = [content_hash(row) for row in rows]
    again = assembly.deduplicate
    on_user = again is not None and again.text == "user"
    same = [hash_of("\n".join(user_texts(row))) for row in rows] if on_user else content
    signatures, shingles = None, None
    if again is not None and again.near is not None:
        if on_user or words is None:
            words = word_hashes("\n".join(user_texts(row)) for row in rows)
        shingles = near.shingles(words, again.ngram)
        signatures = near.signatures(shingles, again.permutations)
    longer = [_words_longer(row) for row in rows]
    return Staged(
        rows_table(rows, _CLASS[assembly.kind]),
        np.array(content, dtype=np.uint64),
        np.array(same, dtype=np.uint64),
        np.array([hash_of(first_prompt(row)) for row in rows], dtype=np.uint64),
        np.array(tokens, dtype=np.uint32),
        np.array(longer, dtype=np.int32),
        signatures,
        shingles,
    )


def _words_longer(row: Row) -> int:
    """By how many words a pair's chosen answer is longer than the rejected one."""
    if not isinstance(row, Pair):
        return 0
    return len(words_of(row.chosen.content)) - len(words_of(row.rejected.content))
