"""What a source of rows holds: its layout, sizes, tools, and everything odd in it with the rows where it was seen.

One pass. What is kept of a row are four numbers; whole rows are kept of a random sample, and of the longest.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from smolalign.data.assembly.staging import held_out
from smolalign.data.assembly.text import content_hash, first_prompt, hash_of, said_in, turns_of
from smolalign.data.detect import detect_format, recognise
from smolalign.data.formats import FORMATS
from smolalign.data.load import convert_record
from smolalign.data.records import Record, all_records, read_part, source_parts
from smolalign.data.sources import local_path, named
from smolalign.data.strict_json import dump
from smolalign.errors import RowError, UserError
from smolalign.report import Progress, Reporter
from smolalign.rows import Chat, Pair, Row, RowKind, Skip

# Rows that are kept whole, to be measured in tokens: at random, and the longest by bytes.
SAMPLE, LONGEST = 2000, 50
# Rows that are named of each oddity.
NAMED = 10
_PROGRESS_ROWS = 2000
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})

TURN_TOKENS = "special tokens of a chat template written in the text, such as <|im_start|>"
ENTITIES = "HTML entities in the text, such as &amp;"
ESCAPED = "\\n written as two characters, and not one real line break"
NUL, DAMAGED = "null characters", "characters lost in a wrong decoding (U+FFFD)"
SAME_ANSWERS = "chosen and rejected are the same"
EQUAL, CONFLICT = "equal to an earlier row", "the same prompt as an earlier row, with another answer"

_TOKEN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|begin_of_text|system|user|assistant|end)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5}|#x[0-9a-fA-F]{2,4});")
# What differs between two errors of the same sort: numbers, and whatever is quoted.
_NUMBER, _QUOTED = re.compile(r"\d+"), re.compile(r"[\"'{\[(].*", re.DOTALL)
_LAST_NUMBER = re.compile(r"(.*?)(0|[1-9]\d{0,17})", re.DOTALL)


@dataclass(slots=True)
class Seen:
    """How many rows have something, and the origins of the first of them."""

    rows: int = 0
    origins: list[str] = field(default_factory=list)

    def add(self, origin: str) -> None:
        self.rows += 1
        if len(self.origins) < NAMED:
            self.origins.append(origin)


@dataclass(slots=True)
class Flaw:
    """Records that are broken for one reason, and the first errors. `reason` is a RowError's, or empty."""

    reason: str = ""
    rows: int = 0
    errors: list[UserError] = field(default_factory=list)


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        options: config, split and revision of the source, those that were asked for.
        records: records of the source; `rows`: rows that they gave; `skipped`: records without a row, by reason.
        flaws: broken records by reason, the commonest first.
        turns: number of turns of each row, sorted.
        system, offering, calling: rows with a system turn, with tools, with calls.
        tools: names of tools offered.
        odd: what is odd though it can be trained on.
        sample, longest: rows at random, and the longest by bytes, in descending order.
        bytes: of all texts.
        prompts: uint64, hashes of the first user turns of rows that equal no earlier one.
    """

    source: str
    format: str
    options: Mapping[str, str] = field(default_factory=dict)
    records: int = 0
    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    flaws: dict[str, Flaw] = field(default_factory=dict)
    turns: list[int] = field(default_factory=list)
    system: int = 0
    offering: int = 0
    calling: int = 0
    tools: set[str] = field(default_factory=set)
    odd: dict[str, Seen] = field(default_factory=dict)
    sample: list[Row] = field(default_factory=list)
    longest: list[Row] = field(default_factory=list)
    bytes: int = 0
    prompts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

    @property
    def kind(self) -> RowKind:
        return FORMATS[self.format].kind

    @property
    def broken(self) -> int:
        return sum(flaw.rows for flaw in self.flaws.values())

    @property
    def title(self) -> str:
        """The name of a file or folder, or what is read of the Hub."""
        if local_path(self.source) is None:
            return named(self.source, self.options.get("split"), self.options.get("config"))
        return os.path.basename(os.path.abspath(self.source))

    def place(self, origin: str) -> str:
        """An origin as people read it: `line 3` or `row 3` of the one file that is the source, else with the file."""
        for mark, word in ((":", "line "), ("#row ", "row ")):
            if origin.startswith(f"{self.source}{mark}"):
                return word + origin.removeprefix(f"{self.source}{mark}")
        return short(origin)

    def held_out(self, fraction: float, seed: int) -> int:
        """How many rows, equal ones counted once, `test_fraction` would hold out."""
        return int(held_out(self.prompts, fraction, seed).sum())


def format_of(source: str, options: Mapping[str, str] = _NO_OPTIONS) -> str:
    """The format of the first record that has one. Raises UserError if none has, or the source cannot be read."""
    first = None
    problem = UserError("holds no records", where=source)
    for number, (origin, record) in enumerate(all_records(source, **options)):
        if isinstance(record, UserError):
            problem = record if not number else problem
        elif name := recognise(record):
            return name
        else:
            first = first or (origin, record)
        if number > SAMPLE:
            break
    if first is None:
        raise problem
    return detect_format([first])


def survey(
    source: str, format: str, report: Reporter, options: Mapping[str, str] = _NO_OPTIONS, seed: int = 0
) -> Survey:
    """Read a source once, and say what is in it.

    Args:
        format: of its records.
        options: its config, split and revision, those that are asked for.
        seed: of the sample.

    Raises:
        UserError: the source cannot be read, or none of its records gives a row; with the three commonest reasons.
    """
    found = Survey(source, format, options)
    keeper, columns = _Keeper(random.Random(seed)), _Columns()
    for origin, record in _records(found, report):
        found.records += 1
        if isinstance(record, UserError):
            _note_broken(found, record)
            continue
        for row in convert_record(format, found.kind, origin, record):
            if isinstance(row, UserError):
                _note_broken(found, row)
            elif isinstance(row, Skip):
                found.skipped[row.reason] += 1
            else:
                _note_row(found, row, keeper, columns)
    found.flaws = dict(sorted(found.flaws.items(), key=lambda item: -item[1].rows))
    if not found.rows:
        raise _nothing(found)
    found.sample, found.longest = keeper.sample, [row for _, _, row in sorted(keeper.heap, reverse=True)]
    found.turns.sort()
    columns.compare(found)
    return found


def _records(found: Survey, report: Reporter) -> Iterator[tuple[str, Record | UserError]]:
    parts = source_parts(found.source, **found.options)
    total, done = sum(part.records for part in parts), 0
    for part in parts:
        for item in read_part(part):
            done += 1
            if done % _PROGRESS_ROWS == 0:
                report.progress(Progress("reading", done, max(total, done), "rows"))
            yield item


def _note_broken(found: Survey, error: UserError) -> None:
    reason = error.reason if isinstance(error, RowError) else ""
    key = reason or _NUMBER.sub("N", _QUOTED.sub("…", error.what))[:60].rstrip(" ,:")
    flaw = found.flaws.setdefault(key if len(found.flaws) < 1000 else "other", Flaw(reason))
    flaw.rows += 1
    if len(flaw.errors) < NAMED:
        flaw.errors.append(error)


def _nothing(found: Survey) -> UserError:
    """The error of a source without a row to train on."""
    if not found.records:
        return UserError("holds no records", where=found.source)
    reasons = [
        (f.rows, f"{f.rows} × {name}, such as {found.place(f.errors[0].where)}: {f.errors[0].what}")
        for name, f in found.flaws.items()
    ]
    reasons += [(rows, f"{rows} × skipped: {name}") for name, rows in found.skipped.items()]
    commonest = [text for _, text in sorted(reasons, key=lambda item: -item[0])[:3]]
    what = f"none of {found.records} rows, read as {found.format}, can be trained on: {'; '.join(commonest)}"
    return UserError(what, where=found.source)


def _note_row(found: Survey, row: Row, keeper: _Keeper, columns: _Columns) -> None:
    said, turns = said_in(row), turns_of(row)
    if isinstance(row, Pair):
        said.append(row.rejected.content)
        if row.chosen == row.rejected:
            found.odd.setdefault(SAME_ANSWERS, Seen()).add(row.origin)
    text = "\n".join(said)
    size = len(text.encode("utf-8", "surrogatepass"))
    found.rows += 1
    found.bytes += size
    found.turns.append(len(turns))
    if isinstance(row, Chat | Pair):
        found.system += turns[0].role == "system"
        found.offering += bool(row.tools)
        found.calling += any(turn.tool_calls for turn in turns)
        found.tools.update(str(tool["name"]) for tool in row.tools)
    for name in _odd_in(text, said):
        found.odd.setdefault(name, Seen()).add(row.origin)
    keeper.take(row, size)
    columns.take(row)


def _odd_in(text: str, said: Sequence[str]) -> Iterator[str]:
    """What is odd in the text of a row, or of a turn. Plain searches go before patterns: most have nothing."""
    if ("<" in text or "[" in text) and _TOKEN.search(text):
        yield TURN_TOKENS
    if "&" in text and _ENTITY.search(text):
        yield ENTITIES
    if "\\n" in text and any(turn.count("\\n") > 1 and "\n" not in turn for turn in said):
        yield ESCAPED
    if "\0" in text:
        yield NUL
    if "\ufffd" in text:
        yield DAMAGED


class _Keeper:
    """A random sample of rows (reservoir, Vitter 1985), and the longest rows."""

    def __init__(self, order: random.Random) -> None:
        self.order, self.seen = order, 0
        self.sample: list[Row] = []
        self.heap: list[tuple[int, int, Row]] = []

    def take(self, row: Row, size: int) -> None:
        self.seen += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(row)
        elif (place := self.order.randrange(self.seen)) < SAMPLE:
            self.sample[place] = row
        # Of rows of equal size the first stays; no two have the same number, so rows are never compared.
        push = heapq.heappush if len(self.heap) < LONGEST else heapq.heappushpop
        push(self.heap, (size, -self.seen, row))


class _Columns:
    """Hashes of rows and of prompts, and origins, as arrays of 8 bytes."""

    def __init__(self) -> None:
        self.content, self.asked, self.first = array("Q"), array("Q"), array("Q")
        self.names: dict[str, int] = {}
        self.name, self.number = array("Q"), array("q")

    def take(self, row: Row) -> None:
        self.content.append(content_hash(row))
        self.first.append(hash_of(first_prompt(row)))
        if isinstance(row, Chat):
            asked = zip((turn.role for turn in row.messages), said_in(row)[:-1], strict=False)
            self.asked.append(hash_of("\0".join([*map("\n".join, asked), dump(list(row.tools))])))
        parted = _LAST_NUMBER.fullmatch(row.origin)
        self.name.append(self.names.setdefault(parted[1] if parted else row.origin, len(self.names)))
        self.number.append(int(parted[2]) if parted else -1)

    def compare(self, found: Survey) -> None:
        """Note the rows that equal an earlier one, and those that answer its prompt otherwise."""
        content = np.frombuffer(self.content, dtype=np.uint64)
        earlier = _first_of(content)
        own = earlier == np.arange(len(content))
        self._note(found, EQUAL, np.flatnonzero(~own), earlier)
        found.prompts = np.frombuffer(self.first, dtype=np.uint64)[own]
        if len(self.asked):
            places = np.flatnonzero(own)
            same = places[_first_of(np.frombuffer(self.asked, dtype=np.uint64)[own])]
            before = np.arange(len(content))
            before[places] = same
            self._note(found, CONFLICT, places[same != places], before)

    def _note(self, found: Survey, name: str, places: np.ndarray, earlier: np.ndarray) -> None:
        if len(places):
            pairs = (
                f"{found.place(self._origin(place))} like {found.place(self._origin(earlier[place]))}"
                for place in places[:NAMED]
            )
            found.odd[name] = Seen(len(places), list(pairs))

    def _origin(self, place: int) -> str:
        name, number = next(itertools.islice(self.names, self.name[place], None)), self.number[place]
        return f"{name}{number}" if number >= 0 else name


def _first_of(values: np.ndarray) -> np.ndarray:
    """For each value the index of the first that equals it."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def short(origin: str) -> str:
    """An origin without its folder."""
    return origin.rsplit("/", 1)[-1]
