"""The whole nano chain, as it ships: within its time, to its goals on held-out rows, and cached afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

pytestmark = pytest.mark.slow


def test_the_nano_chain_reaches_its_goals_within_its_time(cli: Callable[..., Ran], tmp_path: Path) -> None:
    began = time.monotonic()
    ran = cli("run", "nano", "--out", tmp_path)
    assert ran.code == 0, ran.err
    assert time.monotonic() - began < 15 * 60
    table = json.loads((tmp_path / "eval" / "step.json").read_text())["metrics"]["table"]
    sft, dpo, fc = (table[stage] for stage in ("sft", "dpo", "fc"))
    assert sft["answers.stops"] >= 0.95
    assert sft["answers.exact"] >= 0.70
    assert dpo["preference.reward_accuracy"] >= 0.80
    assert dpo["style.bad"] <= sft["style.bad"] - 0.15
    assert fc["calls.exact"] >= 0.70
    assert fc["calls.well_formed"] >= 0.98
    assert fc["calls.refusals"] >= 0.80
    for taught, later in ((sft, dpo), (sft, fc)):
        assert later["answers.exact"] >= taught["answers.exact"] - 0.05
        assert later["answers.stops"] >= taught["answers.stops"] - 0.05
    assert fc["preference.reward_accuracy"] >= dpo["preference.reward_accuracy"] - 0.05
    assert fc["style.bad"] <= dpo["style.bad"] + 0.05

    began = time.monotonic()
    again = cli("run", "nano", "--out", tmp_path)
    assert again.code == 0
    assert "everything is cached" in again.out
    assert time.monotonic() - began < 10
