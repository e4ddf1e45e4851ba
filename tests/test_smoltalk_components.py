"""Every part of SmolTalk is read from rows in its published layout, in SmolTalk and in its original home.

Column names and types are the published ones; the words in the rows are made up here.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign.chat.calls import parse_reply
from smolalign.chat.render import render_text
from smolalign.data.formats import FORMATS
from smolalign.data.load import load_rows
from smolalign.recipe.load import load_recipe
from smolalign.recipe.shipped import find_recipe
from smolalign.rows import Chat, Message, Skip, ToolCall

Record = dict[str, Any]

# Hugging Face's writer stores turns as structs in this order.
TURNS = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))


def said(*turns: str, system: str = "") -> tuple[Message, ...]:
    """Turns of user and assistant by turns, after a system turn if there is one."""
    messages = [Message("assistant" if index % 2 else "user", text) for index, text in enumerate(turns)]
    return (Message("system", system), *messages) if system else tuple(messages)


def turns_of(messages: tuple[Message, ...]) -> list[Record]:
    return [{"content": message.content, "role": message.role} for message in messages]


WEATHER: Record = {
    "name": "weather.now",
    "description": "The weather at a place; degrees < 60 are °C.",
    "parameters": {
        "place": {"description": "A town.", "type": "str"},
        "days": {"description": "How far ahead.", "type": "int, optional", "default": 1},
    },
}
WEATHER_SCHEMA: Record = {
    **WEATHER,
    "parameters": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "A town."},
            "days": {"type": "integer", "description": "How far ahead.", "default": 1},
        },
        "required": ["place"],
    },
}
CALLS = (ToolCall("weather.now", {"place": "Åre", "days": 2}), ToolCall("weather.now", {"place": "Rio"}))
CALLS_TEXT = '[{"name": "weather.now", "arguments": {"place": "Åre", "days": 2}}, ' + (
    '{"name": "weather.now", "arguments": {"place": "Rio"}}]'
)


def calling_system(tools: str) -> str:
    """The system turn of `apigen-80k`, shortened in its middle."""
    return (
        "You are an expert in composing functions. You are given a question and a set of possible functions. \n"
        "If none of the functions can be used, point it out and refuse to answer.\n\n"
        f"You have access to the following tools:\n<tools>{tools}</tools>\n\n"
        "The output MUST strictly adhere to the following format, and NO other text MUST be included.\n"
        '<tool_call>[\n{"name": "func_name1", "arguments": {"argument1": "value1"}},\n'
        "... (more tool calls as required)\n]</tool_call>"
    )


def calling_row(answer: str, tools: str | None = None) -> Record:
    system = calling_system(json.dumps([WEATHER], ensure_ascii=False) if tools is None else tools)
    return {"messages": turns_of(said("How warm is it?", answer, system=system))}


MULTI_TURN = said("Plan a garden.", "Begin with the soil.", "And then?", "Then sow.")
WITH_SYSTEM = said("Dear all, the bus is late.", "The bus is late.", system="Summarise in one sentence, without you.")
MATHS = said("What is $2+3$?", "We add them: $\\boxed{5}$")
CODE = said("Write a function `twice`.", "```python\ndef twice(x):\n    return 2 * x\n```")

# Config of HuggingFaceTB/smoltalk: its columns besides `messages`, a row, and the chat it must become.
CONFIGS: dict[str, tuple[dict[str, pa.DataType], Record, Chat]] = {
    "smol-magpie-ultra": (
        {
            "category": pa.string(),
            "difficulty": pa.string(),
            "quality": pa.string(),
            "reward_model_score": pa.float64(),
            "conversation_tokens": pa.int64(),
        },
        {
            "messages": turns_of(MULTI_TURN),
            "category": "planning",
            "difficulty": "easy",
            "quality": "good",
            "reward_model_score": 0.17,
            "conversation_tokens": 31,
        },
        Chat(MULTI_TURN),
    ),
    "smol-constraints": (
        {},
        {"messages": turns_of(said("Name a tree, without commas.", "Oak"))},
        Chat(said("Name a tree, without commas.", "Oak")),
    ),
    "smol-rewrite": ({}, {"messages": turns_of(WITH_SYSTEM)}, Chat(WITH_SYSTEM)),
    "smol-summarize": ({}, {"messages": turns_of(WITH_SYSTEM)}, Chat(WITH_SYSTEM)),
    "openhermes-100k": (
        {"source": pa.string()},
        {"messages": turns_of(said("Who tends bees?", "A beekeeper.")), "source": "made up"},
        Chat(said("Who tends bees?", "A beekeeper.")),
    ),
    "metamathqa-50k": (
        {"type": pa.string()},
        {"messages": turns_of(MATHS), "type": "MATH_AnsAug"},
        Chat(MATHS),
    ),
    "numina-cot-100k": (
        {"source": pa.string()},
        {"messages": turns_of(MATHS), "source": "olympiads"},
        Chat(MATHS),
    ),
    "self-oss-instruct": ({}, {"messages": turns_of(CODE)}, Chat(CODE)),
    "systemchats-30k": (
        {},
        {"messages": turns_of(said("Hi", "Arr, hello", system="You are a pirate."))},
        Chat(said("Hi", "Arr, hello", system="You are a pirate.")),
    ),
    "longalign": (
        {},
        {"messages": turns_of(said("A long text.\n" * 500 + "Who?", "Nobody."))},
        Chat(said("A long text.\n" * 500 + "Who?", "Nobody.")),
    ),
    "everyday-conversations": (
        {"full_topic": pa.string()},
        {"messages": turns_of(said("Hi", "Hello! How can I help?", "A pet?", "A cat.")), "full_topic": "Pets/Cats"},
        Chat(said("Hi", "Hello! How can I help?", "A pet?", "A cat.")),
    ),
    "apigen-80k": (
        {},
        calling_row(f"<tool_call>{CALLS_TEXT}</tool_call>"),
        Chat((Message("user", "How warm is it?"), Message("assistant", "", CALLS)), (WEATHER_SCHEMA,)),
    ),
    "explore-instruct-rewriting": (
        {},
        {"messages": turns_of(said("Make it formal: hi", "Good day."))},
        Chat(said("Make it formal: hi", "Good day.")),
    ),
}

CALLED = Chat((Message("user", "How warm is it?"), Message("assistant", "", CALLS)), (WEATHER_SCHEMA,))
APIGEN = {"query": "How warm is it?", "answers": CALLS_TEXT, "tools": json.dumps([WEATHER])}
SHAREGPT = [("human", "Who tends bees?", 0.0), ("gpt", "A beekeeper.", 1.0)]
# Original home: a row in its columns, the format that it is told to have, and the chat it must become.
ORIGINALS: dict[str, tuple[Record, str, Chat]] = {
    "teknium/OpenHermes-2.5": (
        {
            **dict.fromkeys(("custom_instruction", "topic", "model_name", "model", "skip_prompt_formatting")),
            "category": "general",
            "conversations": [
                {"from": "system", "value": "Answer briefly.", "weight": None},
                *({"from": role, "value": text, "weight": weight} for role, text, weight in SHAREGPT),
            ],
            **dict.fromkeys(("views", "language", "id", "title", "idx", "hash", "avatarUrl", "system_prompt")),
            "source": "made up",
        },
        "sharegpt",
        Chat(said("Who tends bees?", "A beekeeper.", system="Answer briefly.")),
    ),
    "meta-math/MetaMathQA": (
        {
            "type": "GSM_Rephrased",
            "query": "What is 2+3?",
            "original_question": "Ann has 2 and gets 3.",
            "response": "The answer is: 5",
        },
        "prompt_completion",
        Chat(said("What is 2+3?", "The answer is: 5")),
    ),
    "AI-MO/NuminaMath-CoT": (
        {
            "source": "cn_k12",
            "problem": "What is $2+3$?",
            "solution": "We add them: $\\boxed{5}$",
            "messages": turns_of(MATHS),
        },
        "openai",
        Chat(MATHS),
    ),
    "bigcode/self-oss-instruct-sc2-exec-filter-50k": (
        {
            "fingerprint": "a",
            "sha1": "b",
            "seed": "def seed(): ...",
            "response": CODE[1].content,
            "concepts": ["functions"],
            "prompt": "I have these concepts: functions",
            "instruction": CODE[0].content,
            "id": 7,
        },
        "alpaca",
        Chat(CODE),
    ),
    "THUDM/LongAlign-10k": (
        {"messages": [{"role": m.role, "content": m.content} for m in said("Long.", "Yes.")], "length": 9000},
        "openai",
        Chat(said("Long.", "Yes.")),
    ),
    "HuggingFaceTB/everyday-conversations-llama3.1-2k": (
        {
            "topic": "Pets",
            "subtopic": "Cats",
            "subsubtopic": "Food",
            "full_topic": "Pets/Cats/Food",
            "prompt": "Write a dialogue on cats.",
            "completion": "User: Hi\nAI: Hello!",
            "token_length": 9,
            "messages": turns_of(said("Hi", "Hello!")),
        },
        "openai",
        Chat(said("Hi", "Hello!")),
    ),
    "argilla/apigen-function-calling": (
        {
            "answers": CALLS_TEXT,
            "query": "How warm is it?",
            "id": 3.0,
            "tools": json.dumps([WEATHER]),
            **dict.fromkeys(("func_name", "func_desc", "hash_id", "model_name")),
            "origin": "xLAM",
        },
        "apigen",
        CALLED,
    ),
    # Its layout is not told on its card: either of the two that instructions come in.
    "Wanfq/Explore_Instruct_Rewriting_32k": (
        {"instruction": "Make it formal:", "input": "hi", "output": "Good day."},
        "alpaca",
        Chat(said("Make it formal:\n\nhi", "Good day.")),
    ),
}
# What those were made of, and what else may be taken in a part's place.
RELATED: dict[str, tuple[Record, str, Chat]] = {
    "HuggingFaceTB/smol-smoltalk": (
        {"messages": turns_of(MULTI_TURN), "source": "smol-magpie-ultra-short"},
        "openai",
        Chat(MULTI_TURN),
    ),
    "HuggingFaceTB/smoltalk all": ({"messages": turns_of(MATHS), "source": "numina-cot-100k"}, "openai", Chat(MATHS)),
    "argilla/magpie-ultra-v1.0": (
        {
            "conversation": turns_of(MULTI_TURN),
            "system_prompt_key": "planning",
            "instruction": "Plan a garden.",
            "quality": "good",
            "guard": None,
        },
        "openai",
        Chat(MULTI_TURN),
    ),
    "argilla/Synth-APIGen-v0.1": (
        {"func_name": "weather.now", "func_desc": "The weather.", **APIGEN, "model_name": "m", "hash_id": "h"},
        "apigen",
        CALLED,
    ),
    "Salesforce/xlam-function-calling-60k": ({"id": 0, **APIGEN}, "apigen", CALLED),
    "cognitivecomputations/SystemChat-2.0 SystemChat_filtered.jsonl": (
        {"messages": [{"role": m.role, "content": m.content} for m in WITH_SYSTEM]},
        "openai",
        Chat(WITH_SYSTEM),
    ),
    "cognitivecomputations/SystemChat-2.0 SystemChat_filtered_sharegpt.jsonl": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hi."},
            ]
        },
        "sharegpt",
        Chat(said("Hi", "Hi.", system="Be brief.")),
    ),
    "Wanfq/Explore_Instruct_Rewriting_32k as chats": (
        {"conversations": [{"from": "human", "value": "Make it formal: hi"}, {"from": "gpt", "value": "Good day."}]},
        "sharegpt",
        Chat(said("Make it formal: hi", "Good day.")),
    ),
}


def read_back(file: Path) -> tuple[str, list[Chat], dict[str, int]]:
    loaded = load_rows(str(file), "chat")
    return loaded.format, [dataclasses.replace(row, origin="") for row in loaded.rows], loaded.skipped


def exactly(value: Any) -> str:
    """Tells 1 from 1.0 and one key order from another, which == does not."""
    return repr(value)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_of_a_smoltalk_config_becomes_its_chat(config: str, tmp_path: Path) -> None:
    columns, record, chat = CONFIGS[config]
    file = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([record], pa.schema([("messages", TURNS), *columns.items()])), file)
    assert exactly(read_back(file)) == exactly(("openai", [chat], {}))


@pytest.mark.parametrize("home", [*ORIGINALS, *RELATED])
def test_a_row_of_an_original_home_becomes_its_chat(home: str, tmp_path: Path) -> None:
    record, name, chat = {**ORIGINALS, **RELATED}[home]
    assert exactly(read_back(write_jsonl(tmp_path / "a.jsonl", [record]))) == exactly((name, [chat], {}))


def test_every_source_of_the_smoltalk_recipes_is_tested_here() -> None:
    tested = {("HuggingFaceTB/smoltalk", config) for config in CONFIGS} | {(home, None) for home in ORIGINALS}
    listed = {
        (source.source, source.config)
        for name in ("smollm2-1.7b/smoltalk", "smollm2-1.7b/smoltalk-originals", "smollm2-135m/smoltalk")
        for source in load_recipe(find_recipe(name)).step.data  # type: ignore[attr-defined]
    }
    assert listed == tested


# --- tools and calls written as text ---------------------------------------------------------------------------------

arguments = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)


def chat_of(record: Record) -> Any:
    return FORMATS["openai"].convert(record)


@given(st.lists(arguments, max_size=3), st.booleans())
@settings(max_examples=80, deadline=None)
def test_calls_written_as_text_come_through_exactly(found: list[Record], ascii: bool) -> None:
    text = json.dumps([{"name": "weather.now", "arguments": value} for value in found], ensure_ascii=ascii)
    chat = chat_of(calling_row(f"<tool_call>{text}</tool_call>"))
    assert exactly(chat.messages[1].tool_calls) == exactly(tuple(ToolCall("weather.now", value) for value in found))
    assert chat.tools == (WEATHER_SCHEMA,)


def test_the_template_says_once_what_the_text_said(tiny_model: Path) -> None:
    from smolalign.model import load_tokenizer

    chat = chat_of(calling_row(f"<tool_call>{CALLS_TEXT}</tool_call>"))
    text = render_text(load_tokenizer(str(tiny_model)), chat.messages, chat.tools)
    assert text.count("<tools>") == 1
    assert "expert in composing" not in text
    answer = text.rpartition("<|im_start|>assistant\n")[2].removesuffix("<|im_end|>\n")
    assert answer == f"<tool_call>{CALLS_TEXT}</tool_call>"
    assert parse_reply(answer, chat.tools).calls == CALLS


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("<tool_call>[]</tool_call>", Message("assistant", "", ())),
        ("The question lacks a place.", Message("assistant", "The question lacks a place.")),
        (f"Two places.\n<tool_call>\n{CALLS_TEXT}\n</tool_call>\n", Message("assistant", "Two places.", CALLS)),
        ("None fits.<tool_call>[]</tool_call>", Message("assistant", "None fits.")),
    ],
)
def test_answers_with_and_without_calls(answer: str, message: Message) -> None:
    assert chat_of(calling_row(answer)) == Chat((Message("user", "How warm is it?"), message), (WEATHER_SCHEMA,))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (calling_row("<tool_call>[{'name': 'weather.now'}]</tool_call>"), "function call is not JSON"),
        (calling_row(f"<tool_call>{CALLS_TEXT}"), "function call is not JSON"),
        (calling_row("<tool_call></tool_call>"), "function call is not JSON"),
        (calling_row(f"<tool_call>{CALLS_TEXT}</tool_call> Done."), "function call is not JSON"),
        (calling_row(f"<tool_call>{CALLS_TEXT}</tool_call>", "[{'name': 'f'}]"), "tool schemas are not JSON"),
    ],
)
def test_a_row_whose_calls_or_tools_cannot_be_read_is_skipped(record: Record, reason: str) -> None:
    assert chat_of(record) == Skip(reason)


@pytest.mark.parametrize(
    "system",
    [
        calling_system("[]"),
        calling_system("[{}]").replace("You are an expert", "You are Ada, an expert"),
        calling_system("[{}]").replace("format, and", "format <i>only</i>, and"),
        calling_system("[{}]") + "\nSign as Ada.",
        "In XML, a list of <tools>hammer</tools> may stand anywhere.",
    ],
)
def test_any_other_system_turn_stays_as_text(system: str) -> None:
    messages = said("How warm is it?", f"<tool_call>{CALLS_TEXT}</tool_call>", system=system)
    assert chat_of({"messages": turns_of(messages)}) == Chat(messages)


def test_rows_with_tools_of_their_own_keep_their_text() -> None:
    record = {**calling_row("It is warm."), "tools": json.dumps([WEATHER])}
    assert chat_of(record).messages[0].role == "system"
