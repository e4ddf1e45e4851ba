"""The tokenizer that is trained has the shape of SmolLM2's published one, which the GGUF file of SmolLM2 holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smolalign.train.tokenizer import SPECIAL_TOKENS, train_tokenizer

NAMED = os.environ.get("SMOLALIGN_GGUF", "")
pytestmark = [
    pytest.mark.gguf,
    pytest.mark.skipif(not Path(NAMED).is_file(), reason="SMOLALIGN_GGUF names no SmolLM2-135M-Instruct.Q4_1.gguf"),
]


def test_special_tokens_and_digits_are_those_of_the_published_vocabulary() -> None:
    from gguf import GGUFReader

    field = GGUFReader(NAMED).fields["tokenizer.ggml.tokens"]
    published = [bytes(field.parts[place]).decode() for place in field.data]
    assert len(published) == 49152
    assert tuple(published[:17]) == SPECIAL_TOKENS
    ours = train_tokenizer(["1234 and 12 and 34 12 34 12 34"] * 50, 300, "chatml", 64)
    assert ours.convert_ids_to_tokens(range(17)) == published[:17]
    for vocabulary in (published[17:], list(ours.get_vocab())):
        assert not [token for token in vocabulary if set(token) & set("0123456789") and len(token) > 1]
    assert ours.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12")[-2:] == [("1", (2, 3)), ("2", (3, 4))]
