"""The files of the Berkeley Function-Calling Leaderboard: questions, functions, and the values allowed in answers.

Layouts of its versions 1 to 4 (ShishirPatil/gorilla, `bfcl_eval/data/`): JSON lines of `id`, `question` (a list of
conversations, of which these sets have one) and `function`, and in another file, or in the same records, lines of `id`
and `ground_truth` [{function: {argument: [allowed values]}}], in which "" marks an argument that may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smolalign.data.formats.schemas import with_json_types
from smolalign.data.records import all_records
from smolalign.data.strict_json import shorten
from smolalign.data.whole import read_whole
from smolalign.errors import UserError, require_no_wrong_rows
from smolalign.eval.call_items import CallItem
from smolalign.eval.call_match import Allowed, Expected, Fields, exactly, parameters_of
from smolalign.recipe.data import DataSource
from smolalign.rows import ROLES, Message

IRRELEVANCE = "irrelevance"
_CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple", IRRELEVANCE)
_ID = re.compile(r"(?:v\d_)?(?P<category>[a-z_]+?)(?:_python)?_\d+(?:-\d+)*")


def read_bfcl(sources: Sequence[DataSource], answers: str | None) -> list[CallItem]:
    """The questions of all sources with what is expected of each.

    Args:
        sources: resolved sources of questions.
        answers: file of possible answers, or a folder of files named like the sources'; None where none are apart.

    Raises:
        UserError: a row is broken, has no answer where one is due, or an answer has no question.
    """
    known = _read_answers(sources, answers)
    seen: set[str] = set()
    items, errors = read_whole(sources, lambda record, _: _question(record, known, seen, answers))
    for name in known.keys() - seen:
        errors.append(UserError(f"no question has the id {name}", where=known[name][0]))
    require_no_wrong_rows(errors)
    return items


def _read_answers(sources: Sequence[DataSource], answers: str | None) -> dict[str, tuple[str, Any]]:
    """Origin and ground truth by id."""
    if answers is None:
        return {}
    files = [Path(answers)]
    if files[0].is_dir():
        files = [file for source in sources if (file := files[0] / Path(source.source).name).is_file()]
    known: dict[str, tuple[str, Any]] = {}
    for file in dict.fromkeys(files):
        for origin, record in all_records(str(file)):
            if isinstance(record, UserError):
                raise record
            name = _id(record, origin)
            if "ground_truth" not in record:
                raise UserError("no ground_truth in the record", where=origin, mend="is this a file of questions?")
            if name in known:
                raise UserError(f"the id {name} stands in {known[name][0]} already", where=origin)
            known[name] = origin, record["ground_truth"]
    return known


def _question(
    record: Mapping[str, Any], known: Mapping[str, tuple[str, Any]], seen: set[str], answers: str | None
) -> CallItem:
    name = _id(record)
    if name in seen:
        raise UserError(f"the id {name} stands twice")
    seen.add(name)
    category = _category(name)
    functions = record.get("function")
    functions = [functions] if isinstance(functions, Mapping) else functions
    if not isinstance(functions, list) or not all(_is_function(function) for function in functions):
        raise UserError(f"function must be a list of functions with a name, not {shorten(functions)}")
    tools = tuple(_tool(function) for function in functions)
    messages = tuple(_messages(record.get("question")))
    if category.endswith(IRRELEVANCE):
        if name in known:
            raise UserError(f"{name} is of category {IRRELEVANCE}, but has an answer in {known[name][0]}")
        return CallItem(messages, tools, (), [], category=category)
    if name not in known and "ground_truth" not in record:
        mend = "set possible_answer to the file of answers" if answers is None else "is it the file of these questions?"
        raise UserError(f"no possible answer for {name}" + (f" in {answers}" if answers else ""), mend=mend)
    origin, truth = known.get(name) or ("", record["ground_truth"])
    try:
        return CallItem(messages, tools, expect_truth(truth, tools), truth, category=category)
    except UserError as error:
        raise (error.at(origin) if origin else error) from None


def _id(record: Mapping[str, Any], origin: str = "") -> str:
    name = record.get("id")
    if not isinstance(name, str) or not name:
        raise UserError(f"id must be a name such as simple_0, not {shorten(name)}", where=origin)
    return name


def _category(name: str) -> str:
    """`live_simple` of `live_simple_3-1-0`."""
    found = _ID.fullmatch(name)
    category = found["category"] if found else ""
    if category.removeprefix("live_") not in _CATEGORIES:
        raise UserError(
            f"the id {name} is of no category that is scored by syntax",
            mend=f"take the files of {', '.join(_CATEGORIES)}, live ones too",
        )
    return category


def _is_function(function: Any) -> bool:
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _messages(question: Any) -> Iterator[Message]:
    """The turns of a question: text, turns, or a list of one conversation."""
    if isinstance(question, str):
        yield Message("user", question)
        return
    if isinstance(question, list) and len(question) == 1 and isinstance(question[0], list):
        question = question[0]
    if not isinstance(question, list) or not question or any(isinstance(turn, list) for turn in question):
        raise UserError(f"question must be one conversation, not {shorten(question)}")
    for turn in question:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise UserError(f"a turn of question must have a role and a content, not {shorten(turn)}")
        yield Message(role, content)


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as a tool: its name as it is, its parameters as JSON schema."""
    return with_json_types({**function, "parameters": function.get("parameters") or {"type": "dict", "properties": {}}})


