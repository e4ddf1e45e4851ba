"""What pretraining will come to, from the first documents of its sources: stages, passes over each source, operations,
room on disk. Nothing is read to its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

from smolalign.cost import (
    DEFAULT_EPOCHS,
    Device,
    Sizes,
    Work,
    packed_work,
    say_tokens,
    sizes_of,
    stage_cost,
    training_flops,
)
from smolalign.data.sources import data_files, local_path
from smolalign.errors import UserError
from smolalign.fits import Fit, Target, config_ahead, fits
from smolalign.look import Chain, first_rows, sources_ahead, tokenizer_to_come
from smolalign.memory import say_size
from smolalign.recipe.batch import divide
from smolalign.recipe.data import DataSource, Filters
from smolalign.recipe.pretraining import PretrainSource, Stage
from smolalign.recipe.schema import PretrainStep
from smolalign.store import cache_folder
from smolalign.train.curriculum import WORTHWHILE_EPOCHS, decays, shares

# Documents of each source that are tokenized to learn their lengths, and bytes of their text at most.
SAMPLE_DOCUMENTS, SAMPLE_BYTES = 500, 1_000_000


@dataclass(frozen=True, slots=True)
class SourceAhead:
    """A source by its first documents.

    Attributes:
        name: as stages call it.
        documents: the tokens of those that are trained on, the end of each included.
        held: tokens of all its documents, estimated; None where that is not known without reading it.
        tokens: of those that are trained on, one pass over it.
    """

    name: str
    documents: list[list[int]]
    held: float | None
    tokens: float | None

    @property
    def lengths(self) -> list[int]:
        return [len(document) for document in self.documents]


@dataclass(frozen=True, slots=True)
class StageAhead:
    """A stage as it will be: `passes` over each source by its end, where what the source holds is known."""

    name: str
    tokens: int
    length: int
    decays: bool
    shares: dict[str, float]
    passes: dict[str, float]
    work: Work
    trained_here: bool


def look_at_sources(step: PretrainStep, name: str, chain: Chain, tokenizer: Any) -> list[SourceAhead]:
    """Every source of a step, by its first documents.

    Raises:
        UserError: one cannot be read, or has no document of the length asked for among the first.
    """
    from smolalign.train.corpus import encoder_of

    end = encoder_of(tokenizer).end

    def look_at(source: PretrainSource) -> SourceAhead:
        kept: list[list[int]] = []
        held = trained = 0.0
        known = True
        for found in sources_ahead(source, chain, name):
            loaded = first_rows(found, "document", SAMPLE_DOCUMENTS, step.max_rejected)
            texts = list(_within(loaded.rows, SAMPLE_BYTES))
            ids = [[*ids, end] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
            long = [document for document in ids if len(document) >= (source.min_tokens or 1)]
            kept += long
            whole = loaded.rows_in < SAMPLE_DOCUMENTS and len(texts) == len(loaded.rows)
            rows = float(len(texts)) if whole else _rows_in(found, texts)
            passes = 0.0 if rows is None else _taken(source, rows) / len(texts) * (1 - step.test_fraction)
            known = known and rows is not None
            held, trained = held + passes * sum(map(len, ids)), trained + passes * sum(map(len, long))
        if not kept:
            raise UserError(
                f"source {source.name}: none of its first documents has {source.min_tokens:,} tokens",
                where=str(chain.steps[name].file),
                mend="lower min_tokens, or name a source of longer documents",
            )
        return SourceAhead(str(source.name), kept, held if known else None, trained if known else None)

    return [look_at(source) for source in step.data]


def _within(rows: Sequence[Any], size: int) -> Iterator[str]:
    for row in rows:
        yield row.text
        size -= len(row.text)
        if size <= 0:
            return


def _rows_in(source: DataSource, texts: Sequence[str]) -> float | None:
    """How many rows a source has: of files by their sizes, as if all of it were like its first rows."""
    path = local_path(source.source)
    if path is None:
        return _rows_on_hub(source)
    files = data_files(path, source.split)
    if all(file.suffix == ".parquet" for file in files):
        import pyarrow.parquet as pq

        return float(sum(pq.read_metadata(file).num_rows for file in files))
    with files[0].open("rb") as stream:
        lines = [len(line) for line in islice(stream, len(texts))] if files[0].suffix == ".jsonl" else []
    # In other files little stands beside the texts.
    mean = sum(lines or (len(json.dumps(text, ensure_ascii=False).encode()) for text in texts)) / len(texts)
    return sum(file.stat().st_size for file in files) / mean


def _rows_on_hub(source: DataSource) -> float | None:
    """Rows of a dataset: of a big one, which is not downloaded, as if all of its files were like the first."""
    from smolalign.data.hub import hub_rows
    from smolalign.data.hub_stream import big_split

    split = big_split(source.source, source.config, source.split, source.revision)
    if split is None:
        return float(hub_rows(source.source, config=source.config, split=source.split, revision=source.revision))
    if not split.urls[0].endswith(".parquet"):
        return None
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    try:
        with HfFileSystem().open(split.urls[0], "rb") as stream:
            return float(pq.read_metadata(stream).num_rows * sum(split.sizes) / split.sizes[0])
    except OSError:
        # The rows could be read a moment ago; how many there are is no reason to fail.
        return None


def _taken(source: PretrainSource, rows: float) -> float:
    """Rows that are seen in one pass."""
    taken = rows * (source.weight or 1)
    return min(taken, source.max_rows or taken) * source.repeat


def stages_ahead(step: PretrainStep, sources: Sequence[SourceAhead]) -> list[StageAhead]:
    """The stages as they will be; none where the recipe has none and what its sources hold is not known.

    Raises:
        UserError: a stage names a source without documents.
    """
    held = {source.name: source.tokens for source in sources}
    stages = step.stages or _only_stage(step, held)
    # What a source holds matters to shares where a stage has no mixture, and else that it holds something.
    known = {source.name: round(source.tokens or sum(source.lengths)) for source in sources}
    read = dict.fromkeys(held, 0.0)
    made = []
    for number, (stage, decaying) in enumerate(zip(stages, decays(stages), strict=True), start=1):
        of = {name: float(share) for name, share in shares(stage, known).items()}
        length = stage.max_length or step.max_length
        for name, share in of.items():
            read[name] += share * stage.tokens
        passes = {name: read[name] / tokens for name in of if (tokens := held[name])}
        parts = [packed_work(one.lengths, length, of[one.name] * stage.tokens) for one in sources if one.name in of]
        work = sum(parts, Work(0, 0, 0))
        here = step.branch is None or number >= step.branch.stage
        made.append(StageAhead(stage.name, stage.tokens, length, decaying, of, passes, work, here))
    return made


def _only_stage(step: PretrainStep, held: Mapping[str, float | None]) -> list[Stage]:
    """All sources as they are, so many times over, or for so many steps."""
    if (steps := step.trainer.get("max_steps", 0)) > 0:
        tokens = float(steps * step_tokens(step))
    elif None in held.values():
        return []
    else:
        epochs = Fraction(str(step.trainer.get("num_train_epochs", DEFAULT_EPOCHS)))
        tokens = float(epochs) * sum(filter(None, held.values()))
    return [Stage(name="all", tokens=max(1, round(tokens)))]


def step_tokens(step: PretrainStep) -> int:
    """Tokens of an optimizer step, over all devices."""
    return divide(step.global_batch_size, step.trainer, 1).rows * step.max_length


def pretraining_ahead(step: PretrainStep, name: str, chain: Chain, target: Target, *, memory: bool) -> Iterator[Fit]:
    """What is known of a step before it runs, a line each: its stages, sources that are read too often, the room that
    tokens take on disk, what another device than this one costs, and memory.

    Args:
        step: the recipe.
        name: of the step in the chain.
        chain: what it reads.
        target: the device.
        memory: whether memory is asked for.

    Raises:
        UserError: a source cannot be read, or a stage names one without documents.
    """
    from smolalign.train.dry_step import Batch

    tokenizer = tokenizer_to_come(step.template, chain, name, SAMPLE_DOCUMENTS)
    sources = look_at_sources(step, name, chain, tokenizer)
    stages = stages_ahead(step, sources)
    for stage in stages:
        yield Fit(_stage_line(stage, step))
    yield from _worn(stages, step)
    yield _room(step, sources, len(tokenizer))
    if target.device is not None:
        yield from _costs(step, stages, sources, sizes_of(config_ahead(step, name, chain)), target.device)
    if memory:
        documents = [Batch(((tokens,),), tokens) for source in sources for tokens in source.lengths]
        yield from fits(step, name, chain, documents, target)


def _stage_line(stage: StageAhead, step: PretrainStep) -> str:
    def said(name: str, share: float) -> str:
        passes = f" (pass {stage.passes[name]:.1f})" if name in stage.passes else ""
        return f"{name} {100 * share:.3g}%{passes}"

    steps = -(-stage.tokens // step_tokens(step))
    parts = ", ".join(said(name, share) for name, share in stage.shares.items())
    decays = ", decay" if stage.decays else ""
    rows = f"rows of {stage.length:,}"
    return f"stage {stage.name}: {say_tokens(stage.tokens)} tokens, {steps:,} steps, {rows}{decays}: {parts}"


def _worn(stages: Sequence[StageAhead], step: PretrainStep) -> Iterator[Fit]:
    passes: dict[str, float] = {}
    for stage in stages:
        passes |= stage.passes
    idle = [
        str(source.name) for source in step.data if source.name not in {name for one in stages for name in one.shares}
    ]
    if idle and stages:
        yield Fit(f"in no stage's mixture: {', '.join(idle)}", tight=True)
    often = [f"{name} {count:.3g} times" for name, count in passes.items() if count > WORTHWHILE_EPOCHS]
    if often:
        filtered = (
            step.deduplicate
            or step.decontaminate
            or any((source.filters or step.filters) != Filters() for source in step.data)
        )
        about = "at least " if filtered else "about "
        yield Fit(f"read {about}{', '.join(often)}: more than {WORTHWHILE_EPOCHS} times teaches little", tight=True)


def _room(step: PretrainStep, sources: Sequence[SourceAhead], vocabulary: int) -> Fit:
    """Token files of all sources; those over the same rows share them."""
    rows = {
        data.model_dump_json(exclude={"name", "min_tokens"}): one for data, one in zip(step.data, sources, strict=True)
    }
    unknown = [source.name for source in rows.values() if source.held is None]
    size = (2 if vocabulary <= 1 << 16 else 4) * sum(source.held or 0 for source in rows.values())
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    known = [f"about {say_size(size)} GB"] if len(unknown) < len(rows) else []
    if unknown:
        known.append(f"2 bytes for each token of {', '.join(unknown)}, whose number is known when they have been read")
    return Fit(f"token files: {' and '.join(known)}; {say_size(free)} GB free in {folder}", tight=size > free)


def _costs(
    step: PretrainStep, stages: Sequence[StageAhead], sources: Sequence[SourceAhead], sizes: Sizes, device: Device
) -> Iterator[Fit]:
    recomputed = bool(step.trainer.get("gradient_checkpointing"))
    if not stages:
        tokens, documents = 10**9, [length for source in sources for length in source.lengths]
        work = packed_work(documents, step.max_length, tokens)
        yield Fit(stage_cost("cost", tokens, training_flops(sizes, work, recomputed=recomputed), device))
        return
    here = [stage for stage in stages if stage.trained_here]
    flops = [training_flops(sizes, stage.work, recomputed=recomputed) for stage in here]
    for stage, operations in zip(here, flops, strict=True) if len(here) > 1 else ():
        yield Fit(stage_cost(f"cost of stage {stage.name}", stage.tokens, operations, device))
    yield Fit(stage_cost("cost", sum(stage.tokens for stage in here), sum(flops), device))
