"""A tokenizer as GGUF keeps it: its tokens with their types, its merges, and the name of how it splits text before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType

from smolalign.errors import UserError

# How Llama 3 splits text before it is encoded (its tokenizer.json).
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = ("ByteLevel", {"add_prefix_space": False, "use_regex": True})
# llama.cpp has no code that reads a pre-tokenizer: it knows them by name (llama-vocab.cpp). Ours by what tokenizer.json
# says, with whether a whole word that is a token is taken without merging (`ignore_merges`), which the name says too.
PRE_TOKENIZERS: dict[str, tuple[list[tuple[str, dict[str, Any]]], bool]] = {
    "smollm": ([("Digits", {"individual_digits": True}), _WORDS], False),
    "gpt-2": ([_WORDS], False),
    "llama-bpe": (
        [
            ("Split", {"pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}),
            ("ByteLevel", {"add_prefix_space": False, "use_regex": False}),
        ],
        True,
    ),
}
# `{% generation %}` says where the loss falls. It means nothing to who renders, and not every engine knows it.
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What GGUF keeps of a tokenizer.

    Attributes:
        pre: llama.cpp's name of its pre-tokenizer.
        tokens: by id, as many as the model has rows.
        types: of each token.
        merges: `left right`, in the order in which they are tried.
        ids: of the tokens that have a part to play, by GGUF's word for it, such as `bos`.
        adds: of `bos` and `eos`, whether encoding puts it around a text.
        template: the chat template, without marks of training; None where there is none.
    """

    pre: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    ids: dict[str, int]
    adds: dict[str, bool]
    template: str | None

    def write(self, writer: GGUFWriter) -> None:
        """Put it into a file's metadata."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for part, add in (
            ("bos", writer.add_bos_token_id),
            ("eos", writer.add_eos_token_id),
            ("unk", writer.add_unk_token_id),
            ("pad", writer.add_pad_token_id),
        ):
            if part in self.ids:
                add(self.ids[part])
        writer.add_add_bos_token(self.adds["bos"])
        writer.add_add_eos_token(self.adds["eos"])
        writer.add_add_space_prefix(False)
        if self.template is not None:
            writer.add_chat_template(self.template)


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """A tokenizer as GGUF keeps it.

    Args:
        tokenizer: byte-level BPE.
        rows: of the model's embeddings; those without a token get one that is marked as unused.

    Raises:
        UserError: llama.cpp would encode texts otherwise.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unfit("it is none of the tokenizers library")
    spec = json.loads(backend.to_str())
    pre = _pre_tokenizer(spec)
    named = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(named) >= rows:
        raise UserError(f"the tokenizer has tokens up to id {max(named)}, the model {rows} rows of embeddings")
    types = dict.fromkeys(named, TokenType.NORMAL)
    for number, added in tokenizer.added_tokens_decoder.items():
        if added.lstrip or added.rstrip or added.single_word:
            raise _unfit(f"its token {added.content} takes spaces beside it along, or none inside words")
        types[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    parts = {part: getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "unk", "pad")}
    return Vocabulary(
        pre=pre,
        tokens=[named.get(number, f"[PAD{number}]") for number in range(rows)],
        types=[types.get(number, TokenType.UNUSED) for number in range(rows)],
        merges=[" ".join(merge) if isinstance(merge, list) else merge for merge in spec["model"]["merges"]],
        ids={part: number for part, number in parts.items() if number is not None},
        adds=_added_around(tokenizer),
        template=template_of(tokenizer),
    )


def template_of(tokenizer: Any) -> str | None:
    """A tokenizer's chat template, `{% generation %}` replaced by a condition that always holds: it renders the same.

    Of several templates, the one that Transformers takes where none is named.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    return None if template is None else unmarked(template)


def unmarked(template: str) -> str:
    """A Jinja template with a condition that always holds in place of each `{% generation %}`."""
    return _GENERATION.sub(lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}", template)


def _pre_tokenizer(spec: Mapping[str, Any]) -> str:
    model = spec["model"]
    if model.get("type") != "BPE":
        raise _unfit(f"it is {model.get('type')}, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise _unfit(f"its model has {name}")
    if spec.get("normalizer"):
        raise _unfit(f"it changes texts first ({spec['normalizer'].get('type')})")
    found = list(_flat(spec.get("pre_tokenizer") or {}))
    for name, (parts, ignore_merges) in PRE_TOKENIZERS.items():
        if bool(model.get("ignore_merges")) == ignore_merges and _is_made_of(found, parts):
            return name
    kinds = ", ".join(str(part.get("type")) for part in found) or "nothing"
    raise _unfit(f"it splits texts in a way that has no name there ({kinds}); known are {', '.join(PRE_TOKENIZERS)}")


def _flat(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if part.get("type") == "Sequence":
        for inner in part["pretokenizers"]:
            yield from _flat(inner)
    elif part:
        yield part


def _is_made_of(found: Sequence[Mapping[str, Any]], parts: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    return len(found) == len(parts) and all(
        part.get("type") == kind and all(part.get(name) == value for name, value in fields.items())
        for part, (kind, fields) in zip(found, parts, strict=True)
    )


def _added_around(tokenizer: Any) -> dict[str, bool]:
    """Which of the first and the last token encoding adds; others are refused."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    bos = len(full) > len(bare) and full[0] == tokenizer.bos_token_id
    eos = len(full) > len(bare) and full[-1] == tokenizer.eos_token_id
    expected = [*([tokenizer.bos_token_id] if bos else []), *bare, *([tokenizer.eos_token_id] if eos else [])]
    if full != expected:
        raise _unfit("it puts other tokens than its first and its last around a text")
    return {"bos": bos, "eos": eos}


def _unfit(why: str) -> UserError:
    return UserError(f"llama.cpp would not encode texts as this tokenizer does: {why}", mend="use --to merged")
