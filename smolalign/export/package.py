"""The files of a model that leave this machine: a plain checkpoint with its card, and nothing else."""

from __future__ import annotations

import fnmatch
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.adapters import is_adapter
from smolalign.errors import UserError
from smolalign.export.card import Card, render
from smolalign.export.facts import read_facts
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
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Package:
    """The files of an export by their names in it, each where it lies or as its content, and names of others."""

    files: dict[str, Path | bytes]
    left_out: list[str]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in self.files.items()}

    @property
    def card(self) -> str:
        """The text of the card."""
        content = self.files[CARD]
        return (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")


@contextmanager
def packaged(source: Source, name: str, place: str, licence: str | None) -> Iterator[Package]:
    """The files of a model, while the context lasts: those in its folder, or those of a plain checkpoint made of it.

    Args:
        source: the model.
        name: what the card calls it.
        place: what the card's example loads.
        licence: the Hub's identifier of what the model is given out under.

    Raises:
        UserError: the model cannot be loaded, or is not whole.
    """
    with _checkpoint(source.reference) as folder:
        left_out = sorted(_left_out(folder))
        files: dict[str, Path | bytes] = {file: _content(folder, file) for file in sorted(_kept(folder))}
        _require_whole(folder, files)
        if source.own_card and (folder / CARD).is_file():
            if licence:
                raise UserError(f"the model has a card of its own, {CARD}", mend="write the licence there")
            files[CARD] = folder / CARD
        else:
            card = Card(name, place, read_facts(folder), source.origin, licence)
            files[CARD] = render(card).encode()
        yield Package(files, left_out)


@contextmanager
def _checkpoint(reference: str) -> Iterator[Path]:
    """A folder with the model as a plain checkpoint in safetensors: its own, or one for the time being."""
    folder = Path(reference) if Path(reference).exists() else _downloaded(reference)
    if folder.is_dir() and not is_adapter(folder) and any(folder.glob("model*.safetensors")):
        yield folder
        return
    from smolalign.model import load_model, load_tokenizer, save_model

    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache_folder()) as place:
        target = Path(place) / "model"
        save_model(load_model(str(folder)), load_tokenizer(str(folder)), target)
        yield target


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
