"""Records of a Hugging Face Hub dataset, with its many ways to fail told as one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from smolalign.data.sources import similar_neighbour
from smolalign.errors import UserError


def read_hub(
    dataset_id: str,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `(owner/name#row N, record)` of one split, "train" unless given, from row `start` to before row `stop`,
    both counted from 0. Raises UserError."""
    table = _table(dataset_id, config, split, revision)
    rows = range(start, len(table) if stop is None else stop)
    for number, record in enumerate(table.select(rows), start=start + 1):
        yield f"{dataset_id}#row {number}", dict(record)


def hub_rows(dataset_id: str, *, config: str | None, split: str | None, revision: str | None) -> int:
    """How many rows a split has, which is downloaded first if need be. Raises UserError."""
    return len(_table(dataset_id, config, split, revision))


def _table(dataset_id: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """The split, memory-mapped from the library's cache."""
    import datasets

    wanted = split or "train"
    try:
        return datasets.load_dataset(dataset_id, name=config, split=wanted, revision=revision, streaming=False)
    except Exception as error:
        # The library raises a dozen unrelated types here, so the text decides; all are beyond this program's control.
        raise _explained(dataset_id, config, wanted, error) from error


def _explained(dataset_id: str, config: str | None, split: str, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    names = _names(text)
    if isinstance(error, ConnectionError):
        offline = "OfflineModeIsEnabled" in text or "offline mode" in text
        why = "HF_HUB_OFFLINE=1 forbids the network" if offline else "the Hub cannot be reached"
        return UserError(f"{why}, and the dataset is not in the local cache", where=dataset_id, mend=_local(dataset_id))
    if "Config name is missing" in text:
        return UserError("the dataset has several configs", where=dataset_id, mend=f"set `config` to one of: {names}")
    if text.startswith("BuilderConfig"):
        return UserError(f'no config "{config}"', where=dataset_id, mend=f"configs: {names}")
    if text.startswith("Unknown split"):
        return UserError(f'no split "{split}"', where=dataset_id, mend=f"splits: {names}")
    if type(error).__name__ == "DatasetNotFoundError":
        what = text if "gated" in text or "Revision" in text else "no such dataset on the Hub, or no access to it"
        mend = "log in with `hf auth login` after accepting its terms" if "gated" in text else _local(dataset_id)
        return UserError(what, where=dataset_id, mend=mend)
    return UserError(f"cannot be loaded: {type(error).__name__}: {text[:200]}", where=dataset_id)


def _names(text: str) -> str:
    """The names in the last bracketed list of an error such as `Unknown split "x". Should be one of ['train']`."""
    lists = re.findall(r"\[([^\[\]]*)\]", text)
    return ", ".join(re.findall(r"'([^']*)'", lists[-1])) if lists else "see its page on the Hub"


def _local(dataset_id: str) -> str:
    near = similar_neighbour(dataset_id)
    return f"did you mean the local {near}?" if near else "check the id, or download it once and give its local path"
