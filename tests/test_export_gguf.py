"""`export --to gguf`: what is in the file, that it is read back, and that nothing is left of one that was cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Ran, tiny_tokenizer
from gguf import GGUFReader
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM

import smolalign.export.gguf
import smolalign.export.gguf_llama
import smolalign.export.run
from smolalign.export.gguf_tokens import PRE_TOKENIZERS, unmarked, vocabulary
from smolalign.export.run import Wishes
from smolalign.model import load_gguf_tokenizer, load_tokenizer

Cli = Callable[..., Ran]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refused(ran: Ran, said: str) -> None:
    assert ran.code == 2, ran.out + ran.err
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    assert said in ran.err


def test_each_type_is_a_file_that_was_read_back(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    types = ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
    ran = cli("export", tiny_model, "--to", "gguf", "--out", tmp_path / "all", "--types", ",".join(types))
    assert ran.code == 0, ran.err
    assert {path.name for path in (tmp_path / "all").iterdir()} == {f"all-{name}.gguf" for name in types}
    for name in types:
        assert f"all-{name}.gguf: logits within " in ran.out
        stored = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "all" / f"all-{name}.gguf").tensors}
        assert stored.pop("token_embd.weight") == ("Q8_0" if name[:2] in ("q4", "q5") else name.upper())
        assert {kind for tensor, kind in stored.items() if "norm" in tensor} == {"F32"}
        assert {kind for tensor, kind in stored.items() if "norm" not in tensor} == {name.upper()}


def test_f32_computes_and_encodes_the_same(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "small.gguf"
    assert cli("export", tiny_model, "--to", "gguf", "--out", out, "--types", "f32", "--license", "mit").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"]
    before, after = load_tokenizer(str(tiny_model)), load_gguf_tokenizer(out)
    text = "In  1969 and   7 more:\n\n\t12 cats <|im_end|> 🎉"
    assert before(text)["input_ids"] == after(text)["input_ids"]
    ids = torch.tensor([before(text)["input_ids"]])
    with torch.no_grad():
        mine = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)(ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=out.name, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    fields = {name: field.contents() for name, field in GGUFReader(out).fields.items()}
    assert fields["general.license"] == "mit"
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.token_type"][:17] == [3] * 17
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (4, 2)
    assert "endgeneration" not in fields["tokenizer.chat_template"]


def test_a_gguf_file_is_exported_again_with_the_same_values(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    assert cli("export", tiny_model, "--to", "gguf", "--out", first).code == 0
    assert cli("export", first, "--to", "gguf", "--out", second).code == 0
    fields = {name: GGUFReader(second).fields[f"tokenizer.ggml.{name}"].contents() for name in ("pre", "tokens")}
    assert fields == {name: GGUFReader(first).fields[f"tokenizer.ggml.{name}"].contents() for name in fields}
    for one, two in zip(GGUFReader(first).tensors, GGUFReader(second).tensors, strict=True):
        assert np.array_equal(one.data, two.data)


def test_a_file_that_is_not_the_model_is_removed(
    tiny_model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smolalign.export.gguf_llama, "interleaved", lambda values, heads: values)
    ran = cli("export", tiny_model, "--to", "gguf", "--out", tmp_path / "new" / "wrong.gguf", "--types", "f32")
    assert ran.code == 1
    assert "read back, is not the model: logits differ by up to" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, *_: object) -> None:
        assert file.stat().st_size
        raise KeyboardInterrupt

    monkeypatch.setattr(smolalign.export.gguf, "check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smolalign.export.run.export(str(tiny_model), Wishes("gguf", out=tmp_path / "new" / "a.gguf"), print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [signal.SIGKILL, signal.SIGINT])
def test_an_export_that_is_stopped_leaves_no_file_of_that_name(
    stopped: signal.Signals, tiny_model: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, time; from smolalign import cli; import smolalign.export.gguf as gguf\n"
        "gguf.check = lambda *_: (print('written', flush=True), time.sleep(60))\n"
        f"sys.argv = ['smolalign', 'export', {str(tiny_model)!r}, '--to', 'gguf', '--out', 'new/small.gguf']\n"
        "cli.main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=-1, stderr=-3, text=True
    ) as child:
        assert child.stdout
        assert any("written" in line for line in child.stdout)
        child.send_signal(stopped)
        assert child.wait(30) == (-9 if stopped == signal.SIGKILL else 130)
    visible = [
        path for path in tmp_path.rglob("*") if not path.relative_to(tmp_path / "new").as_posix().startswith(".")
    ]
    assert [path.name for path in visible if path.is_file()] == []
    if stopped == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    tiny_model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", full)
    refused(cli("export", tiny_model, "--to", "gguf", "--out", tmp_path / "a.gguf"), "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "qwen2"}, "the model is of type qwen2; to GGUF goes llama alone"),
        ({"attention_bias": True}, "the model has biases, which this export cannot write"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rotary embeddings of type"),
        ({"intermediate_size": 96}, "does not fit config.json: it should be [32, 96]"),
        ({"num_hidden_layers": 3}, "9 weights are missing"),
    ],
)
def test_a_model_that_gguf_cannot_hold_is_refused(
    change: dict[str, object], said: str, model: Path, tmp_path: Path, cli: Cli
) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    refused(cli("export", model, "--to", "gguf", "--out", tmp_path / "a.gguf"), said)


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(model: Path, tmp_path: Path, cli: Cli) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    said = "it splits texts in a way that has no name there (Digits, ByteLevel); known are smollm, gpt-2, llama-bpe"
    refused(cli("export", model, "--to", "gguf", "--out", tmp_path / "a.gguf"), said)


def test_pre_tokenizers_are_known_by_what_they_are() -> None:
    for name, (parts, whole_words) in PRE_TOKENIZERS.items():
        tokenizer = tiny_tokenizer()
        made = []
        for kind, fields in parts:
            given = dict(fields)
            if kind == "Split":
                given = {"pattern": Regex(given["pattern"]["Regex"]), "behavior": "isolated", "invert": False}
            made.append(getattr(pre_tokenizers, kind)(**given))
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(made)
        tokenizer.backend_tokenizer.model.ignore_merges = whole_words
        found = vocabulary(tokenizer, len(tokenizer) + 2)
        assert found.pre == name
        assert found.tokens[-2:] == [f"[PAD{len(tokenizer)}]", f"[PAD{len(tokenizer) + 1}]"]


def test_marks_of_training_leave_the_template_and_its_spaces() -> None:
    template = "a {%- generation -%} b {% generation %} c {% endgeneration -%} d {%- endgeneration %}"
    expected = "a {%- if true -%} b {% if true %} c {% endif -%} d {%- endif %}"
    assert unmarked(template) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "{new}.gguf", "--types", "f16,q8_0"], "2 types do not go into one file → name a folder"),
        (["--out", "{new}", "--types", "q6_k"], "no type 'q6_k' of weights in GGUF"),
        ([], "--to gguf needs a file or a folder to write"),
        (["--out", "{there}/config.json"], "is there already"),
    ],
)
def test_mistakes_end_in_one_line(options: list[str], said: str, tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    places = {"new": tmp_path / "new", "there": tiny_model}
    refused(cli("export", tiny_model, "--to", "gguf", *(option.format(**places) for option in options)), said)
    assert list(tmp_path.iterdir()) == []
