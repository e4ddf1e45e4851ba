"""DPO is the plain sigmoid loss against the model that training began with (Rafailov et al. 2023, equation 7)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import pairs
from torch.nn.functional import cross_entropy, logsigmoid
from training import Cli, difference, logged, run, weights, write_recipe

from smolalign.chat.render import render_pair
from smolalign.data.load import load_rows
from smolalign.model import load_model, load_tokenizer


def answer_log_prob(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return -cross_entropy(logits, torch.tensor(answer), reduction="sum")


def dpo_margins(model: Any, reference: Any, model_folder: Path, file: Path, beta: float) -> torch.Tensor:
    """`[pairs]`, how much more the chosen answer gained over the reference than the rejected one, times beta."""
    tokenizer = load_tokenizer(str(model_folder), "chatml")
    margins = []
    for row in load_rows(str(file), "pair").rows:
        pair = render_pair(tokenizer, row)
        gains = []
        for answer in (pair.chosen_ids, pair.rejected_ids):
            with torch.no_grad():
                before = answer_log_prob(reference, pair.prompt_ids, answer)
            gains.append(answer_log_prob(model, pair.prompt_ids, answer) - before)
        margins.append(beta * (gains[0] - gains[1]))
    return torch.stack(margins)


def test_full_dpo_is_the_plain_sigmoid_loss_against_the_model_it_began_with(
    cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    trainer = {"optim": "sgd", "learning_rate": 0.05, "beta": 0.5, "max_steps": 2}
    recipe = write_recipe(tmp_path, "dpo", pairs(6), trainer=trainer, model=str(sharp_model), template="chatml")
    folder = run(cli, "dpo", recipe)
    reference, model = load_model(str(sharp_model)), load_model(str(sharp_model))
    losses = logged(folder, "loss")
    for step in range(2):
        margins = dpo_margins(model, reference, sharp_model, tmp_path / "rows.jsonl", 0.5)
        loss = -logsigmoid(margins).mean()
        assert losses[step] == pytest.approx(loss.item(), abs=1e-4)
        assert logged(folder, "rewards/margins")[step] == pytest.approx(margins.mean().item(), abs=1e-4)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[1] < losses[0] - 0.01
    assert logged(folder, "rewards/accuracies")[1] == pytest.approx((margins > 0).float().mean().item())
    expected = dict(model.named_parameters())
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-4, atol=1e-5)


def test_dpo_with_adapters_is_measured_against_the_model_without_them(
    cli: Cli, sharp_model: Path, tmp_path: Path
) -> None:
    trainer = {"optim": "sgd", "learning_rate": 0.5, "beta": 0.5}
    lora = {"r": 4, "alpha": 8}
    recipe = write_recipe(
        tmp_path, "dpo", pairs(6), trainer=trainer, model=str(sharp_model), template="chatml", lora=lora
    )
    one, two = run(cli, "dpo", recipe, out="1"), run(cli, "dpo", recipe, "trainer.max_steps=2", out="2")
    losses = logged(two, "loss")
    assert losses[0] == logged(one, "loss")[0] == pytest.approx(math.log(2), abs=1e-6)
    # The second step's loss is that of the model after one step, whose merged weights the shorter run saved.
    after_one, reference = load_model(str(one / "model")), load_model(str(sharp_model))
    margins = dpo_margins(after_one, reference, sharp_model, tmp_path / "rows.jsonl", 0.5)
    assert losses[1] == pytest.approx(-logsigmoid(margins).mean().item(), abs=1e-4)
    assert losses[1] < losses[0] - 1e-3


def test_one_step_is_the_same_however_the_batch_is_divided(cli: Cli, sharp_model: Path, tmp_path: Path) -> None:
    trainer = {"optim": "sgd", "learning_rate": 0.05, "beta": 0.5, "max_steps": 2}
    recipe = write_recipe(tmp_path, "dpo", pairs(12), trainer=trainer, model=str(sharp_model), template="chatml")
    folders = [
        run(
            cli,
            "dpo",
            recipe,
            f"trainer.per_device_train_batch_size={batch}",
            f"trainer.gradient_accumulation_steps={6 // batch}",
            out=str(batch),
        )
        for batch in (6, 3, 1)
    ]
    moved = max((value - before).abs().max() for value, before in _moved(sharp_model, folders[0]))
    assert moved > 1e-3
    for folder in folders[1:]:
        assert difference(folders[0], folder) < 1e-5
        assert logged(folder, "loss") == pytest.approx(logged(folders[0], "loss"), abs=1e-5)


def _moved(model: Path, folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    before = dict(load_model(str(model)).named_parameters())
    return [(value, before[name].detach()) for name, value in weights(folder).items()]
