"""What the stand-in for the Hub holds: tiny models and datasets under the ids, with the file layouts, splits and
columns of the published ones. Every row is made up here."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hub import Files

Record = dict[str, Any]

# The first tokens of SmolLM2's vocabulary, in their order.
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>"),
    *("<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>"),
    *("<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"),
]
# Heads, key-value heads, width of a head (the published ones': 64), of the middle of a layer, and rotary base.
SHAPES = {
    "135M": (9, 3, 8, 192, 100_000.0),
    "360M": (15, 5, 8, 320, 100_000.0),
    "1.7B": (8, 8, 8, 256, 130_000.0),
}

# What the instruct models' own templates write, without the marks that training needs.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained "
    "by Hugging Face<|im_end|>\n{% endif %}{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    "{{ turn['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def parquet(records: Sequence[Record], schema: pa.Schema | None = None) -> bytes:
    """A Parquet file of records."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records), schema), stream)
    return stream.getvalue()


def dataset(configs: Mapping[str, Mapping[str, Sequence[Record]]], folder: str = "{config}", shards: int = 1) -> Files:
    """A dataset as it is pushed to the Hub: Parquet shards, and a card that says which config and split they are.

    Args:
        configs: the records of each split of each config.
        folder: of a config's files.
        shards: into which each split is cut.
    """
    files: dict[str, str | bytes] = {}
    listed = []
    for config, splits in configs.items():
        place = folder.format(config=config)
        listed.append(
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{place}/{split}-*"} for split in splits],
                **({"default": True} if config == "all" else {}),
            }
        )
        for split, records in splits.items():
            schema = pa.Table.from_pylist(list(records)).schema
            for shard in range(shards):
                name = f"{place}/{split}-{shard:05}-of-{shards:05}.parquet"
                files[name] = parquet(records[shard::shards], schema)
    files["README.md"] = f"---\n{json.dumps({'configs': listed})}\n---\n# A set of rows\n"
    return files


def in_data(**splits: Sequence[Record]) -> Files:
    """A dataset of one config, whose files lie in `data/`."""
    return dataset({"default": splits}, "data")


# --- models ----------------------------------------------------------------------------------------------------------


@functools.cache
def _tokenizer() -> str:
    """`tokenizer.json`: byte-level BPE as SmolLM2's, over fewer merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([json.dumps(row) for row in [*chat_rows(40), *pair_rows(40)]], trainer)
    return tokenizer.to_str()


@functools.cache
def smollm2(size: str, instruct: bool, shard_size: str = "5GB") -> Files:
    """A model of SmolLM2's architecture and special tokens, two layers deep, with random weights in bf16.

    Args:
        size: of `SHAPES`.
        instruct: whether it has the chat template and the stop token of the instruct models.
        shard_size: above which its weights are cut into several files.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads, kv_heads, head, middle, theta = SHAPES[size]
    stop = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=heads * head,
        intermediate_size=middle,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        initializer_range=0.04,
        **(stop if instruct else {"bos_token_id": 0, "eos_token_id": 0}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        # Its replies are short: every token says a little of this, and <|im_end|> all of it.
        embeddings = model.get_input_embeddings().weight
        embeddings[:, 0], embeddings[2] = 0.1, 0
        embeddings[2, 0] = 2
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place, max_shard_size=shard_size)
        files: dict[str, str | bytes] = {file.name: file.read_bytes() for file in Path(place).iterdir()}
    named = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[0], "unk_token": SPECIAL[0]}
    if instruct:
        named = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "unk_token": SPECIAL[0], "pad_token": SPECIAL[2]}
    described: Record = {
        **named,
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 8192,
        "add_prefix_space": False,
    }
    if instruct:
        described["chat_template"] = CHAT_TEMPLATE
    files["tokenizer.json"] = _tokenizer()
    files["tokenizer_config.json"] = json.dumps(described)
    files["special_tokens_map.json"] = json.dumps(named)
    files["README.md"] = "---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# A model\n"
    return files


def models() -> dict[str, Files]:
    """The six models."""
    return {
        f"HuggingFaceTB/SmolLM2-{size}{'-Instruct' * instruct}": smollm2(size, instruct)
        for size in SHAPES
        for instruct in (False, True)
    }


# --- what is trained on ----------------------------------------------------------------------------------------------


def turns(*said: str, system: str = "") -> list[Record]:
    """Turns of user and assistant by turns, after a system turn if there is one."""
    first = [{"content": system, "role": "system"}] if system else []
    return first + [{"content": text, "role": ("user", "assistant")[index % 2]} for index, text in enumerate(said)]


def chat_rows(count: int, source: str = "smol-magpie-ultra-short") -> list[Record]:
    """Chats of different lengths, as SmolTalk has them."""
    return [
        {
            "messages": turns(
                f"How many boats lie in harbour {number}, and who paints them in spring?",
                f"There are {number} boats." + " Each is painted by its own skipper." * (number % 4),
                system="You answer in short sentences." if number % 5 == 0 else "",
            ),
            "source": source,
        }
        for number in range(count)
    ]


def pair_rows(count: int, said: str = "boats") -> list[Record]:
    """Preferences, as UltraFeedback binarized has them."""
    rows = []
    for number in range(count):
        prompt = f"Count to {number % 7 + 2} in {said}, and then say which number came last."
        answers = (f"The last number is {number % 7 + 2}.", "I would rather not." + " No." * (number % 3))
        chosen, rejected = (turns(prompt, answer) for answer in answers)
        rows.append(
            {
                "prompt": prompt,
                "prompt_id": f"{number:064x}",
                "chosen": chosen,
                "rejected": rejected,
                "messages": chosen,
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            }
        )
    return rows


def call_rows(count: int) -> list[Record]:
    """Questions with tools, as Synth-APIGen has them; every eighth is refused in words, the next calls nothing."""
    tool = {
        "name": "count_seats",
        "description": "Count the free seats of a tram.",
        "parameters": {"line": {"type": "str", "description": "The line."}},
    }
    rows = []
    for number in range(count):
        answers = json.dumps([{"name": "count_seats", "arguments": {"line": f"L{number}"}}])
        answers = {1: "The question lacks the parameters required by the function.", 2: "[]"}.get(number % 8, answers)
        rows.append(
            {
                "func_name": "count_seats",
                "func_desc": tool["description"],
                "tools": json.dumps([tool]),
                "query": f"How many seats are free on tram L{number}?",
                "answers": answers,
                "model_name": "none",
                "hash_id": f"{number:x}",
            }
        )
    return rows


def training_sets(rows: int = 40) -> dict[str, Files]:
    """The sets that the recipes train on."""
    pairs, more = pair_rows(rows), pair_rows(8, "candles")
    config = {"train": chat_rows(rows, "numina-cot-100k"), "test": chat_rows(8, "numina-cot-100k")}
    return {
        "HuggingFaceTB/smoltalk": dataset({"all": config, "longalign": config}, "data/{config}", shards=2),
        "HuggingFaceTB/smol-smoltalk": dataset(
            {"default": {"train": chat_rows(rows), "test": chat_rows(8)}}, "data", shards=4
        ),
        "HuggingFaceH4/ultrafeedback_binarized": in_data(
            train_prefs=pairs, train_sft=pairs, test_prefs=more, test_sft=more, train_gen=pairs, test_gen=more
        ),
        "argilla/Synth-APIGen-v0.1": in_data(train=call_rows(rows)),
    }
