"""`smolalign serve`, asked by the official client over a socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from conftest import Ran, tiny_tokenizer

from smolalign.chat.render import render_prompt
from smolalign.model import load_model, load_tokenizer, save_model
from smolalign.recipe.pretraining import Architecture
from smolalign.rows import Message
from smolalign.train.pretrain import new_model

KEY = "open-sesame"
LIGHTS: dict[str, Any] = {
    "name": "set_lights",
    "description": "Switch the lights.",
    "parameters": {
        "type": "object",
        "properties": {"room": {"enum": ["hall", "attic"]}, "on": {"type": "boolean"}},
        "required": ["room", "on"],
    },
}
CLOCK: dict[str, Any] = {
    "name": "clock",
    "description": "The time.",
    "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]},
}
TOOLS: Any = [{"type": "function", "function": tool} for tool in (LIGHTS, CLOCK)]
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "loud": {"type": "boolean"}},
    "required": ["color", "loud"],
    "additionalProperties": False,
}
HI: Any = [{"role": "user", "content": "Hi"}]


class Server:
    """A server in a process of its own, and clients for it."""

    def __init__(self, model: Path, *options: str) -> None:
        self.name = str(model)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smolalign.cli", "serve", self.name, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "500"},
        )
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline()]
        while self.said[-1].startswith("warning"):
            self.said.append(self.process.stdout.readline())
        self.port = int(self.said[-1].strip().removesuffix("/v1").rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60)

    def raw(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Authorization": f"Bearer {KEY}", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def health(self) -> dict[str, Any]:
        status, content = self.raw("GET", "/health")
        assert status == 200
        return content

    def wait_until(self, true: Callable[[dict[str, Any]], bool]) -> None:
        ends = time.monotonic() + 30
        while not true(self.health()):
            assert time.monotonic() < ends, self.health()
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context that tools fit in, and weights that make it decide on what it reads."""
    tokenizer = tiny_tokenizer()
    sizes = Architecture(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    model = new_model(sizes, tokenizer, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    folder = tmp_path_factory.mktemp("served") / "model"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def server(model_folder: Path) -> Iterator[Server]:
    limits = ("--max-batch", "4", "--max-queue", "4", "--max-tokens", "1500", "--max-body-mb", "0.05")
    server = Server(model_folder, "--api-key", KEY, *limits)
    yield server
    code, _, err = server.stop()
    # Whatever the tests did, nothing broke on the way.
    assert (code, err) == (0, "")


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


def test_the_first_line_says_model_and_address(server: Server, model_folder: Path) -> None:
    assert server.said == [f"serving {model_folder} at http://127.0.0.1:{server.port}/v1\n"]


def test_models_lists_the_one_model(client: openai.OpenAI, server: Server) -> None:
    assert [model.id for model in client.models.list()] == [server.name]
    assert client.models.retrieve(server.name).owned_by == "smolalign"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=HI)


def test_a_chat_is_what_the_model_says_greedily(client: openai.OpenAI, server: Server, model_folder: Path) -> None:
    tokenizer, model = load_tokenizer(str(model_folder)), load_model(str(model_folder)).eval()
    prompt = render_prompt(tokenizer, [Message("system", "Be brief."), Message("user", "Hi there")])
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=30, do_sample=False
    )[0, len(prompt) :].tolist()
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi there"}]},
    ]
    answer = client.chat.completions.create(model=server.name, messages=messages, temperature=0, max_tokens=30)
    assert answer.choices[0].message.content == tokenizer.decode(out, skip_special_tokens=True)
    assert answer.choices[0].finish_reason == ("stop" if out[-1] == tokenizer.eos_token_id else "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), len(out))
    assert answer.usage.total_tokens == len(prompt) + len(out)


def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": server.name, "messages": HI, "max_completion_tokens": 25, "temperature": 0, "n": 2}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    texts, tokens, ends, last = ["", ""], ([], []), ["", ""], None
    for chunk in client.chat.completions.create(
        **asked, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index].extend(choice.logprobs.content if choice.logprobs else [])
            ends[choice.index] += choice.finish_reason or ""
        last = chunk
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert last is not None
    assert last.usage == whole.usage
    for index, choice in enumerate(whole.choices):
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [one.token for one in tokens[index]] == [one.token for one in choice.logprobs.content]
        assert all(one.top_logprobs[0].logprob >= one.logprob for one in choice.logprobs.content)


def test_a_seed_gives_the_same_answer_again(client: openai.OpenAI, server: Server) -> None:
    def said(**sampling: Any) -> list[str | None]:
        answer = client.chat.completions.create(
            model=server.name, messages=HI, max_tokens=20, temperature=2, n=2, **sampling
        )
        return [choice.message.content for choice in answer.choices]

    first = said(seed=7)
    assert first[0] != first[1]
    assert said(seed=7) == first != said(seed=8)


def test_logprobs_are_the_log_softmax_of_the_model(client: openai.OpenAI, server: Server, model_folder: Path) -> None:
    tokenizer, model = load_tokenizer(str(model_folder)), load_model(str(model_folder)).eval()
    ids = tokenizer("The cat sat on")["input_ids"]
    answer = client.completions.create(
        model=server.name, prompt=ids, max_tokens=5, temperature=1.5, seed=3, logprobs=2, echo=True
    )
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.tokens is not None
    assert scores.token_logprobs is not None
    assert scores.text_offset is not None
    # The text cannot be tokenized back into what was drawn, so only the prompt's part is compared.
    with torch.inference_mode():
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    assert answer.choices[0].text.startswith("The cat sat on")
    assert scores.tokens[: len(ids)] == [tokenizer.decode([token]) for token in ids]
    assert scores.token_logprobs[0] is None
    expected = [float(logs[place, ids[place + 1]]) for place in range(len(ids) - 1)]
    assert scores.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-3)
    assert scores.text_offset[:2] == [0, len(scores.tokens[0])]
    greedy = client.completions.create(model=server.name, prompt=ids, max_tokens=1, temperature=0, logprobs=0)
    assert greedy.choices[0].logprobs is not None
    assert greedy.choices[0].logprobs.token_logprobs == pytest.approx([float(logs[-1].max())], abs=1e-3)


