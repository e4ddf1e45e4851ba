"""A person's tools: what is wrong with a file is said with its line, and what is right becomes schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import get_json_schema

from smolalign.chat.tools import read_tools
from smolalign.errors import UserError

GOOD = '''\
"""Tools."""
from __future__ import annotations
from dataclasses import dataclass
from math import sqrt
from typing import Literal
import helper

def weather(city: str, unit: Literal["C", "F"] = "C", days: list[int] | None = None) -> dict:
    """
    The weather in a city.

    Args:
        city: its name
        unit: of the temperature
        days: from today
    """
    return helper.look(city)

def _private(x):
    return x

@dataclass
class Thing:
    a: int

root = sqrt
also_weather = weather
LIMIT = 3
'''


def written(folder: Path, text: str, name: str = "tools.py") -> Path:
    (folder / "helper.py").write_text("def look(city): return {'city': city}\n", encoding="utf-8")
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_public_functions_become_the_schemas_that_transformers_makes(tmp_path: Path) -> None:
    box = read_tools(written(tmp_path, GOOD))
    assert list(box.functions) == ["weather"]
    assert box.functions["weather"](city="Oslo") == {"city": "Oslo"}
    assert box.schemas == (get_json_schema(box.functions["weather"])["function"],)
    parameters: dict[str, Any] = box.schemas[0]["parameters"]
    assert parameters["required"] == ["city"]
    assert parameters["properties"]["unit"]["enum"] == ["C", "F"]
    assert parameters["properties"]["days"]["items"] == {"type": "integer"}
    # Nothing is left beside it.
    assert not (tmp_path / "__pycache__" / "tools.cpython-311.pyc").exists()


DOC = '"""Do.\n\n    Args:\n        x: it\n    """'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            f"def f(x: int):\n    {DOC}\n\n\ndef f(x: int):\n    {DOC}\n",
            9,
            "two functions are named f; the other is at",
        ),
        ("\ndef f(x: int):\n    return x\n", 2, "f has no docstring → say in it what it does"),
        ('def f():\n    """ """\n', 1, "f has no docstring"),
        ('def f(x: int):\n    """Do."""\n', 1, "the docstring of f does not describe all its arguments"),
        (f"def f(x, y=1):\n    {DOC}\n", 1, "f lacks type hints: x, y → write x: str"),
        (f"def f(x: set):\n    {DOC}\n", 1, "f has a type hint that has no JSON schema"),
        (f"class A: pass\ndef f(x: A):\n    {DOC}\n", 2, "f has a type hint that has no JSON schema"),
        (f"def f(x: 'Nowhere'):\n    {DOC}\n", 1, "f has a type hint that has no JSON schema: name 'Nowhere'"),
        (f"def f(*x: int):\n    {DOC}\n", 1, "f takes *x, which has no name in a call → name each argument"),
        (f"def f(**x: int):\n    {DOC}\n", 1, "f takes **x, which has no name"),
        (f"def f(x: int, /):\n    {DOC}\n", 1, "f takes x, which has no name"),
        (f"async def f(x: int):\n    {DOC}\n", 1, "f is async or a generator"),
        (f"def f(x: int):\n    {DOC}\n    yield x\n", 1, "f is async or a generator"),
        ("def f(:\n", 1, "not Python: invalid syntax"),
        ("x = 1\nimport no_such_module\n", 2, "cannot be run: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def g():\n    raise OSError('no')\n\ng()\n", 2, "cannot be run: OSError: no"),
        ("import sys\nsys.exit('bye')\n", 2, "cannot be run: SystemExit: bye"),
        ("def _f(): pass\n", None, "has no public function → write one"),
        ("", None, "has no public function"),
        ("x = '\0'", None, "not Python: "),
    ],
)
def test_what_is_wrong_with_a_python_file_is_said_with_its_line(
    text: str, line: int | None, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UserError) as refused:
        read_tools(file)
    told = refused.value.line()
    assert told.startswith(f"{file}:{line}: " if line else str(file)), told
    assert said in told


SCHEMA = {"name": "f", "description": "Do.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}


@pytest.mark.parametrize("content", [[SCHEMA], [{"type": "function", "function": SCHEMA}], SCHEMA])
def test_schemas_are_read_bare_and_in_openais_wrapping(content: Any, tmp_path: Path) -> None:
    box = read_tools(written(tmp_path, json.dumps(content), "tools.json"))
    assert box.schemas == (SCHEMA,)
    assert not box.functions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps([SCHEMA, SCHEMA]), "tools.json: two tools are named f → rename one of them"),
        ("[]", "tools.json: holds no tools"),
        ('[{"name": "f",\n]', "tools.json:2: not JSON: "),
        ('[{"name": "f", "name": "g"}]', 'tools.json: not JSON: key "name" stands twice in one object'),
        ('[{"name": "f", "x": NaN}]', "tools.json: not JSON: NaN is not JSON"),
        ('[{"description": "f"}]', "tools[0] has no name"),
        ("3", "must be a list of tool schemas, not 3"),
        ("[" * 100_000, "not JSON: values are nested too deeply"),
        ('[{"name": "f", "parameters": {"type": "frob"}}]', "the parameters of f are no JSON schema: "),
        (
            '[{"name": "f", "parameters": {"type": "string"}}]',
            "the parameters of f are no JSON schema: their type is not",
        ),
        ('[{"name": "f", "parameters": [1]}]', "the parameters of f are no JSON schema: they are no object"),
        ('[{"name": "f", "parameters": {"$ref": "https://a.org/b"}}]', "https://a.org/b is not fetched"),
    ],
)
def test_what_is_wrong_with_a_file_of_schemas_is_said(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_tools(written(tmp_path, text, "tools.json"))
    assert said in refused.value.line()
    assert "\n" not in refused.value.line()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.py: cannot be read: No such file"):
        read_tools(tmp_path / "gone.py")
    (tmp_path / "a.py").write_bytes(b"x = '\xff'")
    with pytest.raises(UserError, match=r"a\.py: is not UTF-8 text"):
        read_tools(tmp_path / "a.py")


def test_a_tool_has_the_name_that_its_file_gives_it(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text('def f() -> int:\n    """One."""\n    return 1\n\n\nf.__name__ = "wrapper"\n', encoding="utf-8")
    box = read_tools(file)
    assert [schema["name"] for schema in box.schemas] == list(box.functions) == ["f"]


def test_choices_that_are_no_json_are_said_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text(
        'def f(a: str) -> str:\n    """One.\n\n    Args:\n        a: which (choices: [x, y])\n    """\n',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"tools.py:1: the choices in the docstring of f are no JSON"):
        read_tools(file)
