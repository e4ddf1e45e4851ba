"""The Hugging Face Hub: the files of a model there, and each of its many ways to fail told as one line."""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from smolalign.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
# What Transformers reads of a checkpoint. A repository holds more: other formats, checkpoints of its training.
_SMALL = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "chat_template*", "additional_chat_templates/*", "adapter_config.json"),
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_AGAIN = "run the same command again: files that came whole are kept"


def hub_model(reference: str) -> tuple[str, str | None] | None:
    """Id and revision that a model's reference names on the Hub; None where it is a path, or no id at all."""
    if Path(reference).exists():
        return None
    name, _, revision = reference.partition("@")
    return (name, revision or None) if _HUB_ID.fullmatch(name) else None


@functools.cache
def model_folder(name: str, revision: str | None, *, weights: bool) -> Path:
    """The folder in the Hub's cache with all that is read of a model, once it is downloaded.

    All or nothing: Transformers takes a file that does not come for one that the model does not have, and makes a
    tokenizer without tokens.

    Args:
        name: its id.
        revision: a branch, a tag or a commit; by default `main`.
        weights: whether its weights are needed too, in safetensors.

    Raises:
        UserError: the Hub does not give them.
    """
    from huggingface_hub import snapshot_download

    wanted = [*_SMALL, *(_WEIGHTS if weights else ())]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:
        # The library raises a dozen unrelated types here, all beyond this program's control.
        reference = f"{name}@{revision}" if revision else name
        what, mend = failure(error, "model", name, revision) or (_first_line(error), "")
        raise UserError(f"cannot load the model {reference} from the Hub: {what}", mend=mend) from error


def failure(
    error: BaseException, kind: Literal["model", "dataset"], name: str, revision: str | None = None
) -> tuple[str, str] | None:
    """What went wrong between this program and the Hub, and what to do about it; None for what has other causes.

    Args:
        error: what one of the Hub's libraries raised; what it was raised from is looked through too.
        kind: what was asked for.
        name: its id.
        revision: its branch, tag or commit, where one was asked for.
    """
    return next((told for one in _chain(error) if (told := _told(one, kind, name, revision))), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from, also where the library hides them."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or found.__context__


def _told(error: BaseException, kind: str, name: str, revision: str | None) -> tuple[str, str] | None:
    # By name, since the libraries have taken their types from one HTTP client and then another.
    types = {one.__name__ for one in type(error).__mro__}
    page = f"{'datasets/' * (kind == 'dataset')}{name}"
    # `datasets` keeps of these causes no more than the text.
    text = str(error) if "DatasetNotFoundError" in types else ""
    if "GatedRepoError" in types or "gated" in text:
        from huggingface_hub.constants import ENDPOINT

        return "it is gated", f"accept its terms at {ENDPOINT}/{page}, then log in with `hf auth login`"
    if "RevisionNotFoundError" in types or text.startswith("Revision"):
        return f"it has no revision {revision or 'main'}", "name a branch, a tag or a commit of it"
    if "RepositoryNotFoundError" in types or text:
        local = "download it once and give its local path" if kind == "dataset" else "name a local checkpoint"
        return f"no such {kind} on the Hub, or no access to it", f"check the id, or {local}"
    if "OfflineModeIsEnabled" in types:
        return _offline(kind)
    if "HfHubHTTPError" in types:
        return _refused(error, types)
    if "TimeoutException" in types:
        return "the Hub does not answer in time", _AGAIN
    if types & {"ConnectError", "ProxyError"}:
        return f"the Hub cannot be reached, and the {kind} is not whole in the local cache", _AGAIN
    if types & {"TransportError"} or "Consistency check failed" in str(error):
        return "the connection to the Hub broke off", _AGAIN
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left for the Hub's cache", "free some, or set HF_HOME to a folder on another disk"
    return None


def _refused(error: BaseException, types: set[str]) -> tuple[str, str]:
    """What the Hub's answer means."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if "RemoteEntryNotFoundError" in types:
        file = str(getattr(response, "url", "")).partition("/resolve/")[2].partition("/")[2]
        return f"the Hub does not give {file or 'one of its files'}, which it lists", "name another revision"
    if status == 401:
        return "the Hub does not accept your token", "log in anew with `hf auth login`, or unset HF_TOKEN"
    if status == 403:
        return "the Hub forbids it (403)", "log in with `hf auth login`, with a token that may read it"
    if status == 429:
        limit = "the Hub wants fewer requests (429 Too Many Requests)"
        return limit, "wait some minutes and run the same command again; it allows more to who is logged in"
    return f"the Hub fails ({status} {getattr(response, 'reason_phrase', '')})", f"later, {_AGAIN}"


def _offline(kind: str) -> tuple[str, str]:
    what = f"HF_HUB_OFFLINE=1 forbids the network, and the {kind} is not whole in the local cache"
    return what, "check the id, or unset HF_HUB_OFFLINE once to download it"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]