def test_completions_take_several_prompts_and_stream(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": server.name, "prompt": ["The cat", "What is"], "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    texts = ["", ""]
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    one = client.completions.create(**{**asked, "prompt": "What is"})
    assert one.choices[0].text == texts[1]
    assert whole.usage is not None
    assert one.usage is not None
    assert whole.usage.prompt_tokens > one.usage.prompt_tokens


def test_stop_strings_end_the_answer_wherever_tokens_end(client: openai.OpenAI, server: Server) -> None:
    def say(**more: Any) -> Any:
        return client.chat.completions.create(
            model=server.name, messages=HI, max_tokens=40, temperature=0, logprobs=True, **more
        )

    free = say().choices[0]
    tokens = free.logprobs.content
    text = free.message.content
    # From the middle of one token to the middle of another.
    place = len("".join(one.token for one in tokens[:8]))
    stop = text[place - 1 : place + 2]
    cut = say(stop=["never said", stop]).choices[0]
    assert cut.message.content == text[: text.index(stop)]
    assert cut.finish_reason == "stop"
    streamed = [chunk.choices[0] for chunk in say(stop=stop, stream=True)]
    assert "".join(choice.delta.content or "" for choice in streamed) == cut.message.content
    assert streamed[-1].finish_reason == "stop"


def test_a_required_call_is_made_and_its_result_answered(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": server.name, "tools": TOOLS, "temperature": 0, "max_tokens": 300}
    first = client.chat.completions.create(messages=HI, tool_choice="required", **asked).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content is None
    assert first.message.tool_calls
    called = {"set_lights": {"room", "on"}, "clock": {"zone"}}
    for call in first.message.tool_calls:
        assert call.type == "function"
        assert set(json.loads(call.function.arguments)) == called[call.function.name]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in first.message.tool_calls]
    messages: Any = [*HI, first.message, *results]
    last = client.chat.completions.create(messages=messages, tool_choice="none", **{**asked, "max_tokens": 5})
    assert last.choices[0].message.tool_calls is None
    assert last.choices[0].message.content


def test_a_named_tool_is_called_and_streamed_as_openai_streams_calls(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": server.name, "messages": HI, "tools": TOOLS, "temperature": 0, "max_tokens": 300}
    asked["tool_choice"] = {"type": "function", "function": {"name": "clock"}}
    asked["parallel_tool_calls"] = False
    with client.chat.completions.stream(**asked) as stream:
        answer = stream.get_final_completion().choices[0]
    assert answer.finish_reason == "tool_calls"
    assert [call.function.name for call in answer.message.tool_calls or []] == ["clock"]
    whole = client.chat.completions.create(**asked).choices[0].message
    assert [call.function for call in whole.tool_calls] == [
        type(whole.tool_calls[0].function)(name=call.function.name, arguments=call.function.arguments)
        for call in answer.message.tool_calls or []
    ]


def test_without_a_call_an_answer_with_tools_is_the_text_as_written(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": server.name, "messages": HI, "tools": TOOLS, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0]
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)
    )
    assert whole.message.tool_calls is None
    assert streamed == whole.message.content
    # tool_choice none leaves the tools out of the prompt.
    none = client.chat.completions.create(**asked, tool_choice="none")
    plain = client.chat.completions.create(model=server.name, messages=HI, temperature=0, max_tokens=20)
    assert none.choices[0].message.content == plain.choices[0].message.content
    assert none.usage == plain.usage


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_json_by_the_schema(client: openai.OpenAI, server: Server, stream: bool) -> None:
    asked: Any = {"model": server.name, "messages": HI, "max_tokens": 200, "temperature": 1, "seed": 1, "n": 3}
    asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA}}
    texts = ["", "", ""]
    if stream:
        for chunk in client.chat.completions.create(**asked, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        texts = [choice.message.content for choice in client.chat.completions.create(**asked).choices]
    for text in texts:
        read = json.loads(text)
        assert list(read) == ["color", "loud"]
        assert read["color"] in ("red", "green")
        assert isinstance(read["loud"], bool)


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_too_large_to_follow_is_the_requests_mistake(
    client: openai.OpenAI, server: Server, stream: bool
) -> None:
    either = [{"type": "object", "properties": {f"k{i}": {"type": "string", "maxLength": i}}} for i in range(1, 401)]
    schema = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"anyOf": either}}}
    with pytest.raises(openai.APIError, match="cannot be held to its grammar") as refused:
        list(client.chat.completions.create(model=server.name, messages=HI, response_format=schema, stream=stream))
    assert refused.value.type == "invalid_request_error"
    assert getattr(refused.value, "status_code", 400) == 400
    assert client.chat.completions.create(model=server.name, messages=HI, max_tokens=1).choices


