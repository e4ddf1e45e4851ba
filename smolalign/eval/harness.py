"""The published benchmarks by lm-evaluation-harness: its prompts, examples, filters and metrics, over a model of ours.

Items come from the benchmarks' own files (`benchmark_files.py`) or from the Hub. Nothing else is fetched: what is local
is measured without a network.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.eval.benchmark_files import BENCHMARKS, Benchmark, Local, read_benchmark
from smolalign.hub import failure
from smolalign.recipe.measure import BenchmarkTask


@dataclass(frozen=True, slots=True)
class Items:
    """What of a benchmark is measured.

    Attributes:
        tasks: harness's tasks by name.
        chosen: for each task that has some, the indexes of the items to measure, ascending.
    """

    tasks: Mapping[str, Any]
    chosen: Mapping[str, list[int]]

    def __len__(self) -> int:
        return sum(map(len, self.chosen.values()))


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over all items, by metric, how they came about, and every item's outputs with its values."""

    means: dict[str, float]
    details: dict[str, Any]
    samples: list[dict[str, Any]]


def read_items(task: BenchmarkTask, seed: int) -> Items:
    """The items of a task, or a sample of `max_rows` of them by the seed, of all its subjects together.

    Raises:
        UserError: harness is not installed, files are missing or broken, or the Hub does not give the data.
    """
    require_harness()
    from lm_eval.api.samplers import FirstNSampler

    tasks = _tasks(task)
    _set_examples(tasks, shots(task))
    for name, one in tasks.items():
        # One more than are shown, since harness may draw the item itself; the first ones are never drawn.
        least = shots(task) + (0 if isinstance(one.sampler, FirstNSampler) else 1)
        if shots(task) > 0 and len(one.sampler.df) < least:
            there = f"{len(one.sampler.df)} examples to choose from"
            raise UserError(f"{name} has {there}, too few for num_fewshot {shots(task)}", mend="ask for fewer")
    every = [(name, index) for name, one in tasks.items() for index in range(len(one.eval_docs))]
    if task.max_rows is not None and task.max_rows < len(every):
        every = sorted(random.Random(seed).sample(every, task.max_rows))
    chosen: dict[str, list[int]] = {}
    for name, index in every:
        chosen.setdefault(name, []).append(index)
    return Items({name: tasks[name] for name in chosen}, chosen)


def require_harness() -> None:
    """Raises UserError where lm-evaluation-harness is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise UserError(
            "benchmarks are measured by lm-evaluation-harness, which is not installed",
            mend="pip install 'smolalign[eval]'",
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _tasks(task: BenchmarkTask) -> dict[str, Any]:
    """Harness's tasks over local rows, or over the Hub's."""
    from lm_eval import tasks as harness_tasks

    benchmark = BENCHMARKS[task.benchmark]
    folder = Path(harness_tasks.__file__).parent / benchmark.folder
    # Only that folder is looked through: harness has ten thousand tasks, which take seconds to read.
    manager = harness_tasks.TaskManager(include_defaults=False, include_path=[str(folder)])
    if task.files is not None:
        found = read_benchmark(task.benchmark, task.files, with_examples=shots(task) > 0)
        if unknown := [local.task for local in found if local.task not in manager.all_subtasks]:
            what = f"harness has no task {unknown[0]}"
            raise UserError(what, where=task.files, mend="name the folder of its files alone")
        wanted = [_over_local_rows(local, benchmark) for local in found]
    else:
        pattern = benchmark.task.format("*")
        wanted = [{"task": name} for name in manager.all_subtasks if fnmatch.fnmatch(name, pattern)]
    try:
        # A group, since harness takes settings of its own tasks nowhere else.
        loaded = manager.load({"group": "benchmark", "task": wanted})
    except Exception as error:
        # The library raises a dozen unrelated types here.
        home = (manager.task_index[wanted[0]["task"]].cfg or {}).get("dataset_path", "")
        if (told := failure(error, "dataset", home)) is None and not isinstance(error, OSError):
            raise
        what, mend = told or (" ".join(str(error).split())[:200], "")
        mend = "; or ".join(filter(None, [mend, "set files to the folder of its own files"]))
        raise UserError(f"cannot read {task.benchmark} from the Hub ({home}): {what}", mend=mend) from None
    return dict(loaded["tasks"])


def _over_local_rows(local: Local, benchmark: Benchmark) -> dict[str, Any]:
    """Harness's task with rows in place of its dataset, and no examples where none were read."""
    from datasets import Dataset, DatasetDict

    rows = DatasetDict({split: Dataset.from_list(found) for split, found in local.splits.items()})
    settings: dict[str, Any] = {"task": local.task, "custom_dataset": lambda **_: rows}
    if benchmark.examples not in rows:
        missing = {"training_split", "fewshot_split", "validation_split"} - {f"{benchmark.measured}_split"}
        settings |= dict.fromkeys(missing)
    return settings


