"""What the gateway's checks take and vLLM refuses has a bounded number of errors.

vLLM collects an error for each wrong part of a body, on the thread that serves everybody. Here bodies are
made of many parts, right and wrong ones, for every field of vLLM's own models.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

pytest.importorskip("vllm")

from pydantic import BaseModel, TypeAdapter, ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.embed.protocol import (
    EmbeddingChatRequest,
    EmbeddingCompletionRequest,
    EmbeddingRequest,
)
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
    TokenizeRequest,
)
from vllm.exceptions import VLLMValidationError

from server.budget.policy import PreserveThinking
from server.budget.spec import BudgetError
from server.gateway.apis.passthrough_fields import (
    check_completion,
    check_detokenize,
    check_embedding,
    check_tokenize,
)
from server.gateway.chat.chat_call import parse_chat
from server.gateway.chat.earlier_thinking import _read
from server.gateway.errors import InvalidRequest
from server.gateway.sampling_limits import check_sampling_limits
from tests.gateway.test_large_requests import CALL, CUSTOM_CALL, MESSAGES, RIGHT_MESSAGES, TOOL

MANY = 100
"""Parts of a field."""
MOST_ERRORS = 60
"""Fewer than one for each part."""
READ_BEFORE = frozenset({"model", "encoding_format"})
"""Routes check these before all others."""
MISSING: Any = object()


def check_text_completion(fields: Mapping[str, Any]) -> None:
    check_sampling_limits(fields)
    check_completion(fields)


CHECKS: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "chat": parse_chat,
    "completions": check_text_completion,
    "tokenize": check_tokenize,
    "detokenize": check_detokenize,
    "embeddings": check_embedding,
}
TYPES: dict[str, TypeAdapter[Any]] = {
    "chat": TypeAdapter(ChatCompletionRequest),
    "completions": TypeAdapter(CompletionRequest),
    "tokenize": TypeAdapter(TokenizeRequest),
    "detokenize": TypeAdapter(DetokenizeRequest),
    "embeddings": TypeAdapter(EmbeddingRequest),
}
TEXTS = {"input": ["x"] * MANY}
BODIES: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
    ("chat", ChatCompletionRequest, {"messages": MESSAGES}),
    ("chat", ChatCompletionRequest, {"messages": MESSAGES * 3, "tools": [TOOL] * 2, "stream": True}),
    ("completions", CompletionRequest, {"prompt": "x"}),
    ("completions", CompletionRequest, {"prompt": [[1] * MANY] * 3, "stream": True}),
    ("tokenize", TokenizeCompletionRequest, {"prompt": "x"}),
    ("tokenize", TokenizeChatRequest, {"messages": MESSAGES * 3, "tools": [TOOL] * 2}),
    ("detokenize", DetokenizeRequest, {"tokens": [1] * MANY}),
    ("embeddings", EmbeddingCompletionRequest, TEXTS),
    ("embeddings", EmbeddingCompletionRequest, {"input": [1] * MANY}),
    ("embeddings", EmbeddingCompletionRequest, {"input": [[1] * MANY] * 3}),
    ("embeddings", EmbeddingChatRequest, {"messages": MESSAGES * MANY}),
]
"""By the route, with the model whose fields are varied."""


def num_errors(route: str, fields: Mapping[str, Any]) -> int:
    """Errors that vLLM has for a body; 0 if it takes it."""
    try:
        TYPES[route].validate_python(copy.deepcopy(fields))
    except ValidationError as error:
        return error.error_count()
    except (VLLMValidationError, TypeError, AttributeError):
        # Its validators stop at the first.
        return 1
    return 0


def is_taken(route: str, fields: Mapping[str, Any]) -> bool:
    """By the gateway."""
    try:
        CHECKS[route](fields)
    except (InvalidRequest, BudgetError):
        return False
    return True


def parts() -> Iterator[Any]:
    yield from (None, "x", 1, True, 2**63, 0.5, {}, [], [[]], {"type": "function", "function": {}})
    yield TOOL | {"defer_loading": "x"}
    yield {"type": "function", "function": {"name": "f", "strict": "x", "defer_loading": []}}
    yield {"begin": 1, "schema": 1, "end": 1}


def values() -> Iterator[Any]:
    """Of a field: scalars, and many parts in every shape."""
    for part in parts():
        yield part
        for many in ([part] * MANY, {f"m{i}": part for i in range(MANY)}):
            yield from (many, [many], {"a": many}, [{"a": many}], {"choice": many}, {"elements": many})
            yield {"type": "structural_tag", "structures": many, "triggers": many}
            yield {"type": "structural_tag", "format": {"type": "sequence", "elements": many}}
            yield {"type": "json_schema", "json_schema": many}


@pytest.mark.parametrize(("route", "model", "body"), BODIES, ids=[str(i) for i in range(len(BODIES))])
def test_fields_of_many_parts(route: str, model: type[BaseModel], body: dict[str, Any]) -> None:
    assert is_taken(route, body)
    assert num_errors(route, body) == 0
    costly = []
    for name, value in itertools.product(sorted(model.model_fields.keys() - READ_BEFORE), values()):
        fields = body | {name: value}
        if is_taken(route, fields) and (errors := num_errors(route, fields)) > MOST_ERRORS:
            costly.append((name, str(value)[:100], errors))
    assert not costly


ROLES = ("assistant", "user", "tool", "system", "developer", "function", "critic")
CONTENTS = (MISSING, None, "x", [], [{"type": "text", "text": "x"}], [{"type": "refusal", "refusal": "x"}])
TAKEN_ALIKE: dict[str, tuple[Any, ...]] = {
    "name": ("f",),
    "tool_call_id": (None, "a"),
    "tool_calls": (None, [], [CALL], [CALL, CUSTOM_CALL], [CUSTOM_CALL]),
    "reasoning": (None, "x", 5, [], {}),
    "task": (None, "x", 5),
    "refusal": (None, "x", 5, {}),
    "audio": (None, {"id": "x"}, {"id": 5}, {}, 5),
    "function_call": (None, CALL["function"], {"name": "f"}, [], "x"),
    "tools": (
        None,
        [],
        [TOOL],
        {},
        5,
        [5],
        [{}],
        [TOOL, {"type": "custom"}],
        [{"type": "function", "function": {"name": "f", "description": None}}],
        [{"type": "function", "function": {"name": "f", "strict": "yes", "parameters": {"a": [1]}}}],
        [{"type": "function", "function": {"name": "f", "strict": "x"}}],
    ),
    "unknown": (None, 5, {"a": [1]}),
}
"""Members of a message of which the gateway takes what vLLM takes, and nothing else."""


def messages(rng: random.Random) -> Iterator[dict[str, Any]]:
    for role, content, num_members in itertools.product(ROLES, CONTENTS, range(4)):
        for _ in range(12):
            message = {"role": role} if content is MISSING else {"role": role, "content": content}
            for name in rng.sample(sorted(TAKEN_ALIKE), num_members):
                message[name] = rng.choice(TAKEN_ALIKE[name])
            yield message


@pytest.mark.parametrize("route", ["tokenize", "embeddings"])
def test_messages_are_taken_as_vllm_takes_them(route: str) -> None:
    for message in messages(random.Random(5)):
        fields = {"messages": [message]}
        assert is_taken(route, fields) == (num_errors(route, fields) == 0), message


WRONG_MEMBERS: dict[str, tuple[Any, ...]] = {
    name: (None, 5, "", [], {}, True, ["x"], [{}], {"id": 5}, [CALL], [{"type": "text", "text": "x"}])
    for name in (*TAKEN_ALIKE, "content", "reasoning_content")
}


@pytest.mark.parametrize("route", ["chat", "tokenize", "embeddings"])
def test_wrong_messages_have_few_errors(route: str) -> None:
    rng = random.Random(6)
    num_taken = 0
    for _ in range(1500):
        message = {"role": rng.choice(ROLES)}
        for name in rng.sample(sorted(WRONG_MEMBERS), rng.randint(0, 4)):
            message[name] = rng.choice(WRONG_MEMBERS[name])
        fields = {"messages": [message] * 20}
        if is_taken(route, fields):
            num_taken += 1
            assert num_errors(route, fields) < 20, message
    assert num_taken > 100


@pytest.mark.parametrize("message", RIGHT_MESSAGES, ids=str)
def test_right_messages(message: dict[str, Any]) -> None:
    for route in ("chat", "tokenize", "embeddings"):
        assert num_errors(route, {"messages": [message]}) == 0


@pytest.mark.parametrize("mode", ["template", "keep", "strip"])
def test_without_its_thinking_a_message_is_still_taken(mode: PreserveThinking) -> None:
    content = [{"type": "thinking", "thinking": "y"}]
    message = {"role": "assistant", "content": content, "tool_calls": None}
    bare = _read(message, "messages[0]", mode).bare
    assert bare["content"] is None
    assert num_errors("chat", {"messages": [bare]}) == 0


RIGHT_FIELDS: list[dict[str, Any]] = [
    {"vllm_xargs": {"a": "x", "b": 1, "c": 0.5, "d": True, "e": ["x", 1, 0.5], "f": []}},
    {"documents": [{"title": "x", "text": "y"}, {}]},
    {"bad_words": ["x"], "stop_token_ids": [1, 2]},
    {"allowed_token_ids": [1, "2", 3.0, True]},
    {"logit_bias": {"5": -100, "6": 0.5}},
    {"logprobs": True, "logprob_token_ids": [1, 2]},
    {"media_io_kwargs": {"video": {"num_frames": 8}}, "mm_processor_kwargs": {"a": [1]}},
    {"structured_outputs": {"choice": ["yes", "no"]}},
    {"structured_outputs": {"json": {"type": "object", "properties": {"a": {"enum": [1, None]}}}}},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": [1] * 20_000}}}},
    {
        "response_format": {
            "type": "structural_tag",
            "structures": [{"begin": "<f>", "schema": {"enum": ["x"] * 20_000}, "end": "</f>"}],
            "triggers": ["<f>"],
        }
    },
    {
        "response_format": {
            "type": "structural_tag",
            "format": {"type": "json_schema", "json_schema": {"enum": ["x"] * 20_000}},
        }
    },
    {"tools": [TOOL | {"defer_loading": True}, TOOL | {"defer_loading": None}]},
    {"chat_template_kwargs": {"enable_thinking": True, "a": [{}]}},
]


@pytest.mark.parametrize("fields", RIGHT_FIELDS, ids=[str(i) for i in range(len(RIGHT_FIELDS))])
def test_right_fields(fields: dict[str, Any]) -> None:
    body = {"messages": MESSAGES} | fields
    assert num_errors("chat", body) == 0
    assert is_taken("chat", body)
    body = {"prompt": "x"} | {name: value for name, value in fields.items() if name != "logprobs"}
    assert is_taken("completions", body)
