"""Records of a Hugging Face Hub dataset, with its many ways to fail told as one line."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from smolalign.data.sources import named, similar_neighbour
from smolalign.errors import UserError
from smolalign.hub import failure

_MEND = "check the id, or download it once and give its local path"
# Set once the Hub has been found to be out of reach.
_given_up = threading.Event()


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


class Unreachable(UserError):
    """A dataset that is not in the cache while the Hub cannot be asked, or must not be; `why` says which."""

    def __init__(self, why: str, dataset_id: str, config: str | None, split: str) -> None:
        self.why, self.dataset_id, self.config, self.split = why, dataset_id, config, split
        what = f"{why}, and the dataset is not in the local cache"
        super().__init__(what, where=named(dataset_id, split, config), mend=_local(dataset_id))


def told_once(problems: Sequence[UserError]) -> list[UserError]:
    """The problems, at their end the datasets that are out of reach, all that are so for one cause as one problem."""
    out_of_reach: dict[str, list[Unreachable]] = {}
    others = []
    for problem in problems:
        if isinstance(problem, Unreachable) and problem.mend == _MEND:
            out_of_reach.setdefault(problem.why, []).append(problem)
        else:
            others.append(problem)
    return [*others, *map(_as_one, out_of_reach.values())]


def _as_one(alike: Sequence[Unreachable]) -> UserError:
    configs: dict[tuple[str, str], dict[str | None, None]] = {}
    for one in alike:
        configs.setdefault((one.dataset_id, one.split), {})[one.config] = None
    if (count := sum(map(len, configs.values()))) == 1:
        return alike[0]
    names = "; ".join(named(dataset_id, split, *asked) for (dataset_id, split), asked in configs.items())
    what = f"{alike[0].why}, and {count} datasets are not in the local cache: {names}"
    return UserError(what, mend="check the ids, or download them once and give their local paths")


@functools.lru_cache(maxsize=1)
def _table(dataset_id: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """The split, memory-mapped from the library's cache; kept, since a source is read part by part, and opening it asks
    the Hub several times."""
    import datasets

    wanted = split or "train"
    try:
        return datasets.load_dataset(dataset_id, name=config, split=wanted, revision=revision, streaming=False)
    except Exception as error:
        # The library raises a dozen unrelated types here, so the text decides; all are beyond this program's control.
        raise cannot_be_read(dataset_id, config, wanted, revision, error) from error


def cannot_be_read(
    dataset_id: str, config: str | None, split: str, revision: str | None, error: Exception
) -> UserError:
    """What the library raised, as one line."""
    text = " ".join(str(error).split())
    names = _names(text)
    where, kind = named(dataset_id, split, config), type(error).__name__
    if isinstance(error, ConnectionError):
        return Unreachable(give_up(text), dataset_id, config, split)
    if "Config name is missing" in text:
        return UserError("the dataset has several configs", where=where, mend=f"set `config` to one of: {names}")
    if text.startswith("BuilderConfig"):
        return UserError(f'no config "{config}"', where=where, mend=f"configs: {names}")
    if text.startswith("Unknown split"):
        return UserError(f'no split "{split}"', where=where, mend=f"splits: {names}")
    if told := failure(error, "dataset", dataset_id, revision):
        what, mend = told
        where = f"{where[:-1]}; revision {revision})" if revision else where
        return UserError(what, where=where, mend=_local(dataset_id) if mend.startswith("check the id") else mend)
    if kind in ("EmptyDatasetError", "DataFilesNotFoundError"):
        return UserError("it has no files of rows", where=where, mend="name another revision, or another dataset")
    if kind.startswith("DatasetGeneration") and error.__cause__ is not None:
        kind, text = type(error.__cause__).__name__, " ".join(str(error.__cause__).split())
    mend = f"if a file was cut off in the cache: `hf cache rm dataset/{dataset_id}`, then the same command"
    return UserError(f"cannot be read: {kind}: {text[:200]}", where=where, mend=mend)


def give_up(text: str) -> str:
    """Why the library did not reach the Hub, from its error. Where it tried, half a minute of retries has passed: from
    then on this process looks for datasets in the cache alone."""
    from datasets import config

    tried = "OfflineModeIsEnabled" not in text and "offline mode" not in text
    if tried and not config.HF_HUB_OFFLINE:
        config.HF_HUB_OFFLINE = True
        _given_up.set()
    return "the Hub cannot be reached" if tried or _given_up.is_set() else "HF_HUB_OFFLINE=1 forbids the network"


def _names(text: str) -> str:
    """The names in the last bracketed list of an error such as `Unknown split "x". Should be one of ['train']`."""
    lists = re.findall(r"\[([^\[\]]*)\]", text)
    return ", ".join(re.findall(r"'([^']*)'", lists[-1])) if lists else "see its page on the Hub"


def _local(dataset_id: str) -> str:
    near = similar_neighbour(dataset_id)
    return f"did you mean the local {near}?" if near else _MEND