def expect_truth(truth: Any, tools: Sequence[Mapping[str, Any]]) -> tuple[Expected, ...]:
    """What a `ground_truth` allows. Raises UserError without a place."""
    schemas = {tool["name"]: parameters_of(tool) for tool in tools}
    if not isinstance(truth, list) or not truth:
        raise UserError(f"ground_truth must be a list of calls, not {shorten(truth)}")
    expected = []
    for call in truth:
        if not isinstance(call, Mapping) or len(call) != 1 or not isinstance(next(iter(call.values())), Mapping):
            raise UserError(f"a call of ground_truth must be one name with its arguments, not {shorten(call)}")
        [(name, arguments)] = call.items()
        if name not in schemas:
            raise UserError(f"ground_truth calls {name}, which is none of the functions: {', '.join(schemas)}")
        properties, required = schemas[name]
        allowed = {}
        for argument, values in arguments.items():
            if not isinstance(values, list):
                raise UserError(f"ground_truth: {argument} of {name} must be a list of values, not {shorten(values)}")
            found = _allowed(values, properties.get(argument, {}), argument not in required)
            # The leaderboard's sets have a few that the function does not know; whoever gives them is wrong.
            if argument in properties or not found.optional:
                allowed[argument] = found
        expected.append(Expected(name, Fields(allowed)))
    return tuple(expected)


def _allowed(values: Sequence[Any], schema: Mapping[str, Any], may_lack: bool) -> Allowed:
    """The values of an argument. Where "" is among them it may be left out, or be an empty string or list."""
    marked = "" in values
    kind, items = schema.get("type"), schema.get("items")
    objects = kind == "object"
    lists_of_objects = kind == "array" and isinstance(items, Mapping) and items.get("type") == "object"
    found: list[Any] = []
    for value in values:
        if objects and isinstance(value, Mapping):
            found.append(_fields(value))
        elif lists_of_objects and isinstance(value, list):
            found.append([_fields(item) if isinstance(item, Mapping) else exactly(item) for item in value])
        elif value != "":
            found.append(exactly(value))
    # At the end, since the first value tells the type.
    if marked and (kind in ("string", None) or (found and isinstance(found[0], str))):
        found.append("")
    if marked and kind == "array":
        found.append([])
    return Allowed(tuple(found), marked and may_lack, schema)


def _fields(value: Mapping[str, Any]) -> Fields:
    """An object among the allowed values: each of its keys has a list of values of its own."""
    allowed = {}
    for key, values in value.items():
        listed = values if isinstance(values, list) else [values]
        allowed[key] = Allowed(tuple(map(exactly, listed)), "" in listed)
    return Fields(allowed)
