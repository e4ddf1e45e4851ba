"""The JSON that OpenAI's API answers with."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from smolalign.serve.answer import Answer, call_to_openai
from smolalign.serve.row import Scored


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens read and written; a stop token counts as written."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Envelope:
    """What all JSON of one answer has in common.

    Args:
        model: the model's name.
        chat: of a chat completion, not of a text completion.
        tokenizer: writes the tokens that log-probabilities belong to.
    """

    def __init__(self, model: str, *, chat: bool, tokenizer: Any) -> None:
        self._chat, self._tokenizer = chat, tokenizer
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._common = {"id": name, "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
        """The answer of a request without `stream`."""
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._common, "object": kind, "choices": list(choices), "usage": used}

    def chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One event of a stream."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._common, "object": kind, "choices": list(choices), **more}

    def chat_choice(self, index: int, answer: Answer, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """A choice with its whole message."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
        if answer.calls:
            message["tool_calls"] = [call_to_openai(call) for call in answer.calls]
        else:
            message["content"] = answer.text
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}

    def chat_logprobs(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        """Log-probabilities as chat completions give them."""
        return {"content": [self._token(one) for one in tokens], "refusal": None}

    def text_logprobs(self, tokens: Sequence[Scored], start: int = 0) -> dict[str, Any]:
        """Log-probabilities as text completions give them; `start` is the first token's place in the text."""
        texts, offsets = [self._text(one.token) for one in tokens], []
        for text in texts:
            offsets.append(start)
            start += len(text)
        tops = [
            None if one.logprob is None else {self._text(token): logprob for token, logprob in one.top}
            for one in tokens
        ]
        logprobs = [one.logprob for one in tokens]
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}

    def _token(self, one: Scored) -> dict[str, Any]:
        top = [{**self._named(token), "logprob": logprob} for token, logprob in one.top]
        return {**self._named(one.token), "logprob": one.logprob, "top_logprobs": top}

    def _named(self, token: int) -> dict[str, Any]:
        text = self._text(token)
        # A token that is a part of a character has no text from which its bytes could be told.
        return {"token": text, "bytes": None if "�" in text else list(text.encode())}

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])
