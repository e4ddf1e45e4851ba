"""The files of a model that leave this machine: a plain checkpoint with its card, and nothing else."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smolalign.adapters import base_of, is_adapter
from smolalign.errors import UserError
from smolalign.export.card import Card, render
from smolalign.export.facts import read_facts
from smolalign.export.run import DTYPES
from smolalign.export.source import Source
from smolalign.store import CARD, cache_folder, read_json

# What a checkpoint in Transformers' format is made of. Everything else stays here: optimizers, logs, code.
KEPT = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)
Quantize = Callable[[Path, Path], list[str]]
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Package:
    """The files of an export by their names in it, each where it lies or as its content, and names of others."""

    files: dict[str, Path | bytes]
    left_out: list[str]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in self.files.items()}

    def write(self, folder: Path, *, link: bool = False) -> None:
        """Write the files into a folder that is there; with `link` those that lie somewhere as links to there."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            elif link:
                (folder / name).symlink_to(content.resolve())
            else:
                shutil.copyfile(content, folder / name)

    @property
    def card(self) -> str:
        """The text of the card."""
        content = self.files[CARD]
        return (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")


@contextmanager
def packaged(
    source: Source,
    name: str,
    place: str,
    licence: str | None,
    dtype: str = "auto",
    quantize: Quantize | None = None,
) -> Iterator[Package]:
    """The files of a model, while the context lasts: those in its folder, or those of a checkpoint made of it.

    Args:
        source: the model.
        name: what the card calls it.
        place: what the card's example loads.
        licence: the Hub's identifier of what the model is given out under.
        dtype: of the weights, by torch's name; `auto` for what they have.
        quantize: writes weights and configuration of a plain checkpoint's folder to another, in another form, and
            returns the dtypes of that.

    Raises:
        UserError: the model cannot be loaded, or is not whole.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_checkpoint(source.reference, dtype))
        left_out = sorted(_left_out(folder))
        files: dict[str, Path | bytes] = {file: _content(folder, file) for file in sorted(_kept(folder))}
        _require_whole(folder, files)
        facts = read_facts(folder)
        if quantize:
            target = stack.enter_context(_for_the_time_being())
            facts = replace(facts, dtypes=quantize(folder, target))
            files = {file: content for file, content in files.items() if not _is_weights(file)}
            files |= {file.name: file for file in sorted(target.iterdir())}
        if source.own_card and (folder / CARD).is_file():
            if licence:
                raise UserError(f"the model has a card of its own, {CARD}", mend="write the licence there")
            files[CARD] = folder / CARD
        else:
            card = Card(name, place, facts, source.origin, licence)
            files[CARD] = render(card).encode()
        yield Package(files, left_out)


def require_unquantized(source: Source) -> None:
    """Raises UserError where the weights are quantized: rounded once more, they would be further from the model."""
    from smolalign.model import quantization_kept

    if kept := quantization_kept(source.reference):
        raise UserError(f"{source.reference} is quantized already ({kept})", mend="name the model that it was made of")


@contextmanager
def _checkpoint(reference: str, dtype: str) -> Iterator[Path]:
    """A folder with the model as a checkpoint in safetensors, of a dtype: its own, or one for the time being."""
    folder = Path(reference) if Path(reference).exists() else _downloaded(reference)
    if folder.is_dir() and not is_adapter(folder) and any(folder.glob("model*.safetensors")):
        if dtype == "auto" or read_facts(folder).dtypes == [dtype]:
            yield folder
            return
    elif dtype == "auto":
        dtype = _dtype_of(str(folder))
    import torch

    from smolalign.model import load_model, load_tokenizer, quantization_kept, save_model

    if kept := quantization_kept(str(folder)):
        raise UserError(f"the weights of {reference} are quantized ({kept})", mend="leave --dtype out")
    with _for_the_time_being() as place:
        model = load_model(str(folder)).to(getattr(torch, dtype))
        save_model(model, load_tokenizer(str(folder)), place / "model")
        yield place / "model"


def _dtype_of(reference: str) -> str:
    """The dtype that weights are written in which have to be loaded first: that of the base of adapters, where it has
    one alone; fp32 of what is dequantized or pickled."""
    while is_adapter(Path(reference)):
        reference = base_of(Path(reference))
    folder = Path(reference) if Path(reference).exists() else _downloaded(reference)
    dtypes = read_facts(folder).dtypes if folder.is_dir() else []
    return dtypes[0] if len(dtypes) == 1 and dtypes[0] in DTYPES else "float32"


@contextmanager
def _for_the_time_being() -> Iterator[Path]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache_folder()) as place:
        yield Path(place)


def _is_weights(name: str) -> bool:
    return name == "config.json" or name.startswith("model")


def _downloaded(reference: str) -> Path:
    """The files of a model on the Hub, from the cache where they are there."""
    from huggingface_hub import snapshot_download

    from smolalign.model import load_config

    name, _, revision = reference.partition("@")
    load_config(reference)  # Says in one line why a model cannot be had.
    wanted = [*KEPT, CARD, "adapter_config.json", "adapter_model.safetensors", "pytorch_model*"]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot download {reference}: {first[:200]}", mend="run the same command again") from None


def checkpoint_files(reference: str) -> list[Path]:
    """The files of a checkpoint in a folder or on the Hub, or of adapters."""
    folder = Path(reference) if Path(reference).exists() else _downloaded(reference)
    names = [*_kept(folder), *(file.name for file in folder.glob("adapter_*"))]
    return [folder / name for name in names]


def _kept(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and any(fnmatch.fnmatchcase(name, pattern) for pattern in KEPT):
            yield name


def _left_out(folder: Path) -> Iterator[str]:
    """What lies in the folder and does not belong to the checkpoint; a folder of such things is named once."""
    kept = {*_kept(folder), CARD}
    for entry in folder.iterdir():
        if entry.is_file() and entry.name not in kept:
            yield entry.name
        elif entry.is_dir() and not any(name.startswith(f"{entry.name}/") for name in kept):
            yield f"{entry.name}/"


def _content(folder: Path, name: str) -> Path | bytes:
    """A file as it is; a configuration that names folders of this machine without them."""
    if name not in _CONFIGS:
        return folder / name
    found = read_json(folder / name)
    if found is None:
        raise UserError(f"{name} is not JSON", where=str(folder), mend="name a whole checkpoint")
    clean = {key: value for key, value in found.items() if not _is_local(value)}
    return folder / name if clean == found else (json.dumps(clean, indent=2, ensure_ascii=False) + "\n").encode()


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("/", "~/", "file://"))


def _require_whole(folder: Path, files: Mapping[str, object]) -> None:
    index = read_json(folder / "model.safetensors.index.json")
    shards = set(index.get("weight_map", {}).values()) if index else {"model.safetensors"}
    needed = {"config.json", *shards} - files.keys()
    if needed:
        raise UserError(f"{', '.join(sorted(needed))} is missing", where=str(folder), mend="name a whole checkpoint")
    if not files.keys() & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}:
        raise UserError("the model has no tokenizer", where=str(folder), mend="save its tokenizer beside it")


def tell(package: Package, source: Source, say: Callable[[str], None]) -> None:
    """Say what is exported, file by file, and what is not."""
    for note in source.notes:
        say(note)
    sizes = package.sizes()
    width = max(map(len, sizes))
    for name, size in sizes.items():
        say(f"  {name.ljust(width)}  {_say_bytes(size):>9}")
    say(f"  {len(sizes)} files, {_say_bytes(sum(sizes.values()))}")
    if package.left_out:
        say(f"left out: {', '.join(package.left_out)}")


def _say_bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"
