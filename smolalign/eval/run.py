"""The eval step: every model on every task, as one table of stages and metrics."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smolalign import __version__
from smolalign.adapters import is_adapter, merging
from smolalign.chat.render import render_prompt, require_trainable_template
from smolalign.data.gather import gather_sources
from smolalign.errors import UserError
from smolalign.eval.bfcl import read_bfcl
from smolalign.eval.call_items import CallItem
from smolalign.eval.compare import compare
from smolalign.eval.generate import generate
from smolalign.eval.harness import Items, read_items
from smolalign.eval.ifeval.items import Prompt, read_prompts, read_replies
from smolalign.eval.journal import Finished
from smolalign.eval.judged import read_judged
from smolalign.eval.kinds import ROWS_OF_TASK
from smolalign.eval.mt_bench_questions import Question
from smolalign.eval.openings import Opening
from smolalign.eval.tasks import TASKS, Loaded, Measured
from smolalign.eval.uncertainty import clusters, error_of_ratio
from smolalign.model import load_config, load_model, load_tokenizer, tokens_added
from smolalign.outcome import Outcome
from smolalign.recipe.measure import (
    AnyOnData,
    AnyTask,
    BenchmarkTask,
    EvalTask,
    MtBench,
    Pairwise,
    ShowcasePrompt,
    ToolCalls,
    is_replies,
)
from smolalign.recipe.schema import EvalStep
from smolalign.report import Progress, Reporter
from smolalign.rows import Message, Row
from smolalign.store import write_text
from smolalign.vocabulary import fit_vocabulary

# What a task asks: rows, calls, prompts, questions, or a benchmark's items.
Asked = Sequence[Row | CallItem | Prompt | Question | Opening] | Items
# The measurements of given answers, which need a template that marks where an answer stands.
SCORED = ("preference", "loss")


def run(step: EvalStep, folder: Path, report: Reporter) -> Outcome:
    """Measure the models of a recipe and write `samples.jsonl`; the table and the showcase are in the metrics.

    What an earlier run of this step found before it was killed is taken from its `checkpoints/`.
    """
    order = step.references_first()
    rows, data_report = _rows(step, folder)
    given = _given(step, rows)
    for name in step.models:
        # Before hours go into the models in front of one that cannot be asked.
        if name not in given:
            _tokenizer(step, name)
    finished = Finished(folder / "checkpoints" / "eval")
    outputs: dict[tuple[str, str], Measured] = {}
    models: dict[str, dict[str, Any]] = {}
    showcase: list[dict[str, Any]] = []
    for number, name in enumerate(order):
        # A model whose measurements are all done is not loaded again.
        load = cache(partial(_load, step, name, given, report))
        about = [name, *_identity(step.models[name])]
        for done, (title, task) in enumerate(step.tasks.items()):
            what = f"eval {name}: {title}"
            steps_done = number * len(step.tasks) + done
            report.progress(Progress(what, steps_done, len(order) * len(step.tasks), "tasks"))
            key = (*about, title, task.model_dump(mode="json"))
            if record := finished.read(*key):
                outputs[name, title], models[name] = Measured(**record["measured"]), record["model"]
                continue
            before = step.reference_of(name, task)
            reference = outputs[before, title].samples if before else None
            with closing(finished.journal(*key)) as journal:
                own = replace(load(), progress=partial(_tell, report, what), reference=reference, journal=journal)
                own = replace(own, folder=folder)
                measured = _with_errors(TASKS[task.task](own, task, rows[title]), task)
            outputs[name, title], models[name] = measured, _facts(step.models[name], own)
            finished.write({"measured": asdict(measured), "model": models[name]}, *key)
            if unread := measured.details.get("prompts_unread"):
                report.say(
                    f"{name}: {title}: {unread} prompts are longer than the model reads, and count as not answered"
                )
            if cut := measured.details.get("contexts_cut"):
                report.say(
                    f"{name}: {title}: {cut} contexts are longer than the model reads, and cut at their beginning"
                )
            if unrated := measured.details.get("judge", {}).get("unrated"):
                report.say(f"{name}: {title}: {unrated} of the judge's answers hold no verdict; see samples.jsonl")
        if name == list(step.models)[-1] and step.showcase:
            showcase = _showcase(load(), step.showcase)
    return Outcome({**_metrics(step, folder, outputs, models, rows), "showcase": showcase}, data_report)


def _metrics(
    step: EvalStep,
    folder: Path,
    outputs: Mapping[tuple[str, str], Measured],
    models: Mapping[str, dict[str, Any]],
    rows: Mapping[str, Asked],
) -> dict[str, Any]:
    """The table and what stands behind it; the samples are written."""
    samples = {pair: measured.samples for pair, measured in outputs.items()}
    first = next(iter(step.models))
    lines = [
        json.dumps({"model": name, "task": title, **sample}, ensure_ascii=False)
        for name in step.models
        for title in step.tasks
        for sample in samples[name, title]
    ]
    write_text(folder / "samples.jsonl", "\n".join(lines) + "\n")
    metrics: dict[str, Any] = {
        "table": {name: _table_row(name, step.tasks, outputs) for name in step.models},
        "items": {title: _items(task, rows[title], samples[first, title]) for title, task in step.tasks.items()},
        "errors": {name: {t: m.errors for t in step.tasks if (m := outputs[name, t]).errors} for name in step.models},
        "details": {name: {title: outputs[name, title].details for title in step.tasks} for name in step.models},
        "models": {name: models[name] for name in step.models},
    }
    if len(step.models) > 1:
        metrics["comparison"] = compare(metrics, samples, first)
    return metrics


def _items(task: EvalTask, rows: Asked, samples: Sequence[Any]) -> int:
    """How many were measured: the rows, but the needles that were hidden in them."""
    return len(samples) if task.task == "needle" else len(rows)


def _identity(reference: str) -> list[Any]:
    """What a model's answers depend on besides the content of local files, which the step's fingerprint covers: the
    commit of a model on the Hub, and the versions of what computes."""
    commit = None if is_replies(reference) else getattr(load_config(reference), "_commit_hash", None)
    return [reference, commit, __version__, *map(version, ("torch", "transformers"))]


def _facts(reference: str, loaded: Loaded) -> dict[str, Any]:
    """What tells a model from others: where it is from, its shape and its number of parameters."""
    if loaded.model is None:
        return {"source": reference}
    config = loaded.model.config.get_text_config()
    return {
        "source": reference,
        "commit": getattr(loaded.model.config, "_commit_hash", None),
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "parameters": loaded.model.num_parameters(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "chat": bool(loaded.tokenizer.chat_template),
    }


def _with_errors(measured: Measured, task: EvalTask) -> Measured:
    """With the standard error of each figure that has values of its own in the samples, and how many items have one."""
    found = {metric: clusters(measured.samples, metric) for metric in measured.metrics}
    errors = {metric: round(error_of_ratio(of), 6) for metric, of in found.items() if of}
    own = measured.details.get("stderr", {})
    counted = {metric: sum(metric in sample for sample in measured.samples) for metric in errors}
    details = {"task": task.task, "items": len(measured.samples), "items_of": counted}
    if unread := sum(bool(sample.get("unread")) for sample in measured.samples):
        details["prompts_unread"] = unread
    return replace(measured, details={**details, **measured.details, "stderr": {**errors, **own}})


def _tell(report: Reporter, what: str, done: int, total: int) -> None:
    report.progress(Progress(what, done, total, "answers"))


def _given(step: EvalStep, rows: Mapping[str, Asked]) -> dict[str, Loaded]:
    """The files of replies among the models, by name."""
    prompts = [
        one for asked in rows.values() if not isinstance(asked, Items) for one in asked if isinstance(one, Prompt)
    ]
    return {
        name: Loaded(None, None, step.batch_size, step.seed, read_replies(model, prompts))
        for name, model in step.models.items()
        if is_replies(model)
    }


def _tokenizer(step: EvalStep, name: str) -> Any:
    """A model's tokenizer.

    Raises:
        UserError: it lacks the chat template that a task needs.
    """
    tokenizer = load_tokenizer(step.models[name], step.template)
    asks = bool(step.showcase) or any(map(_asks, step.tasks.values()))
    if (asks and not tokenizer.chat_template) or any(task.task in SCORED for task in step.tasks.values()):
        try:
            require_trainable_template(tokenizer)
        except UserError as error:
            raise error.at(f"models.{name}") from None
    return tokenizer


def _asks(task: AnyTask) -> bool:
    """Whether a task asks through the chat template."""
    return task.chat if isinstance(task, BenchmarkTask) else task.task != "perplexity"


def _load(step: EvalStep, name: str, given: Mapping[str, Loaded], report: Reporter) -> Loaded:
    if name in given:
        return given[name]
    tokenizer = _tokenizer(step, name)
    if is_adapter(Path(step.models[name])):
        report.say(f"{name}: {merging(Path(step.models[name]))}")
    model = load_model(step.models[name]).eval()
    fit_vocabulary(model, tokens_added(step.models[name], tokenizer))
    return Loaded(model, tokenizer, step.batch_size, step.seed)


def _rows(step: EvalStep, folder: Path) -> tuple[dict[str, Asked], list[dict[str, Any]]]:
    """Rows of each task, a seeded sample where `max_rows` asks for one, and the report on their sources."""
    rows: dict[str, Asked] = {}
    report: list[dict[str, Any]] = []
    for number, (title, task) in enumerate(step.tasks.items()):
        found: Sequence[Row | CallItem | Prompt | Question | Opening]
        if isinstance(task, BenchmarkTask):
            rows[title] = read_items(task, step.seed)
            report.append({"task": title, "source": task.files or "the Hub", "rows_out": len(rows[title])})
            continue
        if task.reads_whole():
            found = _read_whole(task)
            report.append({"task": title, "source": ", ".join(s.source for s in task.data), "rows_out": len(found)})
        elif not task.data:
            found = []
        else:
            gathered = gather_sources(task.data, ROWS_OF_TASK[task.task], folder, f"task-{number}", step.seed)
            report += [{"task": title, **source} for source in gathered.report]
            found = gathered.train
        # Of needles a sample is taken when they are hidden: their documents are no items.
        if task.max_rows is not None and task.max_rows < len(found) and task.task != "needle":
            found = random.Random(step.seed).sample(found, task.max_rows)
        rows[title] = found
    return rows, report


def _read_whole(task: AnyOnData) -> Sequence[CallItem | Prompt | Question | Opening]:
    if isinstance(task, MtBench | Pairwise):
        return read_judged(task, greet=True)
    return read_bfcl(task.data, task.possible_answer) if isinstance(task, ToolCalls) else read_prompts(task.data)


def _table_row(
    name: str, tasks: Mapping[str, AnyTask], outputs: Mapping[tuple[str, str], Measured]
) -> dict[str, float]:
    return {
        f"{title}.{metric}": round(value, 4)
        for title in tasks
        for metric, value in outputs[name, title].metrics.items()
    }


def _showcase(loaded: Loaded, prompts: Sequence[ShowcasePrompt]) -> list[dict[str, Any]]:
    shown = []
    for item in prompts:
        system = (Message("system", item.system),) if item.system else ()
        ids = render_prompt(loaded.tokenizer, (*system, Message("user", item.prompt)), tuple(item.tools))
        reply = generate(loaded.model, loaded.tokenizer, [ids], max_new_tokens=128, batch_size=1)[0]
        tools = [tool["name"] for tool in item.tools]
        shown.append({"prompt": item.prompt, "system": item.system, "tools": tools, "reply": reply.text})
    return shown
