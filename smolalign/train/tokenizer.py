"""The tokenizer that a base model begins with: byte-level BPE with SmolLM2's special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from smolalign.chat.render import render_text
from smolalign.chat.template import STOP_TOKEN, chat_template
from smolalign.rows import Chat, Document, Row

END_OF_TEXT = "<|endoftext|>"

# SmolLM2's special tokens, in the order of their ids (its tokenizer_config.json).
SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    STOP_TOKEN,
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, template: str, max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which every digit is a token of its own, as SmolLM2's is.

    Args:
        texts: what it learns its merges from.
        vocab_size: number of tokens, the 17 special ones and the 256 bytes included.
        template: name of the chat template it carries.
        max_length: of the model it is for, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Padding is not the stop token, so that no masking of padding can ever hide the stop token from the loss.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token=STOP_TOKEN,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=chat_template(template),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def tokenizer_texts(rows: Iterable[Row], template: str) -> Iterator[str]:
    """The texts from which merges are learned: documents, and chats as the template renders them, tools included.

    Special tokens are left out: they are never split, so no merge should be spent on them.
    """
    renderer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=chat_template(template))
    special = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
    for row in rows:
        if isinstance(row, Document):
            yield row.text
        elif isinstance(row, Chat):
            yield from filter(None, special.split(render_text(renderer, row.messages, row.tools)))
