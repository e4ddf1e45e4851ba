"""From sources to token files: once for the same text and tokenizer, whole or not at all, and every token right."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_jsonl

from smolalign.data.assembly.pool import pool
from smolalign.data.tokens import tokenize
from smolalign.data.tokens.files import TokenFiles, open_files
from smolalign.errors import UserError
from smolalign.recipe.schema import PretrainStep
from smolalign.report import Noting, Silent
from smolalign.train import corpus
from smolalign.train.corpus import Corpus, encoder_of, prepare

WORDS = [f"w{number}" for number in range(300)]


def texts(seed: str, count: int) -> list[str]:
    draw = random.Random(seed)
    return [f"{seed} {number} " + " ".join(draw.choices(WORDS, k=draw.randint(0, 40))) for number in range(count)]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of documents, an empty cache, one core, and shards of a thousand bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("smolalign.processes.usable_cores", lambda: 1)
    monkeypatch.setattr(tokenize, "_SHARD_BYTES", (1000, 1000))
    monkeypatch.setattr("smolalign.data.assembly.write._ROWS_PER_GROUP", 20)
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in texts(name, 100)])


def step(**fields: Any) -> PretrainStep:
    given = {"data": [{"source": "a.jsonl"}, {"source": "b.jsonl"}], "tokenizer": {"vocab_size": 400}}
    return PretrainStep(kind="pretrain", **{**given, **fields})


def prepared(folder: str = "step", **fields: Any) -> Corpus:
    return prepare(step(**fields), Path(folder), Silent())


def documents(files: TokenFiles) -> list[list[int]]:
    return [
        part.tolist()
        for shard in range(len(files.shards))
        for part in np.split(files.ids(shard), files.ends(shard)[:-1])
    ]


def contents() -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(Path("cache").rglob("0*")) if file.is_file()}


def watch(monkeypatch: pytest.MonkeyPatch, most: float = float("inf")) -> list[int]:
    """The numbers of the shards that are tokenized; after `most` of them the process is killed, so to speak."""
    done: list[int] = []
    write = tokenize.write_shard

    def watched(folder: Path, number: int, parts: Any, dtype: np.dtype) -> None:
        if len(done) >= most:
            raise KeyboardInterrupt
        write(folder, number, parts, dtype)
        done.append(number)

    monkeypatch.setattr(tokenize, "write_shard", watched)
    return done


def test_each_document_is_its_tokens_and_the_end_and_no_document_is_lost() -> None:
    made = prepared()
    end = made.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert list(made.sources) == ["a.jsonl", "b.jsonl"]
    for name, files in made.sources.items():
        expected = texts(name[0], 100)
        ids = [[*one, end] for one in made.tokenizer(expected, add_special_tokens=False)["input_ids"]]
        assert len(files.shards) > 1
        assert sorted(documents(files)) == sorted(ids)
        assert (files.documents, files.tokens) == (100, sum(map(len, ids)))
        assert files.text_bytes == sum(len(text.encode()) for text in expected)


def test_the_same_text_and_tokenizer_are_tokenized_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = {"model": str(tiny_model)}
    before = prepared(tokenizer=tokenizer)
    done = watch(monkeypatch)
    Path("elsewhere").mkdir()
    Path("a.jsonl").rename("elsewhere/a.jsonl")
    long = {"source": "elsewhere/a.jsonl", "name": "long", "min_tokens": 30}
    after = prepared("other", tokenizer=tokenizer, data=[{"source": "elsewhere/a.jsonl", "name": "all"}, long], seed=7)
    assert not done
    assert list(after.sources) == ["all", "long"]
    assert after.sources["long"] is after.sources["all"]
    assert after.sources["long"].shards == before.sources["a.jsonl"].shards
    assert [entry["rows_in"] for entry in after.report] == [100]
    with Path("b.jsonl").open("a") as stream:
        stream.write('{"text": "one more"}\n')
    prepared("third", tokenizer=tokenizer, data=[{"source": "elsewhere/a.jsonl"}, {"source": "b.jsonl"}])
    assert done == list(range(len(done))) != []


def test_another_tokenizer_another_end_or_other_text_of_the_same_size_is_tokenized_for_itself(tiny_model: Path) -> None:
    fields: dict[str, Any] = {"tokenizer": {"model": str(tiny_model)}, "data": [{"source": "a.jsonl"}]}
    encoder = encoder_of(prepared(**fields).tokenizer)
    [shard] = Path("step/checkpoints/assembly/rows/shards").glob("*.parquet")
    trained = encoder_of(prepared("trained", data=fields["data"]).tokenizer)
    Path("a.jsonl").write_text(Path("a.jsonl").read_text().replace("w1", "w2"))
    changed = prepared("changed", **fields).sources["a.jsonl"]
    encoders = [encoder, replace(encoder, end=encoder.end + 1), trained]
    made = [*(tokenize.tokenized([shard], one, "a", Silent()) for one in encoders), changed]
    found = [documents(files) for files in made]
    assert all(one not in found[:number] for number, one in enumerate(found))
    assert made[0].text_bytes == changed.text_bytes
    assert {document[-1] for document in found[1]} == {encoder.end + 1}


def test_a_killed_tokenizing_goes_on_with_the_next_shard_to_the_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared("whole")
    whole = contents()
    for file in Path("cache").rglob("*"):
        if file.is_file():
            file.unlink()
    with monkeypatch.context() as patched:
        first = watch(patched, most=3)
        with pytest.raises(KeyboardInterrupt):
            prepared()
    assert not list(Path("cache").rglob("manifest.json"))
    second = watch(monkeypatch)
    prepared()
    assert first == [0, 1, 2]
    assert second[:2] == [3, 4]
    assert contents() == whole


@pytest.mark.parametrize("harm", ["a byte", "the end", "a file", "the manifest", "nothing but the time"])
def test_files_that_are_not_what_was_written_are_made_anew_and_said(
    harm: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"tokenizer": {"model": str(tiny_model)}, "data": [{"source": "a.jsonl"}]}
    files = prepared(**fields).sources["a.jsonl"]
    whole, file = contents(), files.shards[1].files()[0]
    if harm == "a byte":
        data = bytearray(file.read_bytes())
        data[5] ^= 1
        file.write_bytes(data)
    elif harm == "the end":
        os.truncate(file, 10)
    elif harm == "a file":
        file.unlink()
    elif harm == "the manifest":
        (file.parent / "manifest.json").write_text("{")
    else:
        os.utime(file, (1, 1))
    done, noting = watch(monkeypatch), Noting(Silent())
    again = prepare(step(**fields), Path("step"), noting).sources["a.jsonl"]
    assert contents() == whole
    assert len(documents(again)) == 100
    assert bool(done) == (harm != "nothing but the time")
    assert len(noting.warnings) == bool(done)
    assert not done or noting.warnings[0].startswith("a.jsonl is tokenized anew: ")


def test_token_files_that_are_not_there_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="no whole token files"):
        open_files(Path("nowhere"))


def test_processes_side_by_side_write_the_files_of_one(tiny_model: Path) -> None:
    fields: dict[str, Any] = {"tokenizer": {"model": str(tiny_model)}, "data": [{"source": "a.jsonl"}]}
    made = prepared(**fields)
    alone = contents()
    shards = sorted(Path("step/checkpoints/assembly/rows/shards").glob("*.parquet"))
    for file in Path("cache").rglob("*"):
        if file.is_file():
            file.unlink()
    with pool(2) as run:
        tokenize.tokenized([shard.absolute() for shard in shards], encoder_of(made.tokenizer), "a", Silent(), run)
    assert contents() == alone


def test_the_tokenizer_learns_from_an_even_sample_of_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    train = corpus.train_tokenizer

    def watched(sample: Any, *rest: Any) -> Any:
        seen.extend(sample)
        return train(seen, *rest)

    monkeypatch.setattr(corpus, "train_tokenizer", watched)
    write_jsonl(Path("b.jsonl"), [{"text": text} for text in texts("b", 300)])
    prepared(tokenizer={"vocab_size": 300, "sample_bytes": 8000})
    sizes = [sum(len(text.encode()) for text in seen if text.startswith(name)) for name in "ab"]
    assert 7000 < sum(sizes) <= 8000
    assert 0.2 < sizes[0] / sum(sizes) < 0.3
    first = list(seen)
    seen.clear()
    prepared("again", tokenizer={"vocab_size": 300, "sample_bytes": 8000})
    assert seen == first


def test_compression_is_measured_on_held_out_text_by_source() -> None:
    write_jsonl(Path("c.jsonl"), [{"text": text} for text in texts("c", 20)])
    made = prepared(eval_data=[{"source": "c.jsonl"}], test_fraction=0.2)
    assert list(made.held_out) == ["c.jsonl", "test"]
    assert made.held_out["test"].documents + sum(one.documents for one in made.sources.values()) == 200
    compression = made.compression
    assert compression.text == "held-out"
    assert set(compression.by_source) == {"a.jsonl", "b.jsonl", "c.jsonl"}
    text = texts("c", 20)
    tokens = sum(map(len, made.tokenizer(text, add_special_tokens=False)["input_ids"]))
    assert compression.by_source["c.jsonl"] == round(sum(len(one.encode()) for one in text) / tokens, 3)
    assert prepared("plain").compression.text == "training"


def test_a_source_of_which_nothing_is_left_is_named() -> None:
    Path("b.jsonl").write_bytes(Path("a.jsonl").read_bytes())
    with pytest.raises(UserError, match=r"b\.jsonl: none of its documents is left"):
        prepared(deduplicate={})


def test_a_tokenizer_is_taken_with_the_recipe_s_template(tiny_model: Path) -> None:
    made = prepared(tokenizer={"model": str(tiny_model)}, template="smollm2", test_fraction=0.1)
    assert "You are a helpful AI assistant named SmolLM" in made.tokenizer.chat_template
    assert made.tokenizer.model_max_length == 2048
    assert documents(made.sources["a.jsonl"])[0][-1] == made.tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_documents_end_with_the_end_of_sequence_where_there_is_no_end_of_text() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"w1": 0, "w2": 1, "</s>": 2, "?": 3}, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    taken = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", unk_token="?")
    assert encoder_of(taken).end == 2
    with pytest.raises(UserError, match="neither <\\|endoftext\\|> nor an end of sequence"):
        encoder_of(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?"))