def test_json_object_is_json(client: openai.OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(
        model=server.name, messages=HI, max_tokens=30, temperature=0, response_format={"type": "json_object"}
    ).choices[0]
    assert answer.message.content is not None
    assert answer.message.content.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def test_requests_at_once_are_batched_and_answered_as_alone(client: openai.OpenAI, server: Server) -> None:
    def say(number: int) -> str | None:
        answer = client.chat.completions.create(
            model=server.name,
            messages=[{"role": "user", "content": "Count." * number}],
            max_tokens=100 + 10 * number,
            temperature=0,
        )
        return answer.choices[0].message.content

    def passes() -> int:
        return server.health()["step_passes"]

    begin = passes()
    alone = [say(number) for number in range(1, 5)]
    one_by_one = passes() - begin
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(say, range(1, 5))) == alone
    together = passes() - begin - one_by_one
    assert together < one_by_one * 0.7


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_place(server: Server, stream: bool) -> None:
    body = {"messages": HI, "max_tokens": 1500, "temperature": 1, "seed": 1, "stream": stream, "logit_bias": no_end()}
    content = json.dumps(body).encode()
    written = server.health()["tokens"]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        server.wait_until(lambda health: health["running"] == 1 and health["tokens"] > written)
    server.wait_until(lambda health: health["running"] == 0)
    assert server.health()["tokens"] - written < 1500


def no_end() -> dict[int, int]:
    """Never the stop token, so that an answer is as long as it may be."""
    return {tiny_tokenizer().eos_token_id: -100}


def test_more_than_the_queue_holds_is_refused_until_there_is_room(client: openai.OpenAI, server: Server) -> None:
    asked: Any = {"model": server.name, "messages": HI, "max_tokens": 1400, "logit_bias": no_end(), "n": 4}
    streams = [client.chat.completions.create(**asked, stream=True) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=server.name, messages=HI, max_tokens=1)
    assert refused.value.response.headers["retry-after"]
    for stream in streams:
        stream.close()
    server.wait_until(lambda health: health["running"] + health["waiting"] == 0)
    assert client.chat.completions.create(model=server.name, messages=HI, max_tokens=1).choices


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "Hi"}, "messages", "list"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "messages", "unknown role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text only"),
        ({"max_tokens": 1501}, "max_tokens", "allows 1500"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "greater"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"n": 9}, "n", "holds 8"),
        ({"stop": ["a", ""]}, "stop", "none of them empty"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"logit_bias": {"100000": 1}}, "logit_bias", "no token"),
        ({"top_k": 5}, "top_k", "not supported"),
        ({"functions": [LIGHTS]}, "functions", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools", "same name"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools", "no name"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "tool_choice",
            "no tool is named 'fly'",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
            "response_format",
            "cannot be held to",
        ),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format", "tool_choice: none"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(
    client: openai.OpenAI, server: Server, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=server.name, messages=HI, extra_body=fields)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert words in str(refused.value)


