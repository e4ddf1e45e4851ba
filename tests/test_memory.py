"""What `check` says of memory: near what a run takes, from the model's own code, with the knob that makes it fit."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran, chats, pairs, tiny_tokenizer
from training import write_recipe
from transformers import LlamaConfig, LlamaForCausalLM

from smolalign.errors import UserError
from smolalign.fits import TIGHT
from smolalign.memory import _control_groups, _free_in, free_memory, parse_size, resident_memory, say_size
from smolalign.recipe.load import load_recipe
from smolalign.recipe.pretraining import Architecture
from smolalign.recipe.schema import Compute, Lora, SftStep
from smolalign.train.allocator import memory_taken
from smolalign.train.attention import attending_per_document
from smolalign.train.dry_step import Batch, DryTraining, model_on_meta, weight_bytes
from smolalign.train.knobs import knobs
from smolalign.train.memory import _parts, batches, cut_rows, estimate
from smolalign.train.micro_batches import split

Cli = Callable[..., Ran]
ROWS = ((100,), (300,), (60,))
CONFIG = LlamaConfig(
    vocab_size=500,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


# --- the dry run -----------------------------------------------------------------------------------------------------


def test_activations_are_to_the_byte_what_a_real_forward_pass_saves() -> None:
    model = LlamaForCausalLM(CONFIG)
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    batch = Batch(ROWS, 50)
    inputs = {"input_ids": torch.ones(1, 460, dtype=torch.long), "position_ids": torch.arange(460)[None]}
    with attending_per_document(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(**inputs, use_cache=False, **batch.layout()).last_hidden_state
    held = {**saved, hidden.untyped_storage()._cdata: hidden.untyped_storage()}
    for tensor in inputs.values():
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
    real = sum(storage.nbytes() for storage in held.values())
    dry = DryTraining(model_on_meta(CONFIG, torch.float32, None, False), adamw).step(batch).activations
    # What is alive at its most is a temporary of the last layers more.
    assert real <= dry <= 1.03 * real


def test_weights_gradients_and_optimizer_are_counted_to_the_byte() -> None:
    size = sum(p.numel() for p in LlamaForCausalLM(CONFIG).parameters())
    training = DryTraining(model_on_meta(CONFIG, torch.float32, None, False), adamw)
    found = training.step(Batch(ROWS, 50))
    assert (found.weights, found.gradients) == (4 * size, 4 * size)
    # Two moments, and a step count of each parameter, which is on the CPU.
    assert found.optimizer == 8 * size
    assert sum(training.live.now.values()) == found.optimizer, "nothing else outlives the step"
    assert training.step(Batch(ROWS, 50)).alive == found.alive + found.optimizer


def test_adapters_alone_have_gradients_and_quantized_weights_are_small() -> None:
    model = model_on_meta(CONFIG, torch.float32, Lora(r=4), False)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = DryTraining(model, adamw).step(Batch(ROWS, 50))
    assert (found.gradients, found.optimizer) == (4 * adapters, 8 * adapters)
    linear = sum(p.numel() for n, p in model.named_parameters() if "base_layer" in n)
    plain, int8, nf4 = (weight_bytes(model, kind) for kind in (None, "int8", "nf4"))
    assert plain - int8 == 3 * linear
    assert plain - nf4 == round((4 - 0.5625) * linear)


def test_recomputed_activations_and_bf16_take_less() -> None:
    def activations(**options: Any) -> int:
        model = model_on_meta(CONFIG, torch.float32, None, options.pop("recompute", False))
        return DryTraining(model, adamw, **options).step(Batch(ROWS, 50)).activations

    whole = activations()
    assert activations(recompute=True) < whole / 2
    assert 0.5 * whole < activations(bf16=True) < 0.95 * whole


def test_gradients_are_there_already_in_the_second_micro_batch() -> None:
    one, two = (
        DryTraining(model_on_meta(CONFIG, torch.float32, None, False), adamw, accumulation=n).step(Batch(ROWS, 400))
        for n in (1, 2)
    )
    assert one.alive < two.alive <= one.alive + one.gradients


def test_pairs_are_laid_out_as_in_training() -> None:
    batch = Batch(((30, 20, 10), (5, 6, 7)), 43)
    assert batch.tokens == 78
    assert batch.layout()["cu_seq_lens_k"].tolist() == [0, 50, 90, 101, 113]
    assert DryTraining(model_on_meta(CONFIG, torch.float32, None, False), adamw).step(batch).activations > 0


def test_holes_that_cannot_be_filled_are_counted() -> None:
    # Of two blocks the first is freed, and all that is asked for later is larger: the hole stays.
    trace = []
    for number in range(0, 400, 2):
        trace += [(number, 2**21 + number * 4096), (number + 1, 2**22), (number, 0)]
    alive = 200 * 2**22
    assert 1.4 * alive < memory_taken(trace, keep=True)
    assert memory_taken([(1, 2**30), (1, 0), (2, 2**29)], keep=True) < 2**30 + 2**27


# --- the estimate ----------------------------------------------------------------------------------------------------


VARIANTS = {"full": {}, "lora": {"lora": {"r": 8}, "compute": {"micro_batch_tokens": "all"}}}


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with sft recipes of a model of 20 M parameters on rows of one length, whose runs are mostly tensors, and
    what `check` says of them. The second step is the first with all that there is in memory."""
    from smolalign.model import save_model
    from smolalign.train.pretrain import new_model

    folder = tmp_path_factory.mktemp("middling")
    sizes = Architecture(
        hidden_size=448, intermediate_size=1344, num_hidden_layers=8, num_attention_heads=7, num_key_value_heads=7
    )
    tokenizer = tiny_tokenizer()
    save_model(new_model(sizes, tokenizer, seed=0), tokenizer, folder / "model")
    words = "The cat sat on the mat and said hello to the dog. " * 15
    rows = chats(16)
    for row in rows:
        row["messages"][1]["content"] = words
    trainer = {"max_steps": 2, "per_device_train_batch_size": 8, "bf16": False}
    for name, fields in VARIANTS.items():
        model = str(folder / "model")
        write_recipe(folder / name, "sft", rows, trainer=trainer, model=model, template="chatml", **fields)
    return folder, smolalign("check", *(str(folder / name / "recipe.yaml") for name in VARIANTS))[1]


