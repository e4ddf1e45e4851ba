"""`--to hub`: push a model to a repo of the Hugging Face Hub, as one commit."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign import __version__
from smolalign.errors import UserError
from smolalign.export.package import Package, packaged, tell
from smolalign.export.run import Wishes
from smolalign.export.source import Source

TAKES = {"repo", "private", "revision", "force"}

# Weights that would stand beside ours, and be loaded with or in place of them.
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin*")
_ANY_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth", "*.onnx", "*.h5", "*.msgpack")
# Where two configurations differ in one of these, they are two models.
_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_AGAIN = "run the same command again: what has arrived is not sent twice"


@dataclass(frozen=True, slots=True)
class There:
    """What a repo holds at a revision: the commit, and the names of its files."""

    commit: str | None
    files: list[str]


def export(source: Source, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Push the model: make the repo where there is none, upload what it lacks, and commit all of it at once.

    Raises:
        UserError: the repo's name is none, there is no token, the Hub says no or cannot be reached, or the repo holds
            another model and `wishes.force` is not set.
    """
    repo = _require_repo(wishes.repo)
    with _told(repo):
        # Before a model is loaded, merged and written.
        api = None if wishes.dry_run else _connected(repo)
    with packaged(source, repo.partition("/")[2], repo, wishes.licence) as package:
        tell(package, source, say)
        if not wishes.licence and source.origin.steps:
            say("the card says license: unknown; say what you give the model out under with --license")
        if api is None:
            say(f"\n{package.card}")
            return
        _read_back(package, source.reference, say)
        with _told(repo):
            _push(api, package, repo, wishes, say)


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Raises what goes wrong as UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The library and what it sends by raise a dozen unrelated types; all are beyond this program's control.
        raise _explained(error, repo) from error


def _require_repo(repo: str | None) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo is None:
        raise UserError("--to hub needs a repo", mend="add --repo OWNER/NAME")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(str(error).rstrip("."), mend="write it OWNER/NAME") from None
    if repo.count("/") != 1:
        raise UserError(f"{repo} is no name of a repo", mend="write it OWNER/NAME")
    return repo


def _connected(repo: str) -> Any:
    """The library's client, with a token that the Hub accepts and that may write."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE=1 forbids the network", mend="unset it to push")
    token = get_token()
    if not token:
        raise UserError("no token for the Hub", mend="set HF_TOKEN, or log in: hf auth login")
    api = HfApi(token=token)
    if api.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"the token may only read, not write to {repo}", mend="make one that may write, for HF_TOKEN")
    return api


def _read_back(package: Package, reference: str, say: Callable[[str], None]) -> None:
    """Load what is about to be pushed, and hold it against the model."""
    from smolalign.export.check import allowed, read_back

    with tempfile.TemporaryDirectory() as place:
        package.write(Path(place), link=True)
        say(read_back(Path(place), reference, *allowed(Path(place), reference)))


def _push(api: Any, package: Package, repo: str, wishes: Wishes, say: Callable[[str], None]) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = _look(api, repo, wishes)
    _require_same_model(api, repo, there, package, wishes)
    stale = [name for name in there.files if _is(name, _WEIGHTS) and name not in package.files]
    for name in stale:
        say(f"{name} of the model before is removed; it stays in the repo's history")
    operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
    operations += [CommitOperationAdd(path_in_repo=n, path_or_fileobj=f) for n, f in package.files.items()]
    say(f"pushing to {repo}")
    message = f"Upload {repo.partition('/')[2]} with smolalign {__version__}"
    # The library leaves out what has not changed, and sends no content that the Hub has already.
    done = api.create_commit(
        repo, operations, commit_message=message, revision=wishes.revision, parent_commit=there.commit
    )
    _require_arrived(api, repo, done.oid, package)
    if done.oid == there.commit:
        say(f"{repo} holds all of it already")
    say(f"{api.endpoint}/{repo}\n{done.commit_url}")


def _require_arrived(api: Any, repo: str, commit: str, package: Package) -> None:
    """Raise UserError where the Hub's digest of a file is not that of what was checked: SHA-256 of what it keeps in LFS
    or Xet, git's own of the others."""
    names = list(package.files)
    there = {one.path: one for one in api.get_paths_info(repo, names, revision=commit)}
    for name, content in package.files.items():
        found = there.get(name)
        if found is None:
            raise UserError(f"{name} did not arrive", where=repo, mend=_AGAIN)
        large = getattr(found, "lfs", None)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        digest = hashlib.sha256() if large else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
        if digest.hexdigest() != (large.sha256 if large else found.blob_id):
            raise UserError(f"{name} on the Hub is not what was pushed", where=repo, mend=_AGAIN)


