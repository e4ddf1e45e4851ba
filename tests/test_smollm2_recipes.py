"""The recipes that make SmolLM2 again: what is published is in them, on every number of GPUs; nothing is trained on
that is measured on; and what their comments say of costs is what `check --device` counts."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from smolalign.cost import DEVICES, Work, hours, packed_work, sizes_of, step_flops, training_flops, work_of
from smolalign.recipe.batch import divide
from smolalign.recipe.held_out import is_held_out_source, is_held_out_split
from smolalign.recipe.load import load_pipeline_steps, load_recipe
from smolalign.recipe.schema import AssemblyStep, TrainStep
from smolalign.recipe.shipped import find_recipe, shipped_recipes
from smolalign.train.curriculum import decays
from smolalign.train.dry_step import Batch, model_on_meta
from smolalign.train.memory import config_of

SIZES = ("135m", "360m", "1.7b")
VARIANTS = ("", "-24gb", "-8gb")
FULL = ("", "-24gb")
# hidden, feed-forward, layers, heads, key-value heads (huggingface/smollm, text/pretraining/smollm2).
SHAPES = {"135m": (576, 1536, 30, 9, 3), "360m": (960, 2560, 32, 15, 5), "1.7b": (2048, 8192, 24, 32, 32)}
# Rows to train on, as published; and the rows' sizes that the comments assume (docs/reproduction.md says from what).
SMOL_SMOLTALK = (460_341, Batch(((850,),), 638))
SMOLTALK = (1_043_917, Batch(((815,),), 611))
ULTRAFEEDBACK = (61_135, Batch(((181, 282, 252),), 534))
CALLS = (68_014, Batch(((520,),), 208))
COMMIT = re.compile("[0-9a-f]{40}")


@cache
def steps(size: str, variant: str = "") -> Any:
    found = load_pipeline_steps(load_recipe(find_recipe(f"smollm2-{size}/pipeline{variant}")))
    return {name: recipe.step for name, recipe in found.items()}


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_run_by_the_name_of_its_folder_and_each_variant_in_a_folder_of_its_own(size: str) -> None:
    from smolalign.pipeline import default_run_folder

    assert find_recipe(f"smollm2-{size}") == find_recipe(f"smollm2-{size}/pipeline")
    folders = [default_run_folder(load_recipe(find_recipe(f"smollm2-{size}/pipeline{v}"))).name for v in VARIANTS]
    assert folders == [f"smollm2-{size}{variant}" for variant in VARIANTS]
    chain = ["smoltalk", "sft", "dpo", "fc", "eval"] if size == "1.7b" else ["smoltalk", "sft", "dpo", "eval"]
    assert all(list(steps(size, variant)) == chain for variant in VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_sft_has_the_published_data_and_hyperparameters(size: str, variant: str) -> None:
    step, data = steps(size, variant)["sft"], steps(size, variant)["smoltalk"].data
    small = size != "1.7b"
    source, config = ("smol-smoltalk", None) if small else ("smoltalk", "all")
    assert [(one.source, one.config, one.split) for one in data] == [(f"HuggingFaceTB/{source}", config, None)]
    held_out = step.eval_data[0]
    assert (held_out.source, held_out.config, held_out.split) == (data[0].source, config, "test")
    assert held_out.revision == data[0].revision
    assert step.model.startswith(f"HuggingFaceTB/SmolLM2-{size.upper()}@")
    assert (step.max_length, step.template) == (8192, "smollm2")
    trainer = step.trainer
    assert trainer["learning_rate"] == (1e-3 if small else 3e-4)
    assert (trainer["lr_scheduler_type"], trainer["warmup_steps"], trainer["bf16"]) == ("cosine", 0.1, True)
    # The one that says that it is another model.
    assert trainer["num_train_epochs"] == (1 if (size, variant) == ("1.7b", "-8gb") else 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_dpo_has_the_published_data_and_hyperparameters_but_trains_on_no_test_pairs(size: str, variant: str) -> None:
    step = steps(size, variant)["dpo"]
    assert [(one.source, one.split) for one in step.data] == [("HuggingFaceH4/ultrafeedback_binarized", "train_prefs")]
    assert [(one.source, one.split) for one in step.eval_data] == [
        ("HuggingFaceH4/ultrafeedback_binarized", "test_prefs")
    ]
    trainer = step.trainer
    assert (step.model, step.max_length, trainer["beta"]) == ("@sft", 1024, 0.5)
    assert (trainer["lr_scheduler_type"], trainer["warmup_steps"], trainer["bf16"]) == ("cosine", 0.1, True)
    if variant in FULL:
        assert trainer["learning_rate"] == 1e-6
        assert trainer["num_train_epochs"] == (3 if size == "1.7b" else 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_a_step_of_the_optimizer_has_128_rows_on_one_gpu_and_on_eight(size: str, variant: str) -> None:
    trained = [step for step in steps(size, variant).values() if isinstance(step, TrainStep)]
    assert trained
    for step in trained:
        assert [divide(step.global_batch_size, step.trainer, count).rows for count in (1, 2, 4, 8)] == [128] * 4
    if not variant:
        published = [divide(128, step.trainer, 8) for step in trained[:2]]
        assert [(one.size, one.accumulated) for one in published] == [(4, 4), (2, 8)]


@pytest.mark.parametrize("size", SIZES)
def test_the_24_gb_variant_trains_all_weights_with_the_same_mathematics_and_that_of_8_gb_trains_adapters(
    size: str,
) -> None:
    memory = {"compute", "trainer"}
    for name, step in steps(size).items():
        if isinstance(step, TrainStep):
            small = steps(size, "-24gb")[name]
            assert small.model_dump(exclude=memory) == step.model_dump(exclude=memory)
            changed = {key for key in small.trainer if small.trainer[key] != step.trainer.get(key)}
            assert changed <= {"gradient_checkpointing", "per_device_train_batch_size", "optim"}
            adapters = steps(size, "-8gb")[name]
            assert (adapters.lora.r, adapters.quantize) == (16, "nf4" if size == "1.7b" else None)


@pytest.mark.parametrize("size", SIZES)
def test_every_model_and_set_is_pinned_where_a_commit_is_known(size: str) -> None:
    for step in steps(size).values():
        for data in [*getattr(step, "data", []), *getattr(step, "eval_data", [])]:
            if not data.source.startswith("@") and data.source != "argilla/Synth-APIGen-v0.1":
                assert COMMIT.fullmatch(data.revision), data
        models = [step.model] if hasattr(step, "model") else list(getattr(step, "models", {}).values())
        for model in models:
            assert model.startswith("@") or COMMIT.fullmatch(model.partition("@")[2]), model


def test_no_shipped_recipe_trains_on_what_it_measures_on() -> None:
    for name in shipped_recipes():
        recipe = load_recipe(find_recipe(name))
        for one in load_pipeline_steps(recipe).values() if recipe.kind == "pipeline" else [recipe]:
            for data in one.step.data if isinstance(one.step, AssemblyStep) else []:
                assert not is_held_out_split(data.split or "train"), (name, data)
                assert not is_held_out_source(data.source), (name, data)


@pytest.mark.parametrize("size", SIZES)
def test_eval_has_every_task_of_the_published_tables_for_the_published_model_and_ours(size: str) -> None:
    step = steps(size)["eval"]
    ours = ["sft", "dpo", "fc"] if size == "1.7b" else ["sft", "dpo"]
    assert list(step.models) == ["published", "base", *ours]
    assert step.models["published"].startswith(f"HuggingFaceTB/SmolLM2-{size.upper()}-Instruct@")
    benchmarks = {task.benchmark: task for task in step.tasks.values() if task.task == "benchmark"}
    assert set(benchmarks) == {
        "hellaswag",
        "arc_easy",
        "arc_challenge",
        "piqa",
        "winogrande",
        "openbookqa",
        "commonsense_qa",
        "mmlu_cloze",
        "mmlu_pro",
        "triviaqa",
        "bbh",
        "gsm8k",
    }
    assert (benchmarks["gsm8k"].num_fewshot, benchmarks["gsm8k"].chat) == (5, True)
    assert all(task.files is None for task in benchmarks.values())
    assert {"ifeval", "preference"} <= {task.task for task in step.tasks.values()}
    assert ("tool_calls" in {task.task for task in step.tasks.values()}) is (size == "1.7b")


# --- what the comments say -------------------------------------------------------------------------------------------


def rows_of(size: str, name: str) -> tuple[int, Batch]:
    if name == "sft":
        return SMOLTALK if size == "1.7b" else SMOL_SMOLTALK
    return ULTRAFEEDBACK if name == "dpo" else CALLS


@pytest.mark.parametrize(("variant", "gpu"), [("", "h100"), ("-24gb", "rtx4090"), ("-8gb", "rtx4060")])
@pytest.mark.parametrize("size", SIZES)
def test_gpu_hours_in_comments_are_those_that_are_counted(size: str, variant: str, gpu: str) -> None:
    hidden, inner, layers, heads, key_heads = SHAPES[size]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=49152,
    )
    counted = []
    for name, step in steps(size, variant).items():
        if isinstance(step, TrainStep):
            count, row = rows_of(size, name)
            count = min([count, *(data.max_rows for data in step.data if name == "sft" and data.max_rows)])
            flops = step_flops(step, config, work_of([row]).times(count))
            counted.append(f"{name} {hours(flops, DEVICES[gpu])}")
    text = find_recipe(f"smollm2-{size}/pipeline{variant}").read_text(encoding="utf-8")
    assert f"{', '.join(counted)} of an {DEVICES[gpu].title} at 30%" in text
    page = find_recipe("nano").parent.parent.parent / "docs" / "reproduction.md"
    name = f"smollm2-{size}" + (f"/pipeline{variant}" if variant else "")
    row = next((line for line in page.read_text(encoding="utf-8").splitlines() if f"`{name}`" in line), "")
    assert all(one in row for one in counted), row


# --- pretraining -----------------------------------------------------------------------------------------------------

# Published: parameters; tokens of all stages and of those over which the learning rate falls, learning rate, RoPE's
# base at the end (arXiv:2502.02737, sections 4 and 6; the models' configs).
PARAMETERS = {"135m": 134_515_008, "360m": 361_821_120, "1.7b": 1_711_376_384}
TRILLION = 10**12
RUNS = {
    "135m": (2 * TRILLION, TRILLION * 2 // 5, 3e-3, 100_000),
    "360m": (4 * TRILLION, TRILLION * 4 // 5, 3e-3, 100_000),
    "1.7b": (11 * TRILLION, TRILLION, 5e-4, 130_000),
}
CODE, MATHS = {"starcoderdata", "stack-edu"}, {"open-web-math", "infiwebmath-3plus", "finemath-4plus"}
WEB = {"fineweb-edu", "dclm"}
# Lengths of documents that the comments assume, in tokens: FineWeb-Edu has 1.3T in 1.28 billion documents.
DOCUMENT, LONG, BOOK = 1_000, 16_000, 100_000


@cache
def pretraining(name: str) -> Any:
    return load_recipe(find_recipe(f"smollm2-{name}")).step


def stage_flops(step: Any, config: Any) -> list[float]:
    """Operations of each stage, with documents of the lengths assumed."""
    found = []
    for stage in step.stages:
        total, length = sum(stage.mixture.values()), stage.max_length or step.max_length
        work = Work(0, 0, 0)
        for source, weight in stage.mixture.items():
            document = BOOK if source == "books" else LONG if source.endswith("-long") else DOCUMENT
            work += packed_work([document] * 64, length, stage.tokens * weight / total)
        found.append(training_flops(sizes_of(config), work))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_pretraining_makes_models_of_the_published_number_of_parameters(size: str) -> None:
    config = config_of(pretraining(f"{size}/pretrain"))
    model = model_on_meta(config, torch.float32, None, False)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == SHAPES[size][:3]
    # By the counting that costs are told with: without norms, the embedding once, since it is the head as well.
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    assert sizes_of(config).linear + sizes_of(config).head + norms == PARAMETERS[size]


@pytest.mark.parametrize("size", SIZES)
def test_pretraining_has_the_published_hyperparameters(size: str) -> None:
    step = pretraining(f"{size}/pretrain")
    tokens, decaying, rate, theta = RUNS[size]
    assert sum(stage.tokens for stage in step.stages) == tokens
    falls = decays(step.stages)
    assert sum(stage.tokens for stage, falls in zip(step.stages, falls, strict=True) if falls) == decaying
    trainer = step.trainer
    assert (trainer["learning_rate"], trainer["warmup_steps"], trainer["weight_decay"]) == (rate, 2000, 0.01)
    assert (trainer["adam_beta1"], trainer["adam_beta2"], trainer["max_grad_norm"]) == (0.9, 0.95, 1.0)
    assert "lr_scheduler_type" not in trainer
    assert (step.max_length, step.stages[-1].max_length) == (2048, 8192)
    assert (step.architecture.rope_theta, step.stages[-1].rope_theta) == (10_000, theta)
    assert step.global_batch_size * 2048 == (2**21 if size == "1.7b" else 2**20)


def test_the_stages_of_1_7b_have_the_published_shares() -> None:
    step = pretraining("1.7b/pretrain")
    assert [stage.tokens for stage in step.stages] == [6e12, 2e12, 2e12, 925e9, 75e9]

    def share(stage: Any, of: set[str]) -> float:
        return sum(weight for name, weight in stage.mixture.items() if name in of)

    web, more_code, more_maths, decay, long = step.stages
    assert all(sum(stage.mixture.values()) == pytest.approx(100) for stage in step.stages)
    shares = [(share(stage, WEB), share(stage, CODE), share(stage, MATHS)) for stage in (web, more_code, more_maths)]
    assert shares == [(90, 10, 0), (75, 20, 5), (70, 20, 10)]
    of_web = [stage.mixture["fineweb-edu"] / share(stage, WEB) for stage in step.stages]
    assert of_web[:3] == pytest.approx([0.6, 0.6, 0.4])
    assert of_web[3] < 0.4
    assert (share(decay, WEB), share(decay, CODE)) == (pytest.approx(58), 24)
    assert (share(decay, MATHS), decay.mixture["open-web-math"]) == (pytest.approx(14), 0.08)
    assert decay.mixture["cosmopedia-v2"] == 4
    assert [long.mixture[name] for name in ("dclm-long", "fineweb-edu-long", "books")] == [10, 10, 20]
    assert {name: long.mixture[name] / 0.6 for name in decay.mixture} == pytest.approx(decay.mixture)


@pytest.mark.parametrize("size", ["135m", "360m"])
def test_the_small_models_see_one_mixture_but_for_long_documents_at_the_end(size: str) -> None:
    step = pretraining(f"{size}/pretrain")
    stable, decay, long = (dict(stage.mixture) for stage in step.stages)
    assert stable == decay == pretraining("135m/pretrain").stages[0].mixture
    long["fineweb-edu"] += long.pop("fineweb-edu-long")
    assert long == stable
    (dclm,) = (source for source in step.data if source.name == "dclm")
    assert (dclm.filters.quality.scorer, dclm.filters.quality.min) == ("HuggingFaceFW/fineweb-edu-classifier", 1)


@pytest.mark.parametrize(
    ("name", "gpu"), [*((f"{size}/pretrain", "h100") for size in SIZES), ("135m/pretrain-10b", "h100")]
)
def test_gpu_hours_of_pretraining_are_those_that_are_counted(name: str, gpu: str) -> None:
    step = pretraining(name)
    counted = stage_flops(step, config_of(step))
    stages = [f"{stage.name} {hours(flops, DEVICES[gpu])}" for stage, flops in zip(step.stages, counted, strict=True)]
    comment = " ".join(find_recipe(f"smollm2-{name}").read_text(encoding="utf-8").replace("\n#", "").split())
    assert f"{', '.join(stages)} of an {DEVICES[gpu].title} at 30% of its bf16 peak" in comment
    page = find_recipe("nano").parent.parent.parent / "docs" / "reproduction.md"
    row = next(line for line in page.read_text(encoding="utf-8").splitlines() if f"| `smollm2-{name}` |" in line)
    assert hours(sum(counted), DEVICES["h100"]) in row
    assert hours(sum(counted), DEVICES["rtx4090"]) in row


def test_10b_tokens_take_a_gpu_about_a_day_at_most() -> None:
    step = pretraining("135m/pretrain-10b")
    assert sum(stage.tokens for stage in step.stages) == 10**10
    assert step.architecture.num_hidden_layers == 30
    assert all(not source.source.startswith(".") for source in step.data)
    # Half of the share of the peak that is assumed.
    assert 2 * sum(stage_flops(step, config_of(step))) < 24 * 3600 * 0.3 * DEVICES["h100"].flops
