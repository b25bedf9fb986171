"""A chat completion request: its typed form, for checking and for the API's documentation.

The model checks and documents; what goes upstream is the client's own JSON (`chat_call.py`), so that nothing
is lost or reshaped on the way. Fields that only vLLM knows and that aren't declared here are checked by it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from server.budget.forms import root_schemas
from server.budget.spec import (
    BUDGET_LIMITS,
    DEFAULT_ANSWER_RESERVE_TOKENS,
    LOOP_REPEATS,
    MAX_LOOP_GUARD_TOKENS,
    MAX_TOKENS,
    MAX_WAIT_CHARACTERS,
    MAX_WAIT_TEXTS,
    MAX_WAIT_TOKENS,
    MIN_LOOP_GUARD_TOKENS,
)
from server.gateway.chat.granularity import Granularity
from server.gateway.parallel.fields import ParallelField
from server.gateway.validation import MOST_LABELS

MAX_CHOICES = 128
MAX_STOP_STRINGS = 4
"""vLLM's default (VLLM_MAX_STOP_STRINGS), and OpenAI's limit."""

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]
ROLES: tuple[Role, ...] = get_args(Role)

_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_TokenCount = Annotated[int, Field(ge=1)]
_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def _budget_field(name: str, description: str, *, default: str = "0", limits: str | None = None) -> Any:
    """Only documented here: `ThinkingBudget.from_fields` checks it, so that all parts check alike."""
    low, high = BUDGET_LIMITS[name]
    integer: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    extra: dict[str, Any] = {"anyOf": [integer, {"type": "null"}], "x-default": default}
    if limits is not None:
        extra["x-limits"] = limits
    return Field(None, description=description, json_schema_extra=extra)


def _with_dialects(schema: dict[str, Any]) -> None:
    """The forms of other dialects, which `server.budget.aliases` checks."""
    schema["properties"] |= root_schemas()


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


# What else it may hold, `check_messages` checks.
class Message(_Checked):
    role: Role
    content: Any = Field(None, description="A string, or an array of content parts.")
    reasoning: Any = Field(None, description="An assistant message's thinking, as a string.")
    reasoning_content: Any = Field(None, description="Another name of `reasoning`.")


class StreamOptions(_Checked):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ToolFunction(_Checked):
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Checked):
    type: Literal["function"]
    function: ToolFunction


class ResponseFormat(_Checked):
    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: dict[str, Any] | None = None


class ChatCompletionRequest(_Checked):
    """OpenAI's chat completion request, vLLM's sampling fields, and a thinking budget."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra=_with_dialects)

    model: str | None = Field(None, description="May be left out when exactly one model is served.")
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]

    max_thinking_tokens: Any = _budget_field(
        "max_thinking_tokens",
        "The thinking never has more tokens than this; 0 means no thinking.",
        default="what fits",
    )
    min_thinking_tokens: Any = _budget_field(
        "min_thinking_tokens",
        "An attempt to end the thinking before this many tokens becomes a wait.",
        limits="0 to `max_thinking_tokens`",
    )
    num_waits: Any = _budget_field(
        "num_waits", "How many attempts to end the thinking are replaced by the wait text."
    )
    answer_reserve_tokens: Any = _budget_field(
        "answer_reserve_tokens",
        "Tokens kept free for the answer; the maximum is lowered to fit.",
        default=f"{DEFAULT_ANSWER_RESERVE_TOKENS}, or a quarter of the room if that is less",
        limits="from 1 to what fits",
    )
    landing_tokens: Any = _budget_field(
        "landing_tokens",
        "Within the last so many tokens before the maximum, the first end of a sentence or line ends the "
        "thinking.",
        limits="0 to `max_thinking_tokens`",
    )
    loop_guard_tokens: Any = _budget_field(
        "loop_guard_tokens",
        "End the thinking when its last so many tokens are the same sequence repeated at least "
        f"{LOOP_REPEATS} times. 0 turns this off; else it is {MIN_LOOP_GUARD_TOKENS} or more.",
        limits=f"0, or {MIN_LOOP_GUARD_TOKENS} to {MAX_LOOP_GUARD_TOKENS:,}",
    )
    max_thinking_ms: Any = _budget_field(
        "max_thinking_ms",
        "So many milliseconds after an engine was asked, the thinking ends at its next token.",
        default="no limit",
    )
    wait_text: Any = Field(
        None,
        description="What an injected wait says instead of the model family's text; several are used in "
        f"turn. At most {MAX_WAIT_TOKENS} tokens each.",
        json_schema_extra={
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_WAIT_CHARACTERS},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": MAX_WAIT_CHARACTERS},
                    "minItems": 1,
                    "maxItems": MAX_WAIT_TEXTS,
                },
                {"type": "null"},
            ],
            "x-default": "the family's (`Wait`)",
            "x-limits": f"up to {MAX_WAIT_TEXTS} of 1 to {MAX_WAIT_TOKENS} tokens; needs waits",
        },
    )

    parallel: ParallelField | None = Field(
        None, description="Several branches share one thinking budget and give one answer (docs/parallel.md)."
    )

    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: _TokenCount | None = Field(None, description="Thinking, markers and answer.")
    max_tokens: _TokenCount | None = Field(None, description="The older name of max_completion_tokens.")
    metadata: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {
                        "type": "object",
                        "maxProperties": MOST_LABELS,
                        "additionalProperties": {"type": "string"},
                    },
                    {"type": "null"},
                ]
            }
        ),
    ] = Field(None, description="Labels, without any effect here.")
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    parallel_tool_calls: bool | None = None
    presence_penalty: _Penalty | None = None
    prompt_cache_key: str | None = Field(None, description="Without effect: every prefix is cached.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: ResponseFormat | None = None
    seed: _Int64 | None = None
    stop: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOP_STRINGS},
                    {"type": "null"},
                ]
            }
        ),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    tool_choice: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["none", "auto", "required"]},
                    {"type": "object", "required": ["type", "function"]},
                    {"type": "null"},
                ]
            }
        ),
    ] = None
    tools: Annotated[list[Tool], Field(min_length=1, fail_fast=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: str | None = None

    cache_salt: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]*$")] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    ignore_eos: bool | None = None
    include_reasoning: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    priority: _Int64 | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None
    return_token_ids: bool | None = None
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    stream_granularity: Granularity | None = Field(
        None,
        description="token: an event for every token. auto, the default: as many tokens an event as leave at "
        "least 15 to 20 updates a second. Not with stream_interval.",
    )
    stream_interval: _TokenCount | None = None
    structured_outputs: dict[str, Any] | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = Field(
        None, description="vLLM's name of max_thinking_tokens; -1 means unlimited."
    )
    top_k: Annotated[int, Field(ge=-1)] | None = None
    use_beam_search: bool | None = None
    vllm_xargs: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: Any) -> Any:
        strings = [stop] if isinstance(stop, str) else stop
        if strings is None:
            return stop
        if not isinstance(strings, list) or not all(isinstance(text, str) and text for text in strings):
            raise _wrong("must be a non-empty string or an array of them")
        if len(strings) > MAX_STOP_STRINGS:
            raise _wrong(f"must have at most {MAX_STOP_STRINGS} strings")
        return stop

    @field_validator("tool_choice")
    @classmethod
    def _check_tool_choice(cls, choice: Any) -> Any:
        if choice is None or choice in ("none", "auto", "required"):
            return choice
        function = choice.get("function") if isinstance(choice, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong(
                'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
            )
        return choice


def _wrong(expectation: str) -> PydanticCustomError:
    return PydanticCustomError("s1", "{expectation}", {"expectation": expectation})