def _look(api: Any, repo: str, wishes: Wishes) -> There:
    """What the repo holds; it is made where it is not there, and so is the branch."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=wishes.private or None, exist_ok=True)
        info = api.model_info(repo)
    if wishes.private and not info.private:
        mend = "make it private in its settings, or leave --private out"
        raise UserError(f"{repo} is public, and --private does not hide what is pushed to it", mend=mend)
    if wishes.revision:
        try:
            info = api.model_info(repo, revision=wishes.revision)
        except RevisionNotFoundError:
            api.create_branch(repo, branch=wishes.revision)
            info = api.model_info(repo, revision=wishes.revision)
    return There(info.sha, [one.rfilename for one in info.siblings or []])


def _require_same_model(api: Any, repo: str, there: There, package: Package, wishes: Wishes) -> None:
    """Raise UserError where the repo holds what is no earlier version of this model."""
    mend = "choose another --repo, or add --force: what is there stays in the repo's history"
    if wishes.force or not any(_is(name, _ANY_WEIGHTS) for name in there.files):
        return
    if "config.json" not in there.files:
        raise UserError(f"{repo} holds weights in another format", mend=mend)
    theirs = json.loads(Path(api.hf_hub_download(repo, "config.json", revision=there.commit)).read_text("utf-8"))
    own = package.files["config.json"]
    ours = json.loads(own if isinstance(own, bytes) else own.read_bytes())
    for name in _SHAPE:
        if theirs.get(name) != ours.get(name):
            what = f"{repo} holds another model: its {name} is {theirs.get(name)}, not {ours.get(name)}"
            raise UserError(what, mend=mend)


def _is(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _explained(error: BaseException, repo: str) -> UserError:
    """What went wrong, told by the innermost cause that says something."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    causes = list(_causes(error))
    answered = next((one for one in causes if isinstance(one, HfHubHTTPError)), None)
    if answered is not None:
        status = answered.response.status_code
        # The library reads out what is wrong with a request.
        said = str(error) if status == 400 else answered.server_message or _first_line(answered)
        return _by_status(status, " ".join(said.split())[:300], repo)
    cut = next((one for one in causes if isinstance(one, HTTPError | ConnectionError | TimeoutError)), None)
    if cut is not None:
        what = f"the Hub cannot be reached, or the connection was cut: {_first_line(cut)}"
        return UserError(what, where=repo, mend=_AGAIN)
    return UserError(f"cannot be pushed: {_first_line(error)}", where=repo, mend=_AGAIN)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _by_status(status: int, said: str, repo: str) -> UserError:
    if status == 401:
        return UserError("the Hub does not accept the token", mend="set HF_TOKEN to a valid one, or: hf auth login")
    if status == 403:
        return UserError(
            f"no rights to write to {repo}: {said}", mend="name a repo of yours, or a token that may write"
        )
    if status == 404:
        return UserError(f"no repo {repo}, or no access to it", mend="check its name, and the token's rights")
    if status in (409, 412):
        return UserError(f"{repo} was changed meanwhile", mend=_AGAIN)
    if status == 429:
        return UserError("the Hub asks to wait: too many requests", where=repo, mend=f"in some minutes, {_AGAIN}")
    if status >= 500:
        return UserError(f"the Hub failed ({status}): {said}", where=repo, mend=_AGAIN)
    return UserError(f"the Hub refused it ({status}): {said}", where=repo)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
