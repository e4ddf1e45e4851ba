"""What the tests of cards and of exports share: a small chain that has run, with its evaluation."""

from __future__ import annotations

import functools
from pathlib import Path

from conftest import SESSION, write_chain

from smolalign.pipeline import run_step
from smolalign.recipe.load import load_pipeline_steps, load_recipe
from smolalign.report import Silent

EVAL = """\
kind: eval
models: {base: "@pretrain", sft: "@sft"}
tasks:
  answers: {task: exact, data: [{source: chats.jsonl}], max_rows: 4, max_new_tokens: 4}
  loss: {task: loss, data: [{source: chats.jsonl}]}
"""


@functools.cache
def finished_run() -> Path:
    """The folder of a run, once for all tests, which change copies of it: pretrain, smoltalk (which drops copies of a
    row), sft and eval. The recipes lie above it."""
    folder = SESSION / "exported"
    pipeline = write_chain(folder, ("pretrain", "smoltalk", "sft"))
    chats = folder / "chats.jsonl"
    first = chats.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    chats.write_text(chats.read_text(encoding="utf-8") + 3 * first, encoding="utf-8")
    assembly = folder / "smoltalk.yaml"
    assembly.write_text(assembly.read_text(encoding="utf-8") + "deduplicate: {}\n", encoding="utf-8")
    (folder / "eval.yaml").write_text(EVAL, encoding="utf-8")
    pipeline.write_text(pipeline.read_text(encoding="utf-8") + "  eval: eval.yaml\n", encoding="utf-8")
    for name, recipe in load_pipeline_steps(load_recipe(pipeline)).items():
        run_step(name, recipe, folder / "run", Silent())
    return folder / "run"
