"""From sources to shards: plan, prepare in parallel, choose once, write in parallel; and the report on all of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign import processes
from smolalign.data.assembly.choose import choose, gather_rows
from smolalign.data.assembly.contamination import build_index, load_index, read_questions
from smolalign.data.assembly.filters import require_possible
from smolalign.data.assembly.ledger import data_report
from smolalign.data.assembly.plan import Assembly, Plan, make_plan
from smolalign.data.assembly.pool import Run, pool
from smolalign.data.assembly.prepare import Means, prepare_unit
from smolalign.data.assembly.staging import Rejected, read_notes, unit_is_staged
from smolalign.data.assembly.tokens import Counter as TokenCounter
from smolalign.data.assembly.tokens import tokenizer_file
from smolalign.data.assembly.write import Shard, read_shards, save_choice, write_shard
from smolalign.errors import UserError
from smolalign.quality.load import forget_scorers, require_scorer
from smolalign.report import Progress, Reporter
from smolalign.store import digest_json, read_json, write_json, write_text

_INDEX = "benchmarks"
_REPORT = "report.json"
# Below that, starting other processes takes longer than the work.
_ROWS_ALONE = 20_000


@dataclass(frozen=True, slots=True)
class Assembled:
    """The shards of `train` and `test` in `folder`, and the report on how they came about (`data_report.json`).

    `sources` gives the number of a shard's source, by file, where each source has shards of its own: documents do.
    """

    folder: Path
    train: list[str]
    test: list[str]
    report: dict[str, Any]
    sources: dict[str, int]


def assemble(
    assembly: Assembly,
    work: Path,
    target: Path,
    aside: Path,
    report: Reporter,
    workers: int | None = None,
    run: Run | None = None,
) -> Assembled:
    """Assemble rows into Parquet shards `train-…` and `test-…`.

    What has been done is kept in `work`: the same call takes up there what was broken off, at the unit or shard it was
    on.

    Args:
        assembly: what to assemble.
        work: folder for what is staged; it holds about as much as the sources.
        target: folder of the shards.
        aside: JSONL file for broken records, written if there are any.
        report: shown the progress.
        workers: processes; by default the cores that the process may use, one for few rows.
        run: what runs the tasks of each stage, in place of so many processes of this machine.

    Raises:
        UserError: a source or benchmark cannot be read, a filter is impossible, more than `max_rejected` of a source's
            records are broken, or no row is left.
    """
    # Machines that share a file system do not share the folder that a process is in.
    work, target = work.absolute(), target.absolute()
    plan = _planned(assembly, work, report)
    with nullcontext(run) if run else pool(workers or _usual_workers(plan)) as run_stage:
        shards, found = _worked_off(plan, work, target, aside, run_stage, report)
    forget_scorers()
    found["shards"] = [{"file": shard.file, "rows": shard.rows} for shard in shards]
    sources = {shard.file: shard.source for shard in shards if shard.source is not None}
    return Assembled(target, _files(shards, "train"), _files(shards, "test"), found, sources)


def _usual_workers(plan: Plan) -> int:
    return 1 if sum(unit.rows for unit in plan.units) < _ROWS_ALONE else processes.usable_cores()


def _worked_off(
    plan: Plan, work: Path, target: Path, aside: Path, run: Run, report: Reporter
) -> tuple[list[Shard], dict[str, Any]]:
    """All stages, or what is left to do of them. Gives the shards and the report."""
    unprepared = [number for number in range(len(plan.units)) if not unit_is_staged(work, number)]
    preparing = [(plan, number, work) for number in unprepared]
    _work_off("preparing", "parts", prepare_task, preparing, len(plan.units), run, report)
    _set_aside(plan, work, aside)
    if read_shards(work) is None:
        list(run("choosing", choose_task, [(plan, work)]))
    shards = read_shards(work)
    found = read_json(work / _REPORT)
    assert shards is not None
    assert found is not None
    writing = [(plan, shard, work, target) for shard in shards if not (target / shard.file).is_file()]
    _work_off("writing", "shards", write_shard, writing, len(shards), run, report)
    return shards, found


def _planned(assembly: Assembly, work: Path, report: Reporter) -> Plan:
    """The plan, and on disk the index of the benchmarks."""
    for number, name in enumerate(assembly.names):
        if name in assembly.names[:number]:
            raise UserError(f'two sources are named "{name}"', mend="give one source a larger weight or repeat instead")
        filters = assembly.filters_of(number)
        require_possible(filters, counted=assembly.count_tokens_with is not None)
        if filters.quality is not None:
            require_scorer(filters.quality.scorer, weights=True)
        source = assembly.sources[number]
        if assembly.kind != "chat" and (source.tools or source.negatives):
            raise UserError("tools and negatives are for chats", where=name, mend="remove them from this source")
    plan = make_plan(assembly, work)
    again = assembly.decontaminate
    if again is not None and not (work / _INDEX).is_dir():
        questions = [question for benchmark in again.against for question in read_questions(benchmark)]
        build_index(questions, again.ngram).save(work / _INDEX)
        report.say(f"benchmarks: {len(questions):,} questions to keep out")
    return plan


def prepare_task(plan: Plan, number: int, work: Path) -> None:
    """`prepare_unit`, with what it needs loaded once a process."""
    prepare_unit(plan, number, _means(plan, work), work)


_loaded: dict[str, Means] = {}


def _means(plan: Plan, work: Path) -> Means:
    index, model = work / _INDEX, plan.assembly.count_tokens_with
    # By the index's own time, since another run in this process may have had the same folder.
    key = digest_json([str(index), index.stat().st_mtime_ns if index.exists() else 0, model])
    if key not in _loaded:
        _loaded.clear()
        counter = TokenCounter(tokenizer_file(model)) if model else None
        _loaded[key] = Means(load_index(index) if index.exists() else None, counter)
    return _loaded[key]


def _work_off(
    stage: str,
    unit: str,
    task: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
    total: int,
    run: Run,
    report: Reporter,
) -> None:
    """Run the tasks that are left to do of `total`."""
    if arguments:
        with closing(run(stage, task, arguments)) as ended:
            for done, _ in enumerate(ended, start=total - len(arguments) + 1):
                report.progress(Progress(stage, done, total, unit))


def _set_aside(plan: Plan, work: Path, file: Path) -> None:
    """Write the broken records to a file. Raises UserError if too many of a source's records are broken."""
    rows: Counter[int] = Counter()
    rejected: dict[int, list[Rejected]] = {number: [] for number in range(len(plan.assembly.sources))}
    for number, unit in enumerate(plan.units):
        notes = read_notes(work, number)
        rows[unit.source] += notes.tally.rows_in
        rejected[unit.source] += notes.rejected
    if any(rejected.values()):
        write_text(file, "".join(_lines(plan, rejected)))
    most = plan.assembly.max_rejected
    for source, broken in rejected.items():
        if not rows[source]:
            raise UserError("holds no records", where=plan.assembly.sources[source].source)
        if len(broken) > most * rows[source] or len(broken) == rows[source]:
            raise _too_many(plan.assembly.names[source], broken, rows[source], most, file)


