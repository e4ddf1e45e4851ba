"""A model as lm-evaluation-harness asks for it, with requests that share computation.

Texts become tokens exactly as harness's own `hf` model makes them (`lm_eval/models/huggingface.py`, 0.4.13): a context
and its continuation are encoded together, special tokens are added by the tokenizer's own rule unless the text begins
with the prefix token, and what is too long is cut at its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from smolalign.errors import UserError
from smolalign.eval.continuations import Continuation, score
from smolalign.eval.journal import Journal
from smolalign.serve.offline import Answer, answer_all
from smolalign.serve.row import Ask
from smolalign.serve.sampling import Sampling

# Tokens of an answer where a task does not say, as harness's `hf` model has it.
MAX_NEW_TOKENS = 256
# Settings of generation that change nothing here: harness gives them beside those that do.
_IGNORED = frozenset({"do_sample", "temperature", "until", "max_gen_toks"})


class HarnessModel(TemplateLM):
    """What harness's tasks are measured with.

    Args:
        model: a causal language model.
        tokenizer: its own.
        batch_size: answers generated at once.
        progress: told what is done, and of how many.
        journal: where answers and scores are kept, and those of an earlier run lie.

    Attributes:
        cut: requests so far whose context was cut at its beginning, since it was longer than the model reads.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        journal: Journal | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._device, self._progress, self._journal = model.device, progress, journal or Journal()
        self.max_length = resolve_max_length(model.config, tokenizer)
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a continuation without a context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; None leaves special tokens to the tokenizer, unless the text has its prefix already."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation, to be answered, or to be gone on with where its last turn is the answer's."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As harness has it, without its bar."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation, and whether greedy decoding would write it.

        Args:
            requests: texts, which are not read, ids of the context and ids of the continuation.
        """
        asked = [Continuation(context, tokens) for _, context, tokens in requests]
        for one in asked:
            if not 0 < len(one.tokens) <= self.max_length:
                what = f"an answer of {len(one.tokens)} tokens"
                raise UserError(f"{what} cannot be scored: the model reads {self.max_length} at most")
        self.cut += sum(len(one.context) + len(one.tokens) > self.max_length + 1 for one in asked)
        recalled = self._journal.of("log_prob", [[list(one.context), list(one.tokens)] for one in asked])
        return score(
            self.model,
            asked,
            self.max_length,
            done=lambda done: self._progress(done, len(asked)),
            scored=recalled.keep,
            known={place: tuple(found) for place, found in recalled.known.items()},
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each whole text, every token behind as many others as the model reads."""
        windows: list[tuple[int, Any, list[int], list[int]]] = []
        for index, request in enumerate(requests):
            parts = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            windows += [(index, None, *make_disjoint_window(part)) for part in parts]
        totals = [0.0] * len(requests)
        results = self._loglikelihood_tokens([window[1:] for window in windows])
        for (index, *_), (log_prob, _) in zip(windows, results, strict=True):
            totals[index] += log_prob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each request up to its first stop string, which is left out."""
        asks, stops = [], []
        for request in requests:
            context, settings = request.args
            ask, until = self._ask(context, settings)
            asks.append(ask)
            stops.append(until)
        texts = self._answers(asks)
        return [postprocess_generated_text(text, until, None) for text, until in zip(texts, stops, strict=True)]

    def _ask(self, context: str, settings: dict[str, Any]) -> tuple[Ask, list[str]]:
        settings = normalize_gen_kwargs(settings, MAX_NEW_TOKENS)
        unknown = settings.keys() - _IGNORED
        if unknown or settings["do_sample"]:
            what = ", ".join(sorted(unknown)) or "sampling"
            raise UserError(f"the task asks for generation with {what}", mend="take one that decodes greedily")
        until = handle_stop_sequences(list(settings["until"]), self.tokenizer.decode(self.eot_token_id))
        room = self.max_length - settings["max_gen_toks"]
        if room < 1:
            raise UserError(
                f"the task asks for {settings['max_gen_toks']} new tokens, and the model reads {self.max_length}",
                mend="take a model that reads more",
            )
        ids = self.tok_encode(context)
        self.cut += len(ids) > room
        stop = tuple(one for one in until if one)
        return Ask(tuple(ids[-room:]), settings["max_gen_toks"], Sampling(temperature=0.0), stop), until

    def _answers(self, asks: Sequence[Ask]) -> list[str]:
        """The text of each answer."""
        recalled = self._journal.of("answer", [[list(ask.prompt), ask.max_tokens, list(ask.stop)] for ask in asks])
        texts = dict(recalled.known)
        left = [place for place in range(len(asks)) if place not in texts]

        def take(index: int, answer: Answer) -> None:
            texts[left[index]] = answer.text
            recalled.keep(left[index], answer.text)
            self._progress(len(texts), len(asks))

        answer_all(
            self.model, self.tokenizer, [asks[place] for place in left], max_batch=self.batch_size, answered=take
        )
        return [texts[place] for place in range(len(asks))]
