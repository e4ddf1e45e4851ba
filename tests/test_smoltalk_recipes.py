"""The SmolTalk recipes name what is published, pinned; offline, `check` says so instead of failing halfway."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Ran

from smolalign.recipe.load import load_recipe
from smolalign.recipe.schema import SmoltalkStep
from smolalign.recipe.shipped import find_recipe, shipped_recipes

Cli = Callable[..., Ran]
NAMES = [name for name in shipped_recipes() if name.startswith("smollm2-") and "/smoltalk" in name]
PARTS = {
    "smol-magpie-ultra",
    "smol-constraints",
    "smol-rewrite",
    "smol-summarize",
    "openhermes-100k",
    "metamathqa-50k",
    "numina-cot-100k",
    "self-oss-instruct",
    "systemchats-30k",
    "longalign",
    "everyday-conversations",
    "apigen-80k",
    "explore-instruct-rewriting",
}
# Sets of which no commit is known; everything else is pinned.
UNPINNED = {"HuggingFaceH4/mt_bench_prompts", "Wanfq/Explore_Instruct_Rewriting_32k"}


def step(name: str) -> Any:
    made = load_recipe(find_recipe(name)).step
    assert isinstance(made, SmoltalkStep)
    return made


def test_there_is_a_mixture_as_published_and_a_rebuilt_one_for_every_size() -> None:
    assert NAMES == [
        "smollm2-1.7b/smoltalk",
        "smollm2-1.7b/smoltalk-originals",
        "smollm2-1.7b/smoltalk-published",
        "smollm2-135m/smoltalk",
        "smollm2-135m/smoltalk-published",
        "smollm2-360m/smoltalk",
        "smollm2-360m/smoltalk-published",
    ]


def test_the_rebuilt_mixture_has_every_published_part_whole() -> None:
    data = step("smollm2-1.7b/smoltalk").data
    assert {source.config for source in data} == PARTS
    assert len(data) == len(PARTS)
    assert {(source.weight, source.max_rows, source.repeat) for source in data} == {(None, None, 1)}


def test_the_small_models_mixture_leaves_out_what_is_too_hard_and_is_as_large_as_the_published_one() -> None:
    data = step("smollm2-135m/smoltalk").data
    left_out = {"apigen-80k", "metamathqa-50k", "numina-cot-100k", "systemchats-30k"}
    assert {source.config for source in data} == PARTS - left_out
    # Rows to train on of the parts that are taken whole, as published.
    whole = {"smol-constraints": 34433, "self-oss-instruct": 48071, "longalign": 3560, "everyday-conversations": 2252}
    assert sum(source.max_rows or whole[source.config] for source in data) == 460341


def test_both_small_models_have_the_same_mixtures() -> None:
    for name in ("smoltalk", "smoltalk-published"):
        assert step(f"smollm2-135m/{name}") == step(f"smollm2-360m/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_pinned_to_a_commit_where_one_is_known(name: str) -> None:
    made = step(name)
    against = made.decontaminate.against if made.decontaminate else []
    for source in [*made.data, *against]:
        pinned = re.fullmatch("[0-9a-f]{40}", source.revision) is not None
        assert pinned is (source.source not in UNPINNED), source


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("-published")])
def test_every_rebuilt_mixture_is_cleaned_of_duplicates_and_of_the_same_benchmarks(name: str) -> None:
    made = step(name)
    assert made.deduplicate.near == 0.8
    assert {benchmark.name for benchmark in made.decontaminate.against} == {"IFEval", "GSM8K", "MATH", "MT-Bench"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "smollm2-135m/smoltalk-published",
            ("HuggingFaceTB/smol-smoltalk (split train): HF_HUB_OFFLINE=1 forbids the",),
        ),
        (
            "smollm2-1.7b/smoltalk",
            (
                "HF_HUB_OFFLINE=1 forbids the network, and 17 datasets are not in the local cache",
                "HuggingFaceTB/smoltalk (configs smol-magpie-ultra, smol-constraints, ",
                "; openai/gsm8k (config main; split test); ",
            ),
        ),
    ],
)
def test_check_without_a_network_says_so_in_one_line(cli: Cli, name: str, told: tuple[str, ...]) -> None:
    ran = cli("check", name)
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert ran.err.startswith(f"error {told[0]}")
    assert not [part for part in told if part not in ran.err]
