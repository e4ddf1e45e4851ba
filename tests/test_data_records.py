"""Reading sources: every record with its origin, and one clear line for everything that can be wrong with a file."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from smolalign.data import hub
from smolalign.data.records import fingerprint_source, read_records
from smolalign.errors import UserError


@pytest.fixture(autouse=True)
def in_tmp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def write_parquet(name: str, records: list[dict[str, object]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), name)
    return name


def error_of(source: str, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        list(read_records(source, **options))
    return caught.value.line()


def test_jsonl_counts_lines_past_blank_ones_and_tolerates_a_byte_order_mark() -> None:
    write("a.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n{"a": "\xe2\x80\xa8"}\r\n')
    assert list(read_records("a.jsonl")) == [("a.jsonl:1", {"a": 1}), ("a.jsonl:3", {"a": "\u2028"})]


@pytest.mark.parametrize("around", ["{}", '{{"data": {}}}', '{{"mine": {}}}'])
def test_json_may_be_a_list_or_an_object_with_one(around: str) -> None:
    write("a.json", around.format('[{"a": 1}, {"a": 2}]'))
    assert list(read_records("a.json")) == [("a.json#row 1", {"a": 1}), ("a.json#row 2", {"a": 2})]


def test_json_lines_named_json_are_read_by_line() -> None:
    write("a.json", '{"a": 1}\n{"a": 2}\n')
    assert list(read_records("a.json")) == [("a.json:1", {"a": 1}), ("a.json:2", {"a": 2})]


def test_a_json_object_that_is_a_chat_is_one_record() -> None:
    record = {"messages": [{"role": "user", "content": "hi"}]}
    write("a.json", json.dumps(record))
    assert list(read_records("a.json")) == [("a.json#row 1", record)]


def test_text_is_split_at_blank_lines() -> None:
    write("a.txt", "\none\ntwo\n \n\nthree")
    assert list(read_records("a.txt")) == [("a.txt:2", {"text": "one\ntwo"}), ("a.txt:6", {"text": "three"})]


def test_parquet_rows_are_counted_from_one() -> None:
    write_parquet("a.parquet", [{"a": 1}, {"a": None}])
    assert list(read_records("a.parquet")) == [("a.parquet#row 1", {"a": 1}), ("a.parquet#row 2", {"a": None})]


def test_a_folder_gives_its_data_files_in_order_without_its_notes() -> None:
    write("d/b.jsonl", '{"a": 2}')
    write("d/a.json", '[{"a": 1}]')
    write("d/SOURCE.txt", "not data")
    write("d/.hidden.jsonl", "{")
    assert [origin for origin, _ in read_records("d")] == ["d/a.json#row 1", "d/b.jsonl:1"]


def test_a_step_folder_gives_only_its_training_shards() -> None:
    write("s/step.json", "{}")
    write("s/metrics.jsonl", '{"loss": 1}')
    write_parquet("s/data/train-00000-of-00002.parquet", [{"a": 1}])
    write_parquet("s/data/train-00001-of-00002.parquet", [{"a": 2}])
    write_parquet("s/data/test.parquet", [{"a": 3}])
    assert [record["a"] for _, record in read_records("s")] == [1, 2]
    assert [record["a"] for _, record in read_records("s", split="test")] == [3]
    assert error_of("s", split="dev") == 's: no split "dev" in this folder → splits there: test, train'


BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "broken": (
        "a.jsonl",
        '{"a": 1}\n{"a" 1}\n',
        "a.jsonl:2: broken JSON at column 6: Expecting ':' delimiter, at \"1}\"",
    ),
    "cut off": ("a.jsonl", '{"a": "b', "a.jsonl:1: broken JSON at column 7: Unterminated string starting at, at "),
    "list": ("a.jsonl", "[1, 2]\n", "a.jsonl:1: the line is a list, not an object: [1, 2]"),
    "pretty list": (
        "a.jsonl",
        '[\n{"a": 1}\n]',
        "a.jsonl:1: broken JSON at column 2: Expecting value, at its end → "
        "this looks like a JSON list: rename the file to .json",
    ),
    "nan": ("a.jsonl", '{"a": NaN}', "a.jsonl:1: broken JSON: NaN is not JSON; use null or a number"),
    "infinity": ("a.json", '[{"a": -Infinity}]', "a.json: broken JSON: -Infinity is not JSON; use null or a number"),
    "too large": ("a.jsonl", '{"a": 1e999}', 'a.jsonl:1: broken JSON: number "1e999" is too large'),
    "digits": ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "a.jsonl:1: broken JSON: a whole number has too many digits"),
    "deep": ("a.jsonl", '{"a": ' + "[" * 100_000, "a.jsonl:1: broken JSON: values are nested too deeply"),
    "twice": ("a.jsonl", '{"a": 1, "a": 2}', 'a.jsonl:1: broken JSON: key "a" stands twice in one object'),
    "surrogate": (
        "a.jsonl",
        '{"a": "\\ud800"}',
        "a.jsonl:1: broken JSON: \\ud800 is half of a character (a lone surrogate)",
    ),
    "latin-1": (
        "a.jsonl",
        b'{"a": 1}\n{"a": "caf\xe9"}\n',
        "a.jsonl:2: byte 0xe9 at offset 19 is not UTF-8 → save the file as UTF-8",
    ),
    "utf-16": ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl: is UTF-16 text, not UTF-8 → save it as UTF-8"),
    "empty": ("a.jsonl", "", "a.jsonl: is empty"),
    "blank": ("a.jsonl", "\n \n", "a.jsonl: holds no records"),
    "empty json": ("a.json", "", "a.json: is empty"),
    "empty list": ("a.json", "[]", "a.json: holds no records"),
    "number": ("a.json", "3", "a.json: the file holds a number, not a list of objects: 3"),
    "rows": ("a.json", '[{"a": 1}, "b"]', 'a.json#row 2: the row is a string, not an object: "b"'),
    "json place": ("a.json", '[\n{"a" 1}]', "a.json:2: broken JSON at column 6: Expecting ':' delimiter, at \"1}]\""),
    "empty parquet": ("a.parquet", "", "a.parquet: is empty"),
    "parquet": ("a.parquet", "not parquet, but long enough to have a footer", "a.parquet: cannot be read as Parquet: "),
    "suffix": (
        "a.csv",
        "a,b",
        'a.csv: unknown kind of file ".csv" → convert it to one of .jsonl, .json, .parquet, .txt',
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_told_in_one_line(case: str) -> None:
    name, content, message = BAD_FILES[case]
    write(name, content)
    line = error_of(name)
    assert "\n" not in line
    if message.endswith((": ", ", at ")):
        assert line.startswith(message)
    else:
        assert line == message


def test_a_missing_path_names_its_neighbour() -> None:
    write("data/chats.jsonl", "{}")
    assert error_of("data/chat.jsonl") == ('no such file or folder: "data/chat.jsonl" → did you mean data/chats.jsonl?')
    assert error_of("./nothing") == 'no such file or folder: "./nothing" → give a file, a folder or owner/name'
    assert error_of("a/b/c") == 'no such file or folder: "a/b/c" → give a file, a folder or owner/name'
    assert error_of("") == 'no such file or folder: "" → give a file, a folder or owner/name'


def test_options_of_hub_datasets_are_refused_for_paths() -> None:
    write("a.jsonl", "{}")
    assert error_of("a.jsonl", config="all") == (
        'a.jsonl: config "all" applies to Hub datasets, and this is a local path → remove `config`'
    )
    assert error_of("a.jsonl", split="train") == (
        'a.jsonl: split "train" does not apply to a single file → remove `split`'
    )


def test_a_folder_without_data_is_an_error() -> None:
    Path("d").mkdir()
    assert error_of("d") == "d: no data files (.jsonl, .json, .parquet, .txt) in this folder"


def hub_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


HUB_ERRORS = {
    "offline": (
        ConnectionError("Couldn't reach 'me/chats' on the Hub (OfflineModeIsEnabled)"),
        "me/chats (config x; split train): HF_HUB_OFFLINE=1 forbids the network, and the dataset is not in the local "
        "cache → check the id, or download it once and give its local path",
    ),
    "no network": (
        ConnectionError("Couldn't reach 'me/chats' on the Hub (LocalEntryNotFoundError)"),
        "me/chats (config x; split train): the Hub cannot be reached, and the dataset is not in the local cache → "
        "check the id, or download it once and give its local path",
    ),
    "config missing": (
        ValueError("Config name is missing.\nPlease pick one among the available configs: ['all', 'small']\nExample"),
        "me/chats (config x; split train): the dataset has several configs → set `config` to one of: all, small",
    ),
    "config": (
        ValueError("BuilderConfig 'x' not found. Available: ['all', 'small']"),
        'me/chats (config x; split train): no config "x" → configs: all, small',
    ),
    "split": (
        ValueError("Unknown split \"train\". Should be one of ['train_sft', 'test_sft']."),
        'me/chats (config x; split train): no split "train" → splits: train_sft, test_sft',
    ),
}


@pytest.mark.parametrize("case", HUB_ERRORS)
def test_hub_errors_are_told_in_one_line(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, message = HUB_ERRORS[case]
    hub_raises(monkeypatch, error)
    assert error_of("me/chats", config="x") == message


def test_the_network_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_given_up", threading.Event())
    offline_when_asked = []

    def load_dataset(*_: object, **__: object) -> None:
        offline_when_asked.append(datasets.config.HF_HUB_OFFLINE)
        how = "OfflineModeIsEnabled" if datasets.config.HF_HUB_OFFLINE else "LocalEntryNotFoundError"
        raise ConnectionError(f"Couldn't reach it on the Hub ({how})")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("me/chats", "me/more"):
        assert error_of(name).startswith(f"{name} (split train): the Hub cannot be reached, and")
    assert offline_when_asked == [False, True]


def test_a_dataset_that_is_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("datasets.exceptions")
    write("me/chat.jsonl", "{}")
    hub_raises(monkeypatch, exceptions.DatasetNotFoundError("Dataset 'me/chats' doesn't exist on the Hub"))
    assert error_of("me/chats") == (
        "me/chats (split train): no such dataset on the Hub, or no access to it → did you mean the local me/chat.jsonl?"
    )


def test_hub_rows_have_origins_and_the_split_defaults_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: dict[str, object] = {}

    def load_dataset(dataset_id: str, **options: object) -> object:
        asked.update(options, id=dataset_id)
        return datasets.Dataset.from_list([{"text": "a"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_records("me/chats-v0.1", revision="abc")) == [("me/chats-v0.1#row 1", {"text": "a"})]
    assert asked == {"id": "me/chats-v0.1", "name": None, "split": "train", "revision": "abc", "streaming": False}


def test_a_fingerprint_follows_content_and_nothing_else() -> None:
    write("a/x.jsonl", '{"a": 1}')
    write("a/y.jsonl", '{"a": 2}')
    write("b/y.jsonl", '{"a": 2}')
    write("b/x.jsonl", '{"a": 1}')
    assert fingerprint_source("a") == fingerprint_source("b")
    write("b/x.jsonl", '{"a": 2}')
    write("b/y.jsonl", '{"a": 1}')
    assert fingerprint_source("a") != fingerprint_source("b")
    assert fingerprint_source("me/chats", split="a") != fingerprint_source("me/chats", config="a")
