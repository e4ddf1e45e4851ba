"""What a survey found as lines for the screen, and the chosen recipe as commented YAML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from smolalign.data.assembly.figures import compact, count
from smolalign.data.survey import Survey
from smolalign.errors import UserError
from smolalign.init.choose import Choice
from smolalign.init.measure import Lengths, Model

_SHOWN_REASONS = 10
_KINDS = {"chat": "chats", "pair": "preference pairs", "document": "texts"}


def finding_lines(found: Survey) -> Iterator[tuple[str, bool]]:
    """What is in a source, a line a matter; with whether it is a warning."""
    yield f"{found.format}: {count(found.records)} records, {count(found.rows)} {_KINDS[found.kind]}", False
    if found.kind != "document":
        middle = found.turns[len(found.turns) // 2]
        yield (
            f"turns: {middle} in the median, {found.turns[-1]} at most; {count(found.system)} rows with a system turn",
            False,
        )
        if found.offering or found.calling:
            names = f", of {count(len(found.tools))} names" if found.tools else ""
            yield f"tools: offered in {count(found.offering)} rows{names}, called in {count(found.calling)}", False
    for reason, rows in found.skipped.items():
        yield f"skipped {count(rows)} records: {reason}", True
    for number, (reason, flaw) in enumerate(found.flaws.items()):
        if number == _SHOWN_REASONS:
            yield f"and {len(found.flaws) - number} more reasons", True
            break
        yield f"broken {_rows(flaw.rows)}: {reason}", True
        yield from ((f"  {_line(found, error)}", True) for error in flaw.errors)
    for name, seen in found.odd.items():
        more = ", …" if seen.rows > len(seen.origins) else ""
        yield f"{_rows(seen.rows)}: {name}: {', '.join(map(found.place, seen.origins))}{more}", True


def length_lines(found: Survey, lengths: Lengths, model: Model) -> Iterator[tuple[str, bool]]:
    """Lengths in tokens, and how they were found."""
    how = f"tokenizer of {model.reference}"
    if not lengths.counted:
        how = f"estimated from bytes, since the tokenizer of {model.reference} is not at hand"
    if not lengths.whole:
        how += f"; a sample of {count(len(lengths.sample))} rows and the longest {len(found.longest)}"
    place, total = found.place(lengths.origin), compact(round(lengths.mean * found.rows))
    yield (
        f"tokens: {count(lengths.quantile(0.5))} in the median, {count(lengths.quantile(0.95))} at 95 %, longest "
        f"{count(lengths.longest)} ({place}), about {total} in all ({how})",
        not lengths.counted,
    )


def cut_lines(found: Survey, lengths: Lengths, choice: Choice) -> Iterator[tuple[str, bool]]:
    """A warning where rows are longer than the recipe's max_length."""
    length = choice.fields["max_length"]
    if lengths.longest > length:
        over = f"{lengths.over(length):.1%} of the rows" if lengths.over(length) else "a few rows"
        yield (
            f"{over}, such as {found.place(lengths.origin)}, are longer than {count(length)} tokens and lose their end",
            True,
        )


def _line(found: Survey, error: UserError) -> str:
    """An error on one line, its place without the folder."""
    return UserError(error.what[:160], where=found.place(error.where)).line()


def recipe_text(choice: Choice, found: Survey, lengths: Lengths, model: Model, file: Path) -> str:
    """The recipe as YAML, with what was measured as comments; paths are written as they are seen from its file."""
    kind = choice.fields["kind"]
    head = [
        f"Written by smolalign init for {found.title}: {count(found.rows)} {_KINDS[found.kind]}, "
        f"about {compact(round(lengths.mean * found.rows))} tokens.",
        f"Check it, see its rows, train: smolalign check {file}; smolalign preview {file}; smolalign {kind} {file}",
    ]
    if model.missing:
        head.append(f"Lengths are estimated from bytes: the model was not at hand ({model.missing[:100]}).")
    head += [choice.memory] if choice.memory else []
    folder = file.resolve().parent
    fields = {**choice.fields, "model": _seen_from(folder, model.reference)}
    fields["data"] = [{**one, "source": _seen_from(folder, one["source"])} for one in fields["data"]]
    lines = [f"# {_one_line(line)}" for line in head]
    return "\n".join([*lines, *_block(fields, "", choice.notes)]) + "\n"


def _block(fields: dict[str, Any], path: str, notes: dict[str, str]) -> Iterator[str]:
    indent = "  " * path.count(".")
    for key, value in fields.items():
        note = f" # {_one_line(notes[path + key])}" if path + key in notes else ""
        if key == "trainer":
            yield f"{indent}{key}:{note}"
            yield from _block(value, f"{path}{key}.", notes)
        elif key == "data":
            yield f"{indent}{key}:{note}"
            for one in value:
                (first, named), *rest = one.items()
                yield f"{indent}  - {first}: {_scalar(named)}"
                yield from (f"{indent}    {name}: {_scalar(item)}" for name, item in rest)
        else:
            yield f"{indent}{key}: {_scalar(value)}{note}"


def _scalar(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        # YAML 1.1 reads 5e-05 as text; it wants a point.
        text = f"{value:g}"
        return f"{float(text):.1e}" if "e" in text else str(value)
    if isinstance(value, str):
        plain = value.replace("/", "a").replace("-", "a").replace(".", "a").replace("_", "a")
        if plain.isascii() and plain.isalnum() and isinstance(yaml.safe_load(value), str) and not value.startswith("-"):
            return value
        return json.dumps(value)
    return json.dumps(value)


def _seen_from(folder: Path, reference: str) -> str:
    """A path as a recipe in that folder names it: relative below it, else absolute; a Hub id as it is."""
    path = Path(reference).expanduser()
    if not path.exists():
        return reference
    # Absolute, with links left as they are: what a link is called is what a person knows.
    absolute = Path(os.path.abspath(path))
    for base in (folder, Path(os.path.abspath(folder))):
        if absolute.is_relative_to(base) and absolute != base:
            return absolute.relative_to(base).as_posix()
    return str(absolute)


def _one_line(text: str) -> str:
    """A comment holds no line break, nor any other character that YAML refuses."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{count(number)} rows"