@pytest.mark.parametrize("number", [0, 1], ids=list(VARIANTS))
def test_the_estimate_is_within_15_percent_of_the_peak_of_a_run(middling: tuple[Path, str], number: int) -> None:
    folder, said = middling
    found = re.findall(r"memory: about ([\d.]+) GB at peak", said)
    assert len(found) == 2, said
    folder /= list(VARIANTS)[number]
    peak, _ = smolalign("sft", str(folder / "recipe.yaml"), "--out", str(folder / "out"))
    assert float(found[number]) * 1e9 == pytest.approx(peak, rel=0.15)
    assert peak > 1.2e9, "the run is too small to say anything"


def smolalign(*arguments: str) -> tuple[int, str]:
    """Run the command line in a process of its own: the most memory that it held, in bytes, and what it printed."""
    code = (
        "import resource, subprocess, sys\n"
        "ended = subprocess.run([sys.executable, '-m', 'smolalign.cli', *sys.argv[1:]])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(ended.returncode)"
    )
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ)
    assert ended.returncode == 0, ended.stderr
    *said, peak = ended.stdout.splitlines()
    return int(peak) * 1024, "\n".join(said)


def test_the_largest_of_many_batches_is_larger_than_a_mean_one_and_packed_rows_are_full(tiny_model: Path) -> None:
    rows = [Batch(((length,),), length // 2) for length in range(10, 110)]
    step = SftStep(kind="sft", model=str(tiny_model), data=[{"source": "x"}], max_length=128)  # type: ignore[list-item]

    class Arguments:
        num_train_epochs, max_steps, gradient_accumulation_steps, packing = 1, 500, 1, False

    most = max(batch.tokens for batch in batches(step, Arguments, rows, 4))
    assert 4 * 60 < most <= 4 * 109
    Arguments.packing = True
    [packed] = batches(step, Arguments, rows, 4)
    assert packed.tokens == pytest.approx(4 * 128, abs=60)
    assert packed.trained == pytest.approx(2 * 128, abs=30)


def test_parts_of_a_batch_are_those_that_training_computes_at_once() -> None:
    lengths = [100, 250, 200, 30, 600, 50]
    ends = torch.tensor([0, *lengths]).cumsum(0)
    inputs = {"cu_seq_lens_q": ends, "labels": torch.zeros(1, sum(lengths))}
    real = [tuple(part["cu_seq_lens_q"].diff().tolist()) for part in split(inputs, 512)]
    parts = _parts([Batch(((length,),), length // 2) for length in lengths], 512)
    assert [tuple(length for (length,) in part.rows) for part in parts] == real
    assert [part.trained for part in parts] == [sum(part) // 2 for part in real]


def test_a_smaller_max_length_cuts_rows_at_their_ends() -> None:
    assert cut_rows([Batch(((100,),), 90), Batch(((20,),), 10)], 50) == [Batch(((50,),), 50), Batch(((20,),), 10)]
    assert cut_rows([Batch(((30, 40, 10),), 50)], 50) == [Batch(((30, 20, 10),), 30)]


# --- what is said ----------------------------------------------------------------------------------------------------


def knob_recipe(folder: Path, tiny_model: Path, **trainer: Any) -> Path:
    return write_recipe(folder, "sft", chats(40), trainer=trainer, model=str(tiny_model), template="chatml")


def test_knobs_come_from_the_least_harm_to_the_most(tiny_model: Path, tmp_path: Path) -> None:
    step: Any = load_recipe(knob_recipe(tmp_path, tiny_model, per_device_train_batch_size=4)).step
    found = list(knobs(step))
    batch = "trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps=4"
    assert [knob.overrides for knob in found] == [
        "trainer.per_device_train_batch_size=2 trainer.gradient_accumulation_steps=2",
        batch,
        f"{batch} trainer.gradient_checkpointing=true",
        f"{batch} trainer.gradient_checkpointing=true max_length=256",
        f"{batch} trainer.gradient_checkpointing=true lora.r=16",
        f"{batch} trainer.gradient_checkpointing=true lora.r=16 quantize=nf4",
    ]
    assert [knob.resumes for knob in found] == [True, True, True, False, False, False]
    for knob in found:
        changed = load_recipe(tmp_path / "recipe.yaml", knob.overrides.split()).step
        assert changed == knob.step


def test_what_does_not_fit_is_an_error_with_the_knob_that_mends_it(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    recipe = knob_recipe(tmp_path, tiny_model, per_device_train_batch_size=8)
    ran = cli("check", recipe, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert re.search(r"✓ sft  memory: about [\d.]+ GB at peak \(weights [\d.]+, .*\); \d+ GB free here", ran.out)
    ran = cli("check", recipe, "--out", tmp_path / "run", "--device-memory", "100MB")
    assert ran.code == 2
    assert "recipe.yaml: sft: memory: about" in ran.err
    assert "0.10 GB on the device named → no change of the recipe suffices; the least is" in ran.err
    assert cli("check", recipe, "--out", tmp_path / "run", "--device-memory", "24GB").code == 0


def test_the_knob_named_is_the_first_that_fits(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import smolalign.train.memory as memory

    monkeypatch.setattr(memory, "process_memory", lambda: 0)
    recipe = knob_recipe(tmp_path, tiny_model, per_device_train_batch_size=16)
    step: Any = load_recipe(recipe).step
    step = step.model_copy(update={"compute": Compute(micro_batch_tokens="all")})
    config, rows = LlamaForCausalLM(CONFIG).config, [Batch(((200,),), 100)] * 40
    whole = estimate(step, config, rows).peak
    found = [estimate(knob.step, config, rows).peak for knob in knobs(step)]
    assert whole > found[0] > found[2]
    from smolalign.fits import _what_to_turn

    second = next(list(knobs(step))[n] for n in range(len(found)) if found[n] <= found[1])
    assert _what_to_turn(step, config, rows, round(found[1] / TIGHT) + 1).startswith(f"set {second.overrides}: about")


def test_a_model_whose_code_needs_its_weights_is_said_to_be_unknown(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    def forward(self: Any, input_ids: torch.Tensor, **_: Any) -> Any:
        return int(input_ids.sum())

    monkeypatch.setattr(LlamaModel, "forward", forward)
    ran = cli("check", knob_recipe(tmp_path, tiny_model), "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "! sft  memory: not known, since the model's code cannot be run without its weights: " in ran.out


def test_pairs_and_documents_are_estimated_too(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    dpo = write_recipe(tmp_path / "dpo", "dpo", pairs(20), trainer={}, model=str(tiny_model), template="chatml")
    adapted = tmp_path / "dpo" / "lora.yaml"
    adapted.write_text(dpo.read_text() + "lora: {r: 4}\n")
    texts = [{"text": f"The number {i} comes before {i + 1}. " * 3} for i in range(40)]
    base = write_recipe(tmp_path / "pretrain", "pretrain", texts, trainer={}, tokenizer={"vocab_size": 400})
    ran = cli("check", dpo, adapted, base, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert ran.out.count("  memory: about ") == 3


# --- amounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24e9), ("7.5 GiB", 7.5 * 2**30), ("800mb", 8e8), ("1TiB", 2**40), (" 16gib ", 2**34)],
)
def test_amounts_with_their_unit_are_read(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "24", "GB", "24 G", "0GB", "-1GB", "1e3GB", "24Gb", "24GB free", "٣GB", "nanGB"])
def test_anything_else_is_no_amount(text: str) -> None:
    with pytest.raises(UserError, match="is no amount of memory → write it like 24GB"):
        parse_size(text)


def test_amounts_are_said_with_the_digits_that_count() -> None:
    assert [say_size(size) for size in (4e6, 5.4e8, 3.14e9, 2.4e10)] == ["0.004", "0.54", "3.1", "24"]


@pytest.mark.parametrize(
    "names",
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_control_groups_limit_bounds_what_is_free(tmp_path: Path, names: tuple[str, str, str]) -> None:
    limit, usage, cache = names
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / usage).write_text("700\n")
    (tmp_path / "memory.stat").write_text(f"other 5\n{cache} 200\n")
    assert _free_in(tmp_path, 10**9) == 500
    (tmp_path / limit).write_text("max\n" if limit == "memory.max" else f"{2**63 - 4096}\n")
    assert _free_in(tmp_path, 10**9) == 10**9


def test_control_groups_of_both_versions_are_looked_through_up_to_the_root(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/a\n4:memory:/a/b\n0::/c\n")
    root = tmp_path / "fs"
    found = list(_control_groups(root, own))
    assert found[:3] == [root / "memory" / "a" / "b", root / "memory" / "a", root / "memory"]
    assert found[3:] == [root / "c", root]


def test_what_is_free_here_is_no_more_than_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert resident_memory() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.5)
    assert resident_memory() < free_memory() < total