def _lines(plan: Plan, rejected: dict[int, list[Rejected]]) -> Iterator[str]:
    for source, broken in rejected.items():
        for one in broken:
            line = {"source": plan.assembly.names[source], "origin": one.origin, "why": one.what, "record": one.record}
            yield json.dumps(line, ensure_ascii=False, default=str) + "\n"


def _too_many(name: str, broken: list[Rejected], rows: int, most: float, file: Path) -> UserError:
    """The error that names the three commonest reasons with an example of each."""
    if len(broken) == 1:
        what = f"{broken[0].what}"
        return UserError(what, where=broken[0].origin, mend=f"mend that row, or raise max_rejected ({most:g})")
    by_reason: dict[str, list[Rejected]] = {}
    for one in broken:
        by_reason.setdefault(one.reason or one.what, []).append(one)
    commonest = sorted(by_reason.values(), key=len, reverse=True)[:3]
    shown = "; ".join(f"{len(group)} × {group[0].what} ({Path(group[0].origin).name})" for group in commonest)
    return UserError(
        f"{len(broken)} of {rows} rows are broken, more than max_rejected {most:g}: {shown}",
        where=name,
        mend=f"all of them are in {file}; mend them, or raise max_rejected",
    )


def choose_task(plan: Plan, work: Path) -> None:
    """Decide on all rows, and write the decision down for those who write the shards."""
    rows = gather_rows(plan, work)
    choice = choose(plan, rows, work)
    write_json(work / _REPORT, data_report(plan, rows, choice, work))
    save_choice(plan, rows, choice, work)


def _files(shards: Sequence[Shard], split: str) -> list[str]:
    return [shard.file for shard in shards if shard.split == split]
