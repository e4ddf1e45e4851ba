"""Step folders: digests of content, files that are whole or not there, one process at a time, and kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolalign import store
from smolalign.errors import UserError
from smolalign.store import (
    digest_files,
    digest_json,
    digest_path,
    finish,
    is_done,
    output_files,
    read_json,
    read_manifest,
    step_folder,
    whole_folder,
    write_json,
    write_text,
)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- digests ---------------------------------------------------------------------------------------------------------


@settings(derandomize=True)
@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=1))
def test_the_digest_of_json_is_blind_to_key_order_alone(value: dict[str, object]) -> None:
    assert digest_json(value) == digest_json(dict(reversed(value.items())))
    key = next(iter(value))
    assert digest_json(value) != digest_json({**value, key: [value[key]]})


def test_a_digest_is_of_content_and_names_not_of_times_or_places(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second):
        (folder / "sub").mkdir(parents=True)
        (folder / "a").write_text("A")
        (folder / "sub" / "b").write_text("B")
    os.utime(second / "a", (1, 1))
    assert digest_path(first) == digest_path(second)
    (second / "sub" / "b").write_text("b")
    assert digest_path(first) != digest_path(second)
    (second / "sub" / "b").write_text("B")
    (second / "sub" / "b").rename(second / "sub" / "c")
    assert digest_path(first) != digest_path(second)


def test_bytes_moved_from_one_file_to_the_next_change_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("xy")
    (tmp_path / "b").write_text("z")
    before = digest_path(tmp_path)
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("yz")
    assert digest_path(tmp_path) != before


def test_the_digest_of_an_output_covers_model_and_rows_only(tmp_path: Path) -> None:
    for part in ("model", "data", "checkpoints"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "x").write_text(part)
    before = digest_files(tmp_path, output_files(tmp_path))
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "checkpoints" / "x").write_text("other")
    assert digest_files(tmp_path, output_files(tmp_path)) == before
    (tmp_path / "data" / "x").write_text("other")
    assert digest_files(tmp_path, output_files(tmp_path)) != before


# --- whole or not there ----------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "step.json"
    write_text(file, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write step\.json: No space left on device"):
        write_text(file, "new")
    assert (file.read_text(), names(tmp_path)) == ("old", {"step.json"})


def test_a_write_below_a_file_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write x: Not a directory"):
        write_text(tmp_path / "file" / "x", "")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "[1]", "null"])
def test_json_that_is_no_whole_object_reads_as_absent(tmp_path: Path, text: str) -> None:
    (tmp_path / "step.json").write_text(text)
    assert read_manifest(tmp_path) is None
    assert not is_done(tmp_path, "f")
    assert read_json(tmp_path / "gone.json") is None


def test_a_folder_takes_its_place_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with whole_folder(target) as folder:
        (folder / "old").touch()
        assert not target.exists()
    with whole_folder(target) as folder:
        (folder / "new").touch()
        assert names(target) == {"old"}
    assert names(tmp_path) == {"deep", "deep/model", "deep/model/new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_the_old_one_and_no_trace(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "model"
    with whole_folder(target) as folder:
        (folder / "old").touch()

    def fail() -> None:
        with whole_folder(target) as folder:
            (folder / "new").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == {"model", "model/old"}


def test_what_a_killed_writer_left_under_a_temporary_name_does_not_get_in(tmp_path: Path) -> None:
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "torn").touch()
    with whole_folder(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert names(tmp_path) == {"model", "model/new"}


# --- step folders ----------------------------------------------------------------------------------------------------


def begin(folder: Path, fingerprint: str, *, fresh: bool = False) -> bool:
    """Begin a step and be killed: nothing is finished."""
    with step_folder(folder, fingerprint, fresh=fresh) as resumed:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "of").write_text(fingerprint)
        return resumed


def test_the_same_step_is_taken_up_and_another_one_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "sft"
    assert not begin(folder, "a")
    assert begin(folder, "a")
    with step_folder(folder, "b", fresh=False) as resumed:
        assert not resumed
        assert not (folder / "checkpoints").exists()
    assert begin(folder, "b")
    with step_folder(folder, "b", fresh=True) as resumed:
        assert not resumed
        assert not (folder / "checkpoints").exists()


def test_a_step_is_done_once_its_manifest_is_there_and_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    begin(folder, "a")
    assert not is_done(folder, "a")
    finish(folder, {"fingerprint": "a"})
    assert is_done(folder, "a")
    assert not is_done(folder, "b")
    assert names(folder) == {"step.json", ".lock"}


def test_a_step_whose_output_was_removed_is_not_done(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    begin(folder, "a")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    finish(folder, {"fingerprint": "a"})
    assert is_done(folder, "a")
    (folder / "model" / "config.json").unlink()
    assert not is_done(folder, "a")


def test_a_new_step_in_the_folder_of_a_finished_one_undoes_it_first(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    begin(folder, "a")
    finish(folder, {"fingerprint": "a"})
    (folder / "model").mkdir()
    (folder / "notes.txt").touch()
    begin(folder, "b")
    assert not is_done(folder, "a")
    assert names(folder) == {".lock", "started.json", "notes.txt", "checkpoints", "checkpoints/of"}


def test_a_kill_while_the_old_step_is_removed_leaves_neither_step_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sft"
    begin(folder, "a")
    finish(folder, {"fingerprint": "a"})
    for name in ("model", "data"):
        (folder / name).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            begin(folder, "b")
    assert read_manifest(folder) is None
    assert not begin(folder, "b")
    assert not (folder / "model").exists()


def test_a_folder_that_no_step_made_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "sft" / "data").mkdir(parents=True)
    (tmp_path / "sft" / "data" / "mine.jsonl").touch()
    for fresh in (False, True):
        with pytest.raises(UserError, match="holds data, which no step left there → choose another --out"):
            begin(tmp_path / "sft", "a", fresh=fresh)
    assert (tmp_path / "sft" / "data" / "mine.jsonl").exists()


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from smolalign.store import step_folder\n"
        "with step_folder(Path(sys.argv[1]), 'a', fresh=False): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "sft"], stdin=-1, stdout=-1, text=True)
    assert other.stdout
    assert other.stdout.readline() == "in\n"
    with pytest.raises(UserError, match="another smolalign is at work in this folder"):
        begin(tmp_path / "sft", "b")
    assert json.loads((tmp_path / "sft" / "started.json").read_text()) == {"fingerprint": "a", "layout": ""}
    other.kill()
    other.wait()
    assert begin(tmp_path / "sft", "a")


def test_json_is_written_as_a_person_reads_it(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "ü", "a": [1]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "b": "ü",\n  "a": [\n    1\n  ]\n}\n'
