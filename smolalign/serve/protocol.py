"""What OpenAI's API takes and what it says of mistakes: request bodies, checked, and errors in its shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Fields that would change the answer in ways that this server does not know. Any other unknown field is ignored.
REFUSED = {
    "audio",
    "function_call",
    "functions",
    "web_search_options",
    "best_of",
    "suffix",
    "top_k",
    "min_p",
    "repetition_penalty",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
}
# Values of these that ask for nothing beyond what is done anyway.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "function_call": ("none",),
    "functions": ([],),
    "best_of": (1,),
    "suffix": ("",),
    "top_k": (0, -1),
    "min_p": (0,),
    "repetition_penalty": (1,),
}
MOST_CHOICES = 128


class ApiError(Exception):
    """A refusal, as OpenAI's API would word it."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON that goes with the status."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A mistake of the client's in a field."""
    return ApiError(400, message, param=param, code=code)


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class StreamOptions(_Body):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class NamedFunction(_Body):
    """A function by its name."""

    name: str


class NamedTool(_Body):
    """`tool_choice` that names a function."""

    type: Literal["function"]
    function: NamedFunction


class Tool(_Body):
    """A function that the model may call; what is in `function` is read by `smolalign.data.formats.calls`."""

    type: Literal["function"]
    function: dict[str, Any]


class JsonSchema(_Body):
    """`response_format` of type `json_schema`."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Body):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Request(_Body):
    """What both endpoints take. The defaults are OpenAI's; None stands for a field's default."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None

    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Request):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: list[Literal["text"]] | None = None


class CompletionRequest(Request):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


Body = TypeVar("Body", bound=Request)


def read_body(kind: type[Body], content: Any) -> Body:
    """A request from its JSON.

    Raises:
        ApiError: 400, with the name of the field that is wrong or not supported.
    """
    if not isinstance(content, dict):
        raise invalid("the body must be a JSON object")
    for name in sorted(REFUSED & set(content)):
        if content[name] is not None and content[name] not in HARMLESS.get(name, ()):
            raise invalid(f"{name} is not supported by this server", name, "unsupported_parameter")
    try:
        body = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        # Of the types that a field may have only its own name says something to people.
        param = ".".join(str(part) for part in first["loc"][:3] if isinstance(part, int) or part in content) or None
        param = param or (str(first["loc"][0]) if first["loc"] else None)
        raise invalid(f"{param}: {first['msg']}" if param else first["msg"], param) from None
    if len(body.stops()) > 16 or "" in body.stops():
        raise invalid("stop takes up to 16 strings, none of them empty", "stop")
    return body