def test_what_is_unknown_and_changes_nothing_is_ignored(client: openai.OpenAI, server: Server) -> None:
    extra = {"user": "me", "store": True, "metadata": {"a": "b"}, "what": 1, "functions": None, "best_of": 1}
    assert client.chat.completions.create(model=server.name, messages=HI, max_tokens=1, extra_body=extra).choices


def test_a_prompt_beyond_the_context_is_refused(client: openai.OpenAI, server: Server) -> None:
    long: Any = [{"role": "user", "content": "xyz " * 600}]
    with pytest.raises(openai.BadRequestError, match="context is 2048 tokens") as refused:
        client.chat.completions.create(model=server.name, messages=long, max_tokens=1500)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("key", ["wrong", "", "öffne"])
def test_without_the_key_nothing_but_health_is_told(server: Server, key: str) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions")):
        status, content = server.raw(method, path, b"{}", Authorization=f"Bearer {key}")
        assert (status, content["error"]["code"]) == (401, "invalid_api_key")
    assert server.raw("GET", "/health", Authorization="")[0] == 200
    with pytest.raises(openai.AuthenticationError):
        server.client("nope").models.list()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"messages": ', 400, "not JSON"),
        (b'{"messages": [], "messages": []}', 400, "not JSON"),
        (b"[1]", 400, "JSON object"),
        (b"\xff", 400, "UTF-8"),
        (b"[" * 20000, 400, "not JSON"),
        (b'{"a": "' + b"x" * 60000 + b'"}', 413, "larger than 50000 bytes"),
    ],
)
def test_a_body_that_is_none_is_refused(server: Server, body: bytes, status: int, words: str) -> None:
    answered = server.raw("POST", "/v1/chat/completions", body, **{"Content-Type": "application/json"})
    assert answered[0] == status
    assert words in answered[1]["error"]["message"]


def test_a_large_body_without_a_length_is_refused(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    parts = iter([b'{"a": "', *(b"x" * 20000 for _ in range(3)), b'"}'])
    connection.request("POST", "/v1/completions", parts, headers, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_other_types_paths_and_methods_are_refused_in_openais_shape(server: Server) -> None:
    assert server.raw("POST", "/v1/completions", b"{}", **{"Content-Type": "text/plain"})[0] == 415
    for method, path, status in (("GET", "/v1/none", 404), ("GET", "/v1/completions", 405)):
        answered = server.raw(method, path)
        assert answered[0] == status
        assert answered[1]["error"]["type"] == "invalid_request_error"


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(server: Server, cli: Callable[..., Ran]) -> None:
    ran = cli("serve", "./no-such-model", "--port", server.port)
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert f"cannot listen at 127.0.0.1 port {server.port}: Address already in use" in ran.err


def test_a_missing_model_and_an_empty_key_are_told(cli: Callable[..., Ran]) -> None:
    assert "cannot load the model ./no-such-model" in cli("serve", "./no-such-model", "--port", 0).err
    assert "the API key is empty" in cli("serve", "./no-such-model", "--api-key", " ").err


def test_beyond_loopback_without_a_key_is_warned_of_and_a_signal_lets_answers_end(model_folder: Path) -> None:
    server = Server(model_folder, "--host", "0.0.0.0", "--name", "tiny")
    assert "anyone who reaches this address may use the model" in server.said[0]
    assert server.said[1].startswith("serving tiny at http://0.0.0.0:")
    reasons: list[str] = []

    def say() -> None:
        answer = server.client("any").chat.completions.create(
            model="tiny", messages=HI, max_tokens=300, logit_bias={str(token): bias for token, bias in no_end().items()}
        )
        reasons.append(answer.choices[0].finish_reason)

    thread = threading.Thread(target=say)
    thread.start()
    server.wait_until(lambda health: health["running"] == 1)
    code, out, err = server.stop(signal.SIGINT)
    thread.join(30)
    assert reasons == ["length"]
    assert (code, out, err) == (0, "stopped\n", "")
