"""The block of an eval recipe that says who judges replies, and where. The sentence under a field is its help."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from smolalign.recipe.block import PositiveInt, Strict

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_PATH = "/chat/completions"
# What the program itself says in a request.
_OURS = ("model", "messages", "stream", "n")


class Judge(Strict):
    """A model behind an OpenAI-compatible endpoint that judges replies."""

    url: str
    """The endpoint's address, up to where `/chat/completions` follows, such as `https://api.openai.com/v1`."""
    model: str
    """Which of its models judges."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, such as `OPENAI_API_KEY`; the key itself stands nowhere."""
    concurrency: PositiveInt = 4
    """Requests at once."""
    max_tokens: PositiveInt = 2048
    """Longest judgement, in tokens."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120
    """How long a request may take without a sign of the endpoint."""
    tries: PositiveInt = 8
    """How often a request is sent before the step fails: after 429, 5xx, and a connection that was cut."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body; null takes one away: `{max_tokens: null, max_completion_tokens: 4096}`."""

    @field_validator("url")
    @classmethod
    def an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is none
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an endpoint's address, such as http://localhost:8000/v1, is expected")
        if parts.path.rstrip("/").endswith(_PATH):
            raise ValueError(f"the address ends before {_PATH}, which is added")
        return url.rstrip("/")

    @model_validator(mode="after")
    def no_secrets(self) -> Judge:
        # Checked on the block as a whole, whose values an error does not repeat.
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                "api_key_env is the name of an environment variable in capitals, such as OPENAI_API_KEY, never a key"
            )
        if "@" in urlsplit(self.url).netloc:
            raise ValueError("url must hold no user and no password; name the key's variable in api_key_env")
        if name := next((name for name in _OURS if name in self.body), None):
            raise ValueError(f"body.{name} is set by the program")
        return self
