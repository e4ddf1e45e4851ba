"""A model behind an OpenAI-compatible endpoint that is asked for its judgement, many times and each time once.

What it said is kept in `judgements.jsonl` of the step's folder under a digest of the request, as soon as it is there: a
run that was killed, or that a changed recipe made anew, asks for nothing that was answered.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smolalign.errors import UserError
from smolalign.recipe.judge import Judge
from smolalign.store import JUDGEMENTS, digest_json

Turns = Sequence[Mapping[str, str]]

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
# An endpoint that asks for a longer wait has no more to give today; what was judged is kept.
LONGEST_WAIT_SECONDS = 300.0
_TOO_LONG = ("context_length_exceeded", "context length", "context window", "maximum context")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge said.

    Attributes:
        text: empty where it said nothing.
        model: the name that the endpoint gives to what answered.
        prompt_tokens, completion_tokens: as the endpoint counts them, 0 where it does not.
        error: why there is no text, where the request was longer than the judge reads.
    """

    text: str
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


def api_key(judge: Judge) -> str | None:
    """The key from the environment, or None where the recipe names no variable.

    Raises:
        UserError: the variable is not set, or holds what cannot be a key.
    """
    if judge.api_key_env is None:
        return None
    key = os.environ.get(judge.api_key_env, "").strip()
    if not key:
        what = f"the environment variable {judge.api_key_env} of judge.api_key_env is not set"
        raise UserError(what, mend=f"export {judge.api_key_env}=…, or leave api_key_env out where no key is needed")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"the environment variable {judge.api_key_env} holds no key: it has other signs than ASCII's")
    return key


def require_reachable(judge: Judge) -> None:
    """Raises UserError where nothing answers at the judge's address, or the key is refused: said before a model that is
    to be judged is loaded. An endpoint without a list of models is fine."""
    asyncio.run(_greet(judge, api_key(judge)))


def ask(
    judge: Judge, asked: Sequence[Turns], folder: Path | None, progress: Callable[[int, int], None] = lambda *_: None
) -> list[Judgement]:
    """The judge's answers, one to each conversation, in their order; equal conversations are sent once.

    Args:
        judge: the recipe's.
        asked: conversations in OpenAI's layout.
        folder: of the step, where answers are kept; None keeps none.
        progress: told how many conversations have their answer, and of how many.

    Raises:
        UserError: the endpoint refuses, is out of reach, or goes on failing.
    """
    bodies = [_body(judge, turns) for turns in asked]
    digests = [digest_json({"url": judge.url, "body": body}) for body in bodies]
    kept = _Kept(folder / JUDGEMENTS if folder else None)
    waiting = {digest: body for digest, body in zip(digests, bodies, strict=True) if digest not in kept.found}
    times = Counter(digests)
    done = len(digests) - sum(times[digest] for digest in waiting)
    progress(done, len(digests))

    def take(digest: str, judgement: Judgement) -> None:
        nonlocal done
        kept.add(digest, judgement)
        done += times[digest]
        progress(done, len(digests))

    if waiting:
        asyncio.run(_ask_all(judge, api_key(judge), waiting, take))
    return [kept.found[digest] for digest in digests]


def _body(judge: Judge, turns: Turns) -> dict[str, Any]:
    body = {"model": judge.model, "messages": [dict(turn) for turn in turns], "temperature": 0}
    body |= {"max_tokens": judge.max_tokens, **judge.body}
    return {name: value for name, value in body.items() if value is not None}


class _Kept:
    """Answers by the digest of their request, from a file to which each new one is added."""

    def __init__(self, file: Path | None) -> None:
        self.found: dict[str, Judgement] = {}
        self._file = file
        if file is None or not file.exists():
            return
        text = file.read_bytes()
        if not text.endswith(b"\n"):
            # A line that a kill cut off, which the next one must not be joined to.
            text = text[: text.rfind(b"\n") + 1]
            os.truncate(file, len(text))
        for line in text.splitlines():
            try:
                record = json.loads(line)
                digest = record.pop("request")
                self.found[digest] = Judgement(**record)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # not ours, or of another version: it is asked for again

    def add(self, digest: str, judgement: Judgement) -> None:
        self.found[digest] = judgement
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"request": digest, **asdict(judgement)}, ensure_ascii=False) + "\n")


def _client(judge: Judge, key: str | None) -> Any:
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(headers=headers, timeout=judge.timeout_seconds)


async def _greet(judge: Judge, key: str | None) -> None:
    import httpx2

    async with _client(judge, key) as client:
        try:
            response = await client.get(f"{judge.url}/models")
        except httpx2.RequestError as error:
            raise _unreachable(judge, error) from None
        if response.status_code == 401:
            raise _refused(judge, key, response)


async def _ask_all(
    judge: Judge, key: str | None, waiting: Mapping[str, dict[str, Any]], take: Callable[[str, Judgement], None]
) -> None:
    todo = iter(waiting.items())

    async def work() -> None:
        for digest, body in todo:
            take(digest, await _answer(judge, key, client, body))

    async with _client(judge, key) as client:
        await asyncio.gather(*(work() for _ in range(min(judge.concurrency, len(waiting)))))


