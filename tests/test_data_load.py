"""From a file to checked rows: detection, coercion, counting, and rows in order or a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smolalign.data.load import load_rows
from smolalign.data.validate import validate_row
from smolalign.errors import UserError
from smolalign.rows import Chat, Document, Message, Pair, Row, RowKind, ToolCall

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
PAIR = {"prompt": "hi", "chosen": "hello", "rejected": "go away"}


@pytest.fixture(autouse=True)
def in_tmp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*records: dict[str, Any]) -> str:
    Path("a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return "a.jsonl"


def error_of(kind: RowKind, *records: dict[str, Any], format: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        load_rows(write(*records), kind, format=format)
    return caught.value.line()


def test_rows_are_counted_and_carry_their_origin() -> None:
    equal = {**PAIR, "rejected": "hello"}
    loaded = load_rows(write(PAIR, equal, equal, PAIR), "pair")
    assert [row.origin for row in loaded.rows] == ["a.jsonl:1", "a.jsonl:4"]
    assert (loaded.format, loaded.rows_in, loaded.skipped) == ("ultrafeedback", 4, {"chosen equals rejected": 2})


def test_one_record_may_give_several_rows() -> None:
    instances = [{"input": "", "output": "a"}, {"input": "", "output": "b"}, {"input": "", "output": ""}]
    loaded = load_rows(write({"instruction": "hi", "instances": instances}), "chat")
    assert (len(loaded.rows), loaded.rows_in, loaded.skipped) == (2, 1, {"empty output": 1})


def test_pairs_serve_as_chats() -> None:
    messages = (Message("user", "hi"), Message("assistant", "hello"))
    assert load_rows(write(PAIR), "chat").rows == [Chat(messages, (), "a.jsonl:1")]


def test_a_limit_reads_no_further() -> None:
    source = write(CHAT, CHAT, {"broken": 1})
    assert load_rows(source, "chat", limit=2).rows_in == 2


def test_other_kinds_do_not_fit() -> None:
    assert error_of("pair", CHAT) == (
        "a.jsonl: format openai gives chats, but this step needs preference pairs → "
        "formats that give preference pairs: ultrafeedback_raw, ultrafeedback, hh_rlhf"
    )
    assert error_of("document", CHAT, format="openai") == (
        "a.jsonl: format openai gives chats, but this step needs texts → formats that give texts: text"
    )


def test_an_unknown_format_is_named_with_a_near_one() -> None:
    assert error_of("chat", CHAT, format="sharegtp") == 'unknown format "sharegtp" → did you mean sharegpt?'


def test_unknown_keys_are_told_with_the_formats_there_are() -> None:
    line = error_of("chat", {"q": 1, "a": 2})
    assert line.startswith("a.jsonl:1: no known format has the keys q, a → rename them to fit one: ")
    assert "openai (messages [role, content])" in line


def test_mixed_formats_name_the_first_row_that_differs() -> None:
    assert error_of("chat", CHAT, CHAT, {"instruction": "hi", "output": "hello"}) == (
        "a.jsonl:3: this row looks like alpaca (keys instruction, output), the first one like openai → "
        "put each format in its own file, or set `format: openai` if the row is one"
    )


def test_a_named_format_takes_rows_that_others_also_fit() -> None:
    both = {**CHAT, "text": "a document"}
    assert load_rows(write(both), "document", format="text").rows == [Document("a document", "a.jsonl:1")]


def test_a_broken_record_is_placed() -> None:
    assert error_of("chat", CHAT, {"messages": []}) == "a.jsonl:2: messages has no turns → remove the row"


def test_nothing_usable_is_an_error() -> None:
    assert error_of("pair", {**PAIR, "rejected": "hello"}) == (
        "a.jsonl: no usable row among 1 (chosen equals rejected: 1)"
    )


S, U, A, T = (Message(role, "x") for role in ("system", "user", "assistant", "tool"))
C = Message("assistant", "", (ToolCall("f", {}),))
NONE_FITS = Message("assistant", "", ())
F: tuple[dict[str, Any], ...] = ({"name": "f"},)


@pytest.mark.parametrize(
    "row",
    [
        Chat((U, A)),
        Chat((S, U, A, U, A)),
        Chat((U, C, T, A), F),
        Chat((U, C, T, T, C, T, A)),
        Chat((U, C)),
        Chat((U, C, U, A)),
        Chat((U, C, Message("tool", ""), A)),
        Chat((U, NONE_FITS), F),
        Chat((U, Message("assistant", '<tool_call>[{"name": "f"}]</tool_call>'), T, A)),
        Pair((S, U), A, C),
        Pair((U, C, T), A, Message("assistant", "y")),
    ],
)
def test_rows_in_order_pass(row: Row) -> None:
    validate_row(row)


ALTERNATE = " → user and assistant must alternate, and tool turns follow a call; merge the turns or remove the row"
BAD_ROWS: list[tuple[Row, str]] = [
    (Document(" "), "the text is empty → remove the row"),
    (Chat((U,)), "the chat has no assistant turn, so there is nothing to learn → remove the row"),
    (Chat((A, U, A)), "the chat starts with a assistant turn → start it with a user turn, or remove the row"),
    (Chat((U, A, U)), "the chat ends with a user turn (turn 3) → remove that turn, or add the assistant's answer"),
    (Chat((U, C, T)), "the chat ends with a tool turn (turn 3) → remove that turn, or add the assistant's answer"),
    (Chat((U, S, A)), "turn 2 is a system turn → a system turn can only be the first"),
    (Chat((U, U, A)), "turn 2 is a user turn right after a user turn" + ALTERNATE),
    (Chat((U, A, A)), "turn 3 is a assistant turn right after a assistant turn" + ALTERNATE),
    (Chat((S, A)), "turn 2 is a assistant turn right after a system turn" + ALTERNATE),
    (
        Chat((U, A, T, A)),
        "turn 3 is a tool turn, but turn 2 calls no tool → give the call as tool_calls, or remove the row",
    ),
    (Chat((U, Message("assistant", "\n"))), "turn 2 (assistant) is empty → remove the row, or fill the turn"),
    (
        Chat((U, NONE_FITS)),
        "turn 2 (assistant) has an empty list of calls, which says that no offered tool fits → "
        "offer tools and leave the content empty, or remove the list",
    ),
    (
        Chat((U, C), ({"name": "g"},)),
        'turn 2 (assistant) calls "f", which is not offered (tools: g) → add its schema to tools, or remove the row',
    ),
    (Pair((), A, C), "the prompt has no turns → remove the row"),
    (
        Pair((U, A), A, C),
        "the prompt ends with a assistant turn (turn 2) → its last turn must be the user's or a tool's",
    ),
    (Pair((U,), U, A), "chosen is a user turn → it must be the assistant's"),
    (Pair((U,), A, Message("assistant")), "rejected is empty → remove the row, or fill the turn"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_rows_out_of_order_say_which_turn_and_what_to_do(row: Row, message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate_row(row)
    assert caught.value.line() == message.replace("a assistant", "an assistant")


def test_what_json_cannot_hold_is_refused() -> None:
    row = Chat((U, Message("assistant", "", (ToolCall("f", {"a": float("nan")}),))))
    with pytest.raises(UserError, match="arguments of f cannot be written as JSON"):
        validate_row(row)


def test_rows_that_hold_ids_of_an_archive_in_place_of_text_are_told_apart() -> None:
    line = error_of("document", {"blob_id": "0a", "language": "Python", "score": 3.5})
    assert "a.jsonl:1: these rows hold ids of files in Software Heritage's archive (blob_id), not their text" in line
