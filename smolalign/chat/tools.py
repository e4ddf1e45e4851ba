"""Tools that a person brings: a Python file whose public functions become schemas, or a JSON file of schemas."""

from __future__ import annotations

import ast
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from smolalign.chat.tool_process import load
from smolalign.data.formats.calls import parse_tools
from smolalign.data.strict_json import JsonProblem, parse
from smolalign.errors import UserError

Function = Callable[..., Any]


@dataclass(frozen=True)
class ToolBox:
    """Bare schemas, `{"name", "description", "parameters"}`, and the functions of those that can be run, by name."""

    schemas: tuple[dict[str, Any], ...] = ()
    functions: Mapping[str, Function] = field(default_factory=dict)
    file: Path | None = None


def read_tools(file: Path) -> ToolBox:
    """Tools from a `.py` file, which is run for it, or from JSON: a list of schemas, bare or in OpenAI's wrapping.

    Raises:
        UserError: the file or one of its tools is wrong; it names file, line and tool.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=str(file)) from None
    return _from_python(file, text) if file.suffix == ".py" else ToolBox(_from_json(file, text), file=file)


def with_null(schema: Any) -> Any:
    """A schema with OpenAPI's `nullable`, which `get_json_schema` writes, in the words of JSON schema."""
    if isinstance(schema, list):
        return [with_null(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: with_null(value) for key, value in schema.items()}
    if out.get("nullable") is not True:
        return out
    del out["nullable"]
    return {"anyOf": [out, {"type": "null"}]}


def _from_json(file: Path, text: str) -> tuple[dict[str, Any], ...]:
    try:
        schemas = parse_tools(parse(text))
    except JsonProblem as problem:
        where = f"{file}:{problem.line}" if problem.line else str(file)
        raise UserError(f"not JSON: {problem.what}", where=where) from None
    except UserError as error:
        raise UserError(error.what, where=str(file), mend=error.mend) from None
    if not schemas:
        raise UserError("holds no tools", where=str(file))
    for schema in schemas:
        _require_schema(schema, str(file))
    names = [schema["name"] for schema in schemas]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two tools are named {twice}", where=str(file), mend="rename one of them")
    return schemas


def _require_schema(tool: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless a tool's parameters, where it has any, are a JSON schema of an object."""
    import jsonschema_rs

    parameters = tool.get("parameters")
    if not parameters:
        return
    try:
        if not isinstance(parameters, Mapping):
            raise ValueError("they are no object")
        # A reference to elsewhere is not fetched.
        jsonschema_rs.validator_for(dict(parameters), retriever=_refuse)
        if parameters.get("type", "object") != "object":
            raise ValueError('their type is not "object"')
    except (ValueError, RecursionError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"the parameters of {tool['name']} are no JSON schema: {said[:200]}", where=where) from None


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")


def _from_python(file: Path, text: str) -> ToolBox:
    lines = _lines_of_functions(file, text)
    module = _run(file)
    functions = {
        name: function
        for name, function in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(function) and _is_own(function, module) and name in lines
    }
    if not functions:
        raise UserError("has no public function", where=str(file), mend="write one, with type hints and a docstring")
    # By the names that the file gives them, which decorators need not have kept.
    schemas = tuple(
        {**_schema(function, f"{file}:{lines[name]}"), "name": name} for name, function in functions.items()
    )
    return ToolBox(schemas, functions, file)


def _is_own(function: Function, module: ModuleType) -> bool:
    return inspect.unwrap(function).__module__ == module.__name__


def _lines_of_functions(file: Path, text: str) -> dict[str, int]:
    """Where each function of the top level begins. Raises UserError at a syntax error or a name that stands twice."""
    try:
        tree = ast.parse(text, str(file))
    except SyntaxError as error:
        raise UserError(f"not Python: {error.msg}", where=f"{file}:{error.lineno or 1}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"not Python: {error}", where=str(file)) from None
    lines: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in lines:
                what = f"two functions are named {node.name}; the other is at line {lines[node.name]}"
                raise UserError(what, where=f"{file}:{node.lineno}", mend="rename one of them")
            lines[node.name] = node.lineno
    return lines


def _run(file: Path) -> ModuleType:
    try:
        return load(file)
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}:{frames[-1].lineno}" if frames else str(file)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"cannot be run: {said[:300]}", where=where) from None


def _schema(function: Function, where: str) -> dict[str, Any]:
    """A function's schema by Transformers' `get_json_schema`, bare. Raises UserError at `where`."""
    from transformers.utils import DocstringParsingException, TypeHintParsingException, get_json_schema

    name = function.__name__
    _require_callable_by_name(function, where)
    try:
        return get_json_schema(function)["function"]
    except DocstringParsingException as error:
        if not (function.__doc__ or "").strip():
            raise UserError(f"{name} has no docstring", where=where, mend="say in it what it does") from None
        raise UserError(
            f"the docstring of {name} does not describe all its arguments: {_first_line(error)}",
            where=where,
            mend='describe each in an "Args:" block, one "name: what it is" a line',
        ) from None
    except (TypeHintParsingException, NameError, TypeError) as error:
        if missing := _without_hints(function):
            raise UserError(
                f"{name} lacks type hints: {', '.join(missing)}",
                where=where,
                mend=f"write {missing[0]}: str or the like",
            ) from None
        raise UserError(
            f"{name} has a type hint that has no JSON schema: {_first_line(error)}",
            where=where,
            mend="use str, int, float, bool, list, dict, Literal or unions of these",
        ) from None
    except ValueError as error:
        raise UserError(
            f"the choices in the docstring of {name} are no JSON: {_first_line(error)}",
            where=where,
            mend='write them like (choices: ["a", "b"])',
        ) from None


def _require_callable_by_name(function: Function, where: str) -> None:
    """Raise UserError unless every argument can be given by its name, to a function that answers when it returns."""
    name = function.__name__
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UserError(f"{name} is async or a generator", where=where, mend="write a function that returns its result")
    kinds = inspect.Parameter
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD, kinds.POSITIONAL_ONLY):
            raise UserError(
                f"{name} takes {str(parameter).split(':')[0]}, which has no name in a call",
                where=where,
                mend="name each argument",
            )


def _without_hints(function: Function) -> Sequence[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.annotation is inspect.Parameter.empty]


def _first_line(error: Exception) -> str:
    said = " ".join(str(part) for part in error.args) or type(error).__name__
    return said.strip().splitlines()[0].split(", likely because")[0][:200]
