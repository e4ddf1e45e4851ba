"""What a step notes of itself besides its result: the machine, the memory held, warnings, and who asked for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from smolalign.hardware import hardware
from smolalign.memory import memory_held
from smolalign.report import Noting, Silent
from smolalign.store import ASKED, note_asked


def torch_with(gpus: int, *, used: bool) -> SimpleNamespace:
    """As much of torch as is asked about GPUs."""
    cuda = SimpleNamespace(
        is_available=lambda: gpus > 0,
        is_initialized=lambda: used,
        device_count=lambda: gpus,
        current_device=lambda: 0,
        memory_reserved=lambda number: 1000 * (number + 1),
        get_device_properties=lambda number: SimpleNamespace(name="Some GPU", total_memory=24e9),
    )
    return SimpleNamespace(cuda=cuda)


def test_the_machine_is_told_in_plain_json_without_its_name() -> None:
    found = hardware()
    assert json.loads(json.dumps(found)) == found
    assert list(found) == ["system", "cpu", "cores", "memory_bytes", "gpu"]
    assert found["cpu"]
    assert found["memory_bytes"] > 1e8


def test_gpus_are_told_where_torch_was_loaded_and_sees_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert hardware()["gpu"] is None
    monkeypatch.setitem(sys.modules, "torch", torch_with(2, used=True))
    assert hardware()["gpu"] == {"name": "Some GPU", "count": 1, "memory_bytes": 24e9}


def test_memory_is_that_of_the_gpus_in_use_and_else_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_with(2, used=True))
    assert memory_held() == 3000
    for other in (torch_with(0, used=False), torch_with(1, used=False)):
        monkeypatch.setitem(sys.modules, "torch", other)
        assert memory_held() > 1e6


def test_warnings_are_kept_once_each_and_passed_on() -> None:
    passed: list[str] = []

    class Heard(Silent):
        def warn(self, text: str) -> None:
            passed.append(text)

        def detail(self, text: str) -> None:
            passed.append(f"why: {text}")

    noting = Noting(Heard())
    for text in ("a", "b", "a"):
        noting.warn(text)
    noting.detail("c")
    assert (noting.warnings, noting.details) == (["a", "b"], ["c"])
    assert passed == ["a", "b", "a", "why: c"]


def test_who_asked_is_noted_line_by_line_and_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    note_asked(tmp_path, "sft", cached=False)
    note_asked(tmp_path, "sft", cached=True)
    lines = [json.loads(line) for line in (tmp_path / ASKED).read_text().splitlines()]
    assert [(line["step"], line["cached"]) for line in lines] == [("sft", False), ("sft", True)]
    note_asked(tmp_path / "gone", "sft", cached=True)
    assert not (tmp_path / "gone").exists()