async def _answer(judge: Judge, key: str | None, client: Any, body: Mapping[str, Any]) -> Judgement:
    """The answer to one request, sent again while the endpoint is busy, out of order or cut off."""
    import httpx2

    for number in range(1, judge.tries + 1):
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (number - 1)) * random.uniform(0.8, 1.2)
        try:
            response = await client.post(f"{judge.url}/chat/completions", json=body)
        except httpx2.RequestError as error:
            problem = _unreachable(judge, error)
        else:
            status = response.status_code
            if status == 200:
                return _judgement(judge, key, response)
            problem = _refused(judge, key, response)
            if not _may_pass(response):
                if status in (400, 413, 422) and any(sign in _message(response).lower() for sign in _TOO_LONG):
                    return Judgement("", error=problem.what)
                raise problem
            wait = _retry_after(response)
            if wait > LONGEST_WAIT_SECONDS:
                asks = f"{problem.what}; it asks to wait for {wait:,.0f} seconds"
                raise UserError(asks, where=judge.url, mend="run the same command again then: what was judged is kept")
            delay = max(delay, wait)
        if number < judge.tries:
            await asyncio.sleep(delay)
    again = f"{judge.tries} tries" if judge.tries > 1 else "1 try"
    mend = "run the same command again: what was judged is kept; judge.concurrency and judge.tries set the pace"
    raise UserError(f"{problem.what} (after {again})", where=judge.url, mend=mend)


def _judgement(judge: Judge, key: str | None, response: Any) -> Judgement:
    """What a response of 200 holds."""
    try:
        answer = response.json()
    except ValueError:
        shown = _shown(key, response.text)
        mend = "judge.url is the address of an OpenAI-compatible API, which often ends in /v1"
        raise UserError(f"the judge answers with no JSON: {shown!r}", where=judge.url, mend=mend) from None
    try:
        text = answer["choices"][0]["message"]["content"] or ""
        used = answer.get("usage") or {}
        asked, said = (int(used.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        # Half a character, which JSON can write and UTF-8 cannot, would stop the file from being written.
        text = str(text).encode(errors="replace").decode()
        return Judgement(text, str(answer.get("model") or ""), asked, said)
    except (LookupError, TypeError, AttributeError, ValueError):
        shown = _shown(key, response.text)
        raise UserError(f"the judge's answer is no chat completion: {shown!r}", where=judge.url) from None


def _may_pass(response: Any) -> bool:
    """Whether a failure may be over at the next try."""
    status = response.status_code
    if status == 429:
        return "insufficient_quota" not in response.text
    return status in (408, 425) or status >= 500


def _retry_after(response: Any) -> float:
    """Seconds that the endpoint asks to wait, given as such or as a date; 0 where it does not."""
    asked = response.headers.get("Retry-After", "")
    for read in (float, lambda text: email.utils.parsedate_to_datetime(text).timestamp() - time.time()):
        try:
            return max(0.0, read(asked))
        except ValueError:
            continue
    return 0.0


def _unreachable(judge: Judge, error: Exception) -> UserError:
    import httpx2

    if isinstance(error, httpx2.TimeoutException):
        what, mend = (
            f"the judge does not answer within {judge.timeout_seconds:g} seconds",
            "raise judge.timeout_seconds",
        )
    elif isinstance(error, httpx2.ConnectError):
        reason = " ".join(str(error).split()) or "no connection"
        what, mend = f"the judge cannot be reached: {reason}", "check judge.url, and that its server runs"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
        what, mend = f"the connection to the judge was cut: {reason}", "check judge.url, and that its server runs"
    return UserError(what, where=judge.url, mend=mend)


def _refused(judge: Judge, key: str | None, response: Any) -> UserError:
    """What a response other than 200 comes to."""
    status, said = response.status_code, _shown(key, _message(response))
    told = f" ({status}): {said}" if said else f" ({status})"
    if status in (401, 403):
        has = f"check the key in {judge.api_key_env}" if key else "name the variable of its key in judge.api_key_env"
        return UserError(f"the judge refuses access{told}", where=judge.url, mend=has)
    if status == 404:
        mend = "check judge.model, and that judge.url is the address in front of /chat/completions"
        return UserError(
            f"the judge has no model {judge.model!r}, or no such address{told}", where=judge.url, mend=mend
        )
    if status == 429:
        return UserError(f"the judge takes no more requests{told}", where=judge.url, mend="lower judge.concurrency")
    if status >= 500:
        return UserError(f"the judge fails{told}", where=judge.url)
    mend = "fields of the request can be set or taken away in judge.body" if status in (400, 422) else ""
    return UserError(f"the judge refuses the request{told}", where=judge.url, mend=mend)


def _message(response: Any) -> str:
    """The message of an error with its code, as OpenAI's API writes them, or what else stands there."""
    try:
        error = response.json()["error"]
        return f"{error['message']}" + (f" [{error['code']}]" if error.get("code") else "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return str(response.text)


def _shown(key: str | None, text: str) -> str:
    """A text of the endpoint on one line, shortened, without the key that it may repeat."""
    line = " ".join(text.split())
    line = line.replace(key, "…") if key else line
    return line if len(line) <= 200 else f"{line[:199]}…"
