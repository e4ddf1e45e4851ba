"""Generation held to a grammar: JSON by a schema, or well-formed tool calls. The grammars are llguidance's.

llguidance computes each step's tokens on the fly from a lexer and an Earley parser in Rust, refuses schema keywords
that it does not hold to, and needs nothing but itself, while xgrammar compiles masks beforehand and brings tvm along.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from transformers import LogitsProcessor

from smolalign.chat.calls import CLOSE_TAG, OPEN_TAG
from smolalign.chat.render import render_text
from smolalign.data.strict_json import JsonProblem, dump, parse, shorten
from smolalign.errors import UserError
from smolalign.rows import Message, ToolCall

Dialect = Literal["smollm2", "hermes"]

# As the chat template writes calls: one blank after commas and colons, none elsewhere, so that a model can neither
# leave what it was trained on nor write blanks for ever.
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}
# Building it reads the whole vocabulary, up to a second.
_TOKENIZERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@dataclass(frozen=True)
class Grammar:
    """What a reply must be, for any tokenizer.

    `write` gives the grammar in llguidance's Lark, for a tokenizer in which some texts are special tokens: it is called
    with a function from a text to its Lark symbol and whether that is a special token.
    """

    write: Callable[[Callable[[str], tuple[str, bool]]], str]

    def processor(self, tokenizer: Any) -> GrammarProcessor:
        """The logits processor for one call of `generate`, greedy or sampling, of any number of rows.

        Raises:
            UserError: llguidance is not installed, or does not read this tokenizer.
        """
        reader = _reader(tokenizer)
        vocabulary = tokenizer.get_vocab()

        def symbol(text: str) -> tuple[str, bool]:
            number = vocabulary.get(text)
            special = number is not None and reader.is_special_token(number)
            return (f"<[{number}]>", True) if special else (json.dumps(text), False)

        return GrammarProcessor(reader, self.write(symbol))


class GrammarProcessor(LogitsProcessor):
    """Leaves a row only the tokens with which the grammar goes on, with the stop token where it may end.

    Rows keep their place from step to step (no beam search). Made for one generation; its prompts do not count.
    """

    def __init__(self, reader: Any, grammar: str) -> None:
        self._reader, self._grammar = reader, grammar
        self._matchers: list[Any] = []
        self._length = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `[rows, vocabulary]` with minus infinity for what is forbidden after `input_ids` `[rows, length]`.

        Raises:
            UserError: the grammar is too complex to go on.
            ValueError: it is not the same rows, one token longer.
        """
        import llguidance
        import numpy
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        if not self._matchers:
            grammar = llguidance.LLMatcher.grammar_from_lark(self._grammar)
            self._matchers = [llguidance.LLMatcher(self._reader, grammar, log_level=0) for _ in range(len(input_ids))]
        elif input_ids.shape != (len(self._matchers), self._length + 1):
            raise ValueError("a grammar goes on with the same rows, one token longer each time")
        else:
            for matcher, token in zip(self._matchers, input_ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        self._length = input_ids.shape[1]
        bits = allocate_token_bitmask(len(self._matchers), self._reader.vocab_size)
        for row, matcher in enumerate(self._matchers):
            if matcher.is_error():
                said = matcher.get_error().partition("<state>")[0].strip()
                raise UserError(f"the reply cannot be held to its grammar: {said[:200]}")
            fill_next_token_bitmask(matcher, bits, row)
        allowed = numpy.unpackbits(bits.view(numpy.uint8), axis=1, bitorder="little")
        # Embeddings may have rows that the tokenizer has no token for.
        mask = torch.zeros(scores.shape, dtype=torch.bool)
        width = min(self._reader.vocab_size, scores.shape[1])
        mask[:, :width] = torch.from_numpy(allowed[:, :width]).bool()
        return scores.masked_fill(~mask.to(scores.device), -torch.inf)  # type: ignore[return-value]


def read_schema(file: Path) -> Any:
    """What a JSON file holds. Raises UserError where it cannot be read or is not JSON."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=str(file)) from None
    except JsonProblem as problem:
        raise UserError(f"not JSON: {problem.what}", where=f"{file}:{problem.line}") from None


def json_schema(schema: Mapping[str, Any]) -> Grammar:
    """Replies that are JSON by a schema and nothing else, with keys in the schema's order.

    Raises:
        UserError: it is no JSON schema, nothing can satisfy it, or it asks for what cannot be held to.
    """
    rule = f"start: %json {_styled(schema, 'the schema')}\n"
    return Grammar(lambda _symbol: rule)


def tool_calls(tools: Sequence[Mapping[str, Any]], *, required: bool, dialect: Dialect = "smollm2") -> Grammar:
    """Replies that are text, or text and then calls of the tools, or the latter alone.

    Text never has the opening tag in it, so whatever begins as a call is one: a listed name, arguments by that tool's
    schema. At the top, arguments that the schema does not name are left out.

    Args:
        tools: bare schemas, `{"name", "description", "parameters"}`.
        required: the reply is calls, one or more, without text. Otherwise an empty list says that none fits.
        dialect: `smollm2`, all calls as a list in one pair of tags; `hermes`, one object a pair of tags.

    Raises:
        UserError: there are no tools, or one's schema cannot be held to.
    """
    if not tools:
        raise UserError("there is no tool to call")
    options = [_call(tool) for tool in tools]

    def write(symbol: Callable[[str], tuple[str, bool]]) -> str:
        (opening, special), (closing, _) = symbol(OPEN_TAG), symbol(CLOSE_TAG)
        rules = _calls(options, opening, closing, required=required, dialect=dialect)
        if not required:
            rules += _text_or_calls(opening, special=special)
        return rules

    return Grammar(write)


def dialect_of(tokenizer: Any) -> Dialect:
    """How the model's chat template writes two calls: as a list in one pair of tags, or each in its own."""
    calls = Message("assistant", "", (ToolCall("a", {}), ToolCall("b", {})))
    written = render_text(tokenizer, [Message("user", "Hi"), calls])
    return "hermes" if written.count(OPEN_TAG) == 2 else "smollm2"


def _calls(options: Sequence[str], opening: str, closing: str, *, required: bool, dialect: Dialect) -> str:
    """Rules up to `calls`: all calls and tags but for the first opening tag; `start` where calls are required."""
    call = "call: " + " | ".join(f"call_{number}" for number in range(len(options))) + "\n"
    call += "".join(f"call_{number}: {option}\n" for number, option in enumerate(options))
    if dialect == "hermes":
        none = "" if required else f' | "\\n[]\\n" {closing}'
        body = f'calls: one ("\\n" {opening} one)*{none}\none: "\\n" call "\\n" {closing}\n'
    else:
        inside = 'call (", " call)*'
        body = f'calls: "[" {inside if required else f"({inside})?"} "]" {closing}\n'
    return call + body + (f"start: {opening} calls\n" if required else "")


def _text_or_calls(opening: str, *, special: bool) -> str:
    """The rule `start` of text, calls, or both; a lazy rule ends with the first opening tag that it finds."""
    if special:
        # Spelled in letters the tag would be no token, but read as one in the text.
        text = f"TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN_TAG}(?s:.*)/\n"
        return f"start: TEXT | TEXT {opening} calls\n{text}"
    return f"start: TEXT | opening calls\nopening[lazy]: TEXT {opening}\nTEXT: /(?s:.*)/\n"


def _call(tool: Mapping[str, Any]) -> str:
    """The right side of a rule: one call of a tool, in Lark."""
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    where = f"the parameters of {tool['name']}"
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        raise UserError(f"{where} must be a schema of an object, not {shorten(parameters)}")
    # Of a tool that names its arguments, others would be a guess.
    if isinstance(parameters.get("properties"), Mapping) and not parameters.keys() & {
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
    }:
        parameters = {"additionalProperties": False, **parameters}
    before = json.dumps(f'{{"name": {dump(tool["name"])}, "arguments": ')
    return f'{before} %json {_styled(parameters, where)} "}}"'


def _styled(schema: Mapping[str, Any], what: str) -> str:
    """The schema as JSON text that llguidance holds to, in our style of JSON. Raises UserError."""
    if not isinstance(schema, Mapping):
        raise UserError(f"{what} is no JSON schema: {shorten(schema)}")
    matcher = _llguidance().LLMatcher
    try:
        text = json.dumps({**schema, "x-guidance": STYLE})
        failed, said = matcher.validate_grammar_with_warnings(matcher.grammar_from_json_schema(text))
    except (ValueError, RecursionError) as error:
        failed, said = True, [str(error)]
    if failed:
        lines = said[0].strip().splitlines()
        reason = lines[-1] if lines[0].startswith("regex parse error") else lines[0]
        raise UserError(
            f"{what} cannot be held to: {reason[:200]}", mend="leave that keyword out, or generate without a grammar"
        )
    return text


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UserError(
            "replies are held to a grammar by llguidance, which is not installed",
            mend="pip install 'smolalign[constrained]'",
        ) from None
    return llguidance


def _reader(tokenizer: Any) -> Any:
    """llguidance's view of a tokenizer, with the tokenizer's end of sequence as stop token."""
    _llguidance()
    from llguidance.hf import from_tokenizer

    if tokenizer not in _TOKENIZERS:
        try:
            _TOKENIZERS[tokenizer] = from_tokenizer(tokenizer, eos_token=tokenizer.eos_token_id)
        except ValueError as error:
            raise UserError(f"llguidance cannot read the model's tokenizer: {str(error)[:200]}") from None
    return _TOKENIZERS[tokenizer]
