"""Rows written to Parquet are read back as the very same rows, whatever the arguments of their calls."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolalign.data.load import load_rows
from smolalign.data.row_files import write_rows
from smolalign.rows import Chat, Document, Message, Pair, Row, RowKind, ToolCall

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
filled = st.text(min_size=1).filter(str.strip)
arguments = st.dictionaries(st.text(), values, max_size=3)
schemas = st.builds(lambda extra: {"name": "f", "description": "é", "parameters": extra}, arguments)
calls = st.lists(st.builds(ToolCall, st.just("f"), arguments), min_size=1, max_size=3).map(tuple)
answers = st.builds(Message, st.just("assistant"), filled) | st.builds(Message, st.just("assistant"), st.text(), calls)
users = st.builds(Message, st.just("user"), filled)
tools: st.SearchStrategy[tuple[dict[str, Any], ...]] = st.lists(schemas, max_size=2).map(tuple)
scores = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    offered, none_fits = draw(tools), draw(st.booleans())
    messages = [Message("system", draw(filled))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages += [draw(users), draw(answers)]
    if offered and none_fits:
        messages[-1] = Message("assistant", "", ())
    return Chat(tuple(messages), offered, draw(st.text()))


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    chosen, rejected = draw(st.lists(answers, min_size=2, max_size=2, unique_by=repr))
    return Pair((draw(users),), chosen, rejected, draw(tools), draw(scores), draw(scores), draw(st.text()))


def assert_survive(rows: list[Any], kind: RowKind, folder: Path) -> None:
    path = folder / "train.parquet"
    assert write_rows(rows, path) == len(rows)
    expected = [
        row if row.origin else dataclasses.replace(row, origin=f"{path}#row {n}") for n, row in enumerate(rows, 1)
    ]
    # repr tells 1 from 1.0 and one key order from another, which == does not.
    assert repr(load_rows(str(path), kind).rows) == repr(expected)


@given(rows=st.lists(chats(), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chats_survive(rows: list[Chat], tmp_path: Path) -> None:
    assert_survive(rows, "chat", tmp_path)


@given(rows=st.lists(pairs().filter(lambda pair: pair.chosen != pair.rejected), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_survive(rows: list[Pair], tmp_path: Path) -> None:
    assert_survive(rows, "pair", tmp_path)


@given(rows=st.lists(st.builds(Document, filled, st.text()), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_survive(rows: list[Document], tmp_path: Path) -> None:
    assert_survive(rows, "document", tmp_path)


def test_clashing_argument_types_survive(tmp_path: Path) -> None:
    kinds: list[Any] = [1, 1.0, "1", True, None, [1, "a"], {"b": {}}, {"a": None}]
    messages = [(Message("user", "x"), Message("assistant", "", (ToolCall("f", {"a": kind}),))) for kind in kinds]
    assert_survive([Chat(turns) for turns in messages], "chat", tmp_path)


def test_more_rows_than_one_group(tmp_path: Path) -> None:
    assert_survive([Document(str(number), "o") for number in range(2500)], "document", tmp_path)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    mixed: list[Row] = [Document("a"), Chat((Message("user", "x"),))]
    with pytest.raises(TypeError, match="rows of two kinds in one file: Document and Chat"):
        write_rows(mixed, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no rows to write"):
        write_rows([], tmp_path / "b.parquet")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_data_layer_loads_nothing_heavy() -> None:
    code = (
        "import sys, smolalign.data.load, smolalign.data.gather, smolalign.data.row_files; "
        "print([name for name in ('pyarrow', 'datasets', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
