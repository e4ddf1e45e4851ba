"""What pretraining reads: the tokenizer, and the token files of every source and of what is held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from smolalign import processes
from smolalign.data.assembly.assemble import Assembled
from smolalign.data.assembly.documents import texts_of
from smolalign.data.assembly.engine.jobs import run_on
from smolalign.data.assembly.pool import Run
from smolalign.data.gather import assemble_documents, assemble_held_out, gather_sources, write_report
from smolalign.data.tokens.files import TokenFiles, joined
from smolalign.data.tokens.tokenize import Encoder, first_texts, tokenized
from smolalign.errors import UserError
from smolalign.model import load_tokenizer
from smolalign.recipe.data import DataSource, source_names
from smolalign.recipe.schema import PretrainStep
from smolalign.report import Reporter
from smolalign.store import taking_turns, whole_folder
from smolalign.train.tokenizer import END_OF_TEXT, tokenizer_texts, train_tokenizer

if TYPE_CHECKING:
    from smolalign.data.assembly.engine.file import Engine


@dataclass(frozen=True, slots=True)
class Compression:
    """Bytes of text that a token stands for, the tokens that end documents left out.

    Attributes:
        bytes_per_token: of all the text.
        by_source: of each source's.
        text: which text was measured: `held-out` or, where none is held out, `training`.
    """

    bytes_per_token: float
    by_source: dict[str, float]
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """All that pretraining reads.

    Attributes:
        tokenizer: with the step's chat template.
        sources: token files by the source's name, in the recipe's order; two sources over the same rows share them.
        held_out: token files to measure on: those of `eval_data` by name, and `test` where `test_fraction` holds
            documents out.
        compression: of the tokenizer.
        report: the data report's entry for each source that was read.
    """

    tokenizer: PreTrainedTokenizerBase
    sources: dict[str, TokenFiles]
    held_out: dict[str, TokenFiles]
    compression: Compression
    report: list[dict[str, Any]]

    @property
    def bytes_per_token(self) -> float:
        return self.compression.bytes_per_token


def prepare(step: PretrainStep, folder: Path, report: Reporter, engine: Engine | None = None) -> Corpus:
    """Assemble the step's sources, train or take its tokenizer, and tokenize what is not tokenized yet.

    Of several processes of a launch all call it; the first that comes does the work, and the others find it done.

    Args:
        step: the recipe.
        folder: of the step.
        report: shown the progress.
        engine: what assembling and tokenizing runs on, in place of processes of this machine.

    Raises:
        UserError: see `assemble`; the tokenizer cannot be taken; the cache cannot be written.
    """
    with taking_turns(folder / "checkpoints" / "corpus"):
        return _prepared(step, folder, report, engine)


def _prepared(step: PretrainStep, folder: Path, report: Reporter, engine: Engine | None) -> Corpus:
    names = [source.name or short for source, short in zip(step.data, source_names(step.data), strict=True)]
    which, rows = _distinct(step.data)
    own_names = [names[which.index(number)] for number in range(len(rows))]
    found = assemble_documents(step, rows, own_names, folder, report, engine)
    if processes.is_main():
        write_report(folder, found.report)
    _require_documents(found, own_names)
    tokenizer = _tokenizer(step, found, folder)
    encoder = encoder_of(tokenizer)
    run = run_on(engine, folder, folder / "checkpoints" / "engine", report)
    train = _tokenized(found, found.train, own_names, encoder, report, run)
    for name, files in train.items():
        report.say(f"{name}: {files.tokens:,} tokens in {files.documents:,} documents")
    test = _tokenized(found, found.test, own_names, encoder, report)
    measured = _eval_data(step, encoder, folder, report)
    held_out = {**measured, **({"test": joined(list(test.values()))} if test else {})}
    compression = _compression([train] if not held_out else [test, measured], "held-out" if held_out else "training")
    report.say(f"{compression.bytes_per_token:.2f} bytes of {compression.text} text a token")
    sources = {name: train[own_names[number]] for name, number in zip(names, which, strict=True)}
    return Corpus(tokenizer, sources, held_out, compression, found.report["sources"])


def _require_documents(found: Assembled, names: Sequence[str]) -> None:
    """Raises UserError where nothing is left of a source."""
    left = {found.sources[file] for file in found.train}
    for number, name in enumerate(names):
        if number not in left:
            what = "none of its documents is left: all are filtered out, duplicates, or held out"
            raise UserError(what, where=name, mend="leave the source out; data_report.html says what became of it")


def _distinct(sources: Sequence[DataSource]) -> tuple[list[int], list[DataSource]]:
    """Sources that are the same but for their names and limits of length, each once, and which of them each is."""
    keys = [source.model_dump_json(exclude={"name", "min_tokens"}) for source in sources]
    distinct = list(dict.fromkeys(keys))
    return [distinct.index(key) for key in keys], [sources[keys.index(key)] for key in distinct]


def _tokenized(
    found: Assembled,
    files: Sequence[str],
    names: Sequence[str],
    encoder: Encoder,
    report: Reporter,
    run: Run | None = None,
) -> dict[str, TokenFiles]:
    """Token files of an assembly's shards by the names of their sources; those of which there is none are left out."""
    by_source: dict[str, list[Path]] = {}
    for file in files:
        by_source.setdefault(names[found.sources[file]], []).append(found.folder / file)
    return {name: tokenized(by_source[name], encoder, name, report, run) for name in names if name in by_source}


