"""What `smolalign check` looks at in an eval step: whether each task's rows, files and libraries are there."""

from __future__ import annotations

from collections.abc import Iterator

from smolalign.errors import UserError
from smolalign.inputs import resolve_beside, resolve_data, resolve_model
from smolalign.look import Chain, Finding, counted
from smolalign.recipe.load import Recipe
from smolalign.recipe.measure import TASK_FILES, BenchmarkTask, IfEval, MtBench, Pairwise, ToolCalls, is_replies
from smolalign.recipe.schema import EvalStep


def check_tasks(name: str, recipe: Recipe, chain: Chain) -> Iterator[Finding]:
    """Look at the tasks of an eval step; a step of another kind has none."""
    step = recipe.step
    if isinstance(step, EvalStep):
        yield from _check_call_tasks(name, recipe, step, chain)
        yield from _check_instruction_tasks(name, recipe, step, chain)
        yield from _check_benchmarks(name, recipe, step)
        yield from _check_judges(name, recipe, step, chain)


def _check_call_tasks(name: str, recipe: Recipe, step: EvalStep, chain: Chain) -> Iterator[Finding]:
    """That questions have their answers."""
    for task in step.tasks.values():
        from smolalign.eval.bfcl import read_bfcl

        try:
            if isinstance(task, ToolCalls) and task.is_bfcl():
                sources = [resolve_data(data, recipe, chain.run_folder)[0] for data in task.data]
                answers = resolve_beside(task.possible_answer, recipe)[0] if task.possible_answer else None
                called = ", ".join(data.source for data in task.data)
                yield Finding(name, f"{called}: bfcl, {counted(len(read_bfcl(sources, answers)))} read")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_instruction_tasks(name: str, recipe: Recipe, step: EvalStep, chain: Chain) -> Iterator[Finding]:
    """That prompts and their instructions can be read, that each has its reply in files of replies, and that what the
    verdicts need is installed."""
    for task in step.tasks.values():
        if not isinstance(task, IfEval):
            continue
        from smolalign.eval.ifeval.items import read_prompts, read_replies

        try:
            prompts = read_prompts([resolve_data(data, recipe, chain.run_folder)[0] for data in task.data])
            called = ", ".join(data.source for data in task.data)
            yield Finding(name, f"{called}: ifeval, {counted(len(prompts))} read")
            for reference in filter(is_replies, step.models.values()):
                read_replies(resolve_model(reference, recipe, chain.run_folder)[0], prompts)
                yield Finding(name, f"{reference}: replies to all of them")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_benchmarks(name: str, recipe: Recipe, step: EvalStep) -> Iterator[Finding]:
    """That benchmarks can be measured, and that their files are in order where they are local."""
    for task in (task for task in step.tasks.values() if isinstance(task, BenchmarkTask)):
        from smolalign.eval.benchmark_files import read_benchmark
        from smolalign.eval.harness import require_harness, shots

        try:
            require_harness()
            if task.files is not None:
                place = resolve_beside(task.files, recipe)[0]
                found = read_benchmark(task.benchmark, place, with_examples=shots(task) > 0)
                items = sum(len(one.measured) for one in found)
                yield Finding(name, f"{task.files}: {task.benchmark}, {counted(items)} read")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))


def _check_judges(name: str, recipe: Recipe, step: EvalStep, chain: Chain) -> Iterator[Finding]:
    """That what a judge is to read can be read, and that its key is set; it is not asked."""
    for task in (task for task in step.tasks.values() if isinstance(task, MtBench | Pairwise)):
        from smolalign.eval.judged import read_judged

        try:
            sources = [resolve_data(data, recipe, chain.run_folder)[0] for data in task.data]
            found = {field: resolve_beside(path, recipe)[0] for field, path in task if field in TASK_FILES and path}
            asked = read_judged(task.model_copy(update={"data": sources, **found}), greet=False)
            called = ", ".join(data.source for data in task.data)
            yield Finding(name, f"{called}: {task.task}, {counted(len(asked))} read")
        except UserError as error:
            yield Finding(name, problem=error.at(recipe.file))