def shots(task: BenchmarkTask) -> int:
    """How many examples stand in front of each item."""
    return BENCHMARKS[task.benchmark].shots if task.num_fewshot is None else task.num_fewshot


def _set_examples(tasks: Mapping[str, Any], number: int) -> None:
    """Set how many examples stand in front of each item, and which."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    for task in tasks.values():
        task.set_config(key="num_fewshot", value=number)
        # The seed that harness's own command line has, so that it chooses the same examples.
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)


def measure(loaded: Any, task: BenchmarkTask, items: Items) -> Scores:
    """Measure a model on a benchmark.

    Args:
        loaded: the model, as `eval/tasks.py` has it.
        task: the recipe's.
        items: of `read_items`.
    """
    from lm_eval import __version__ as version
    from lm_eval.evaluator import evaluate

    from smolalign.eval.harness_model import MAX_NEW_TOKENS, HarnessModel

    model = HarnessModel(loaded.model, loaded.tokenizer, loaded.batch_size, loaded.progress, loaded.journal)
    _set_examples(items.tasks, shots(task))
    results = evaluate(
        model,
        {"tasks": items.tasks, "groups": {}, "group_map": {}},
        samples=dict(items.chosen),
        bootstrap_iters=0,
        apply_chat_template=task.chat,
        fewshot_as_multiturn=task.chat,
    )
    samples = [{"of": name, **sample} for name in items.tasks for sample in results["samples"][name]]
    several = len({sample["filter"] for sample in samples}) > 1
    found = [_sample(sample, several) for sample in samples]
    names = dict.fromkeys(name for sample in samples for name in _values(sample, several))
    means = {name: statistics.fmean(sample[name] for sample in found if name in sample) for name in names}
    first = next(iter(items.tasks.values()))
    generates = first.get_config("output_type") == "generate_until"
    details = {
        "benchmark": task.benchmark,
        "tasks": len(items.tasks),
        "items": len(items),
        "num_fewshot": shots(task),
        "decoding": {"max_gen_toks": MAX_NEW_TOKENS, **first.get_config("generation_kwargs")} if generates else None,
        "template": template_hash(loaded.tokenizer) if task.chat else None,
        "contexts_cut": model.cut,
        "harness": version,
    }
    return Scores(means, details, found)


def _values(sample: Mapping[str, Any], several: bool) -> dict[str, float]:
    """An item's values by metric; where a task has several ways to find an answer, the way is part of the name."""
    way = f"_{sample['filter'].replace('-', '_')}" if several else ""
    return {f"{metric}{way}": float(sample[metric]) for metric in sample["metrics"]}


def _sample(sample: Mapping[str, Any], several: bool) -> dict[str, Any]:
    """An item's outputs: log-probabilities of the choices, or the answer as written and as found in it."""
    values = {**_values(sample, several=False), **_values(sample, several)}
    contexts = [arguments[0] for arguments in sample["arguments"]]
    asked = {"of": sample["of"], "item": sample["doc_id"], "prompt": contexts[0], "target": sample["target"]}
    if not isinstance(sample["arguments"][0][1], str):
        found = {"filter": sample["filter"], "found": sample["filtered_resps"][0]}
        return {**asked, "reply": sample["resps"][0][0], **found, **values}
    if len(set(contexts)) > 1:
        asked["prompt"] = contexts
    choices = [arguments[1] for arguments in sample["arguments"]]
    return {**asked, "choices": choices, "log_probs": [resps[0][0] for resps in sample["resps"]], **values}


def template_hash(tokenizer: Any) -> str:
    """The beginning of the SHA-256 of the chat template that prompts were rendered with."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:12]