def _eval_data(step: PretrainStep, encoder: Encoder, folder: Path, report: Reporter) -> dict[str, TokenFiles]:
    if not step.eval_data:
        return {}
    names = source_names(step.eval_data)
    found = assemble_held_out(step.eval_data, names, folder, "eval_data", step.seed)
    return _tokenized(found, found.train, names, encoder, report)


def _tokenizer(step: PretrainStep, found: Assembled, folder: Path) -> Any:
    """The step's tokenizer: another model's, or one trained on a sample of the documents and on `tokenizer_data`."""
    if step.tokenizer.model is not None:
        taken = load_tokenizer(step.tokenizer.model, step.template)
        taken.model_max_length = step.architecture.max_position_embeddings
        return taken
    home = folder / "checkpoints" / "tokenizer"
    if not home.is_dir():
        trained = train_tokenizer(
            _sample(step, found, folder),
            step.tokenizer.vocab_size,
            step.template,
            step.architecture.max_position_embeddings,
        )
        with whole_folder(home) as target:
            trained.save_pretrained(target)
    # Read back, so that a run that goes on has the very same.
    return AutoTokenizer.from_pretrained(str(home))


def _sample(step: PretrainStep, found: Assembled, folder: Path) -> Iterator[str]:
    """The texts that a tokenizer is trained on: of each shard its first ones, as many as its share of all bytes."""
    files = [found.folder / file for file in found.train]
    sizes = [texts_of(file).bytes for file in files]
    for file, size in zip(files, sizes, strict=True):
        yield from first_texts(file, min(size, size * step.tokenizer.sample_bytes // max(1, sum(sizes))))
    if step.tokenizer_data:
        chats = gather_sources(step.tokenizer_data, "chat", folder, "tokenizer_data", step.seed).train
        yield from tokenizer_texts(chats, step.template)


def encoder_of(tokenizer: Any) -> Encoder:
    """What tokenizes documents: each ends with `<|endoftext|>`, or with the end of sequence where there is no such.

    Raises:
        UserError: the tokenizer has neither, or is none of the tokenizers library.
    """
    end = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)
    if end is None:
        raise UserError(
            f"the tokenizer has neither {END_OF_TEXT} nor an end of sequence", mend="take that of another model"
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("the tokenizer has no tokenizer.json", mend="take that of another model")
    return Encoder(backend.to_str(), end, len(tokenizer))


def _compression(groups: Sequence[dict[str, TokenFiles]], text: str) -> Compression:
    counts: dict[str, list[int]] = {}
    for group in groups:
        for name, files in group.items():
            count = counts.setdefault(name, [0, 0])
            count[0] += files.text_bytes
            count[1] += files.tokens - files.documents
    by_source = {name: round(size / max(1, tokens), 3) for name, (size, tokens) in counts.items()}
    size, tokens = (sum(each) for each in zip(*counts.values(), strict=True))
    return Compression(size / max(1, tokens), by_source, text)
