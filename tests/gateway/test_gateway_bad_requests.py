"""Every refusal names the field, the limit and the value, in OpenAI's envelope."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from server.budget.spec import MAX_TOKENS, MAX_WAITS
from tests.gateway.serving import gateway
from tests.gateway.stand_in import MINIMUM_ROOM, StandIn, running
from tests.gateway.test_gateway_chat import ASK

TOOL = {"type": "function", "function": {"name": "add"}}


def role(value: Any) -> dict[str, Any]:
    return {"messages": [{"role": value, "content": "x"}]}


# fields, error.param, what the message must hold besides the field's name
BAD: list[tuple[dict[str, Any], str, list[str]]] = [
    # the budget's own fields
    ({"max_thinking_tokens": -1}, "max_thinking_tokens", [">= 0", "-1"]),
    ({"max_thinking_tokens": MAX_TOKENS + 1}, "max_thinking_tokens", [str(MAX_TOKENS), str(MAX_TOKENS + 1)]),
    ({"max_thinking_tokens": 1.0}, "max_thinking_tokens", ["integer", "1.0"]),
    ({"max_thinking_tokens": True}, "max_thinking_tokens", ["integer", "True"]),
    ({"max_thinking_tokens": "5"}, "max_thinking_tokens", ["integer", "'5'"]),
    ({"max_thinking_tokens": [5]}, "max_thinking_tokens", ["integer", "[5]"]),
    ({"max_thinking_tokens": {}}, "max_thinking_tokens", ["integer", "{}"]),
    ({"max_thinking_tokens": 10**30}, "max_thinking_tokens", ["integer"]),
    ({"min_thinking_tokens": -5}, "min_thinking_tokens", [">= 0", "-5"]),
    ({"min_thinking_tokens": "many"}, "min_thinking_tokens", ["integer", "'many'"]),
    (
        {"min_thinking_tokens": 9, "max_thinking_tokens": 8},
        "min_thinking_tokens",
        ["max_thinking_tokens (8)", "9"],
    ),
    ({"num_waits": -1}, "num_waits", [">= 0", "-1"]),
    ({"num_waits": MAX_WAITS + 1}, "num_waits", [str(MAX_WAITS), str(MAX_WAITS + 1)]),
    ({"num_waits": 0.5}, "num_waits", ["integer", "0.5"]),
    ({"num_waits": False}, "num_waits", ["integer", "False"]),
    ({"answer_reserve_tokens": 0}, "answer_reserve_tokens", [">= 1", "0"]),
    ({"answer_reserve_tokens": "1"}, "answer_reserve_tokens", ["integer", "'1'"]),
    ({"landing_tokens": -2}, "landing_tokens", [">= 0", "-2"]),
    ({"landing_tokens": 5, "max_thinking_tokens": 4}, "landing_tokens", ["max_thinking_tokens (4)", "5"]),
    # the room
    (
        {"num_waits": 1, "max_completion_tokens": MINIMUM_ROOM - 1},
        "max_completion_tokens",
        [">= 9", "Given: 8"],
    ),
    ({"num_waits": 1, "max_tokens": 3}, "max_tokens", [">= 9", "Given: 3"]),
    (
        {"answer_reserve_tokens": 50, "max_completion_tokens": 20},
        "answer_reserve_tokens",
        ["<= 12", "20", "Given: 50"],
    ),
    (
        {"num_waits": 1, "max_completion_tokens": 2, "response_format": {"type": "json_object"}},
        "max_completion_tokens",
        [">= 3", "Given: 2"],
    ),
    # conflicts with a budget
    (
        {"thinking_token_budget": 5, "max_thinking_tokens": 6},
        "thinking_token_budget",
        ["max_thinking_tokens", "(5)", "(6)"],
    ),
    (
        {"thinking_token_budget": -1, "max_thinking_tokens": 6},
        "thinking_token_budget",
        ["max_thinking_tokens", "-1"],
    ),
    ({"thinking_token_budget": -2}, "thinking_token_budget", [">= -1", "-2"]),
    ({"thinking_token_budget": 2.5}, "thinking_token_budget", ["integer", "2.5"]),
    ({"use_beam_search": True, "n": 2, "num_waits": 1}, "use_beam_search", ["num_waits", "1"]),
    (
        {"chat_template_kwargs": {"enable_thinking": False}, "num_waits": 1},
        "chat_template_kwargs.enable_thinking",
        ["num_waits", "max_thinking_tokens"],
    ),
    (
        {"chat_template_kwargs": {"thinking": False}, "max_thinking_tokens": 1},
        "chat_template_kwargs.thinking",
        ["max_thinking_tokens", "(1)"],
    ),
    ({"reasoning_effort": "none", "max_thinking_tokens": 1}, "reasoning_effort", ["max_thinking_tokens"]),
    ({"vllm_xargs": {"num_waits": 1}}, "vllm_xargs.num_waits", ["reserved", "1"]),
    ({"vllm_xargs": {"receipt_id": "x"}}, "vllm_xargs.receipt_id", ["reserved", "'x'"]),
    ({"vllm_xargs": {"answer_prompt": 0}}, "vllm_xargs.answer_prompt", ["reserved", "0"]),
    ({"vllm_xargs": "x"}, "vllm_xargs", ["object", "'x'"]),
    # names
    ({"max_thinking_token": 5}, "max_thinking_token", ["Did you mean `max_thinking_tokens`?"]),
    ({"num_wait": 5}, "num_wait", ["Did you mean `num_waits`?"]),
    ({"temprature": 1}, "temprature", ["Did you mean `temperature`?"]),
    ({"qwertyuiop": None}, "qwertyuiop", ["not a field"]),
    ({"metadata": {"a": 1}}, "metadata.a", ["string", "1"]),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata", ["at most 16", "17"]),
    ({"metadata": "a"}, "metadata", ["object", "'a'"]),
    ({"prompt_cache_key": 3}, "prompt_cache_key", ["string", "3"]),
    ({"store": True}, "store", ["not supported", "True"]),
    ({"guided_json": {}}, "guided_json", ["not a field"]),
    ({"kv_transfer_params": {"remote_host": "x"}}, "kv_transfer_params", ["operator", "'remote_host'"]),
    ({"ec_transfer_params": {}}, "ec_transfer_params", ["operator", "{}"]),
    ({"cache_salt": "x" * 129}, "cache_salt", ["128", "xxx"]),
    ({"cache_salt": "a/b"}, "cache_salt", ["match", "'a/b'"]),
    ({"cache_salt": ""}, "cache_salt", ["at least 1", "''"]),
    ({"return_token_offsets": True}, "return_token_offsets", ["no effect", "True"]),
    ({"mm_payload": "none"}, "mm_payload", ["no effect", "'none'"]),
    # messages and model
    ({"messages": []}, "messages", ["at least 1", "[]"]),
    ({"messages": "hi"}, "messages", ["array", "'hi'"]),
    ({"messages": None}, "messages", ["array", "None"]),
    ({"messages": ["hi"]}, "messages[0]", ["object", "'hi'"]),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", ["required"]),
    (role("robot"), "messages[0].role", ["'assistant'", "'robot'"]),
    (role(3), "messages[0].role", ["'user'", "3"]),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", ["string", "5"]),
    ({"model": 5}, "model", ["string", "5"]),
    # sampling
    ({"temperature": -0.1}, "temperature", [">= 0", "-0.1"]),
    ({"temperature": 2.1}, "temperature", ["<= 2", "2.1"]),
    ({"temperature": "hot"}, "temperature", ["number", "'hot'"]),
    ({"temperature": True}, "temperature", ["number", "True"]),
    ({"top_p": 0}, "top_p", ["> 0", "0"]),
    ({"top_p": 1.5}, "top_p", ["<= 1", "1.5"]),
    ({"top_k": -2}, "top_k", [">= -1", "-2"]),
    ({"min_p": 2}, "min_p", ["<= 1", "2"]),
    ({"repetition_penalty": 0}, "repetition_penalty", ["> 0", "0"]),
    ({"presence_penalty": 2.5}, "presence_penalty", ["<= 2", "2.5"]),
    ({"frequency_penalty": -3}, "frequency_penalty", [">= -2", "-3"]),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", ["<= 100", "101"]),
    ({"seed": 1.5}, "seed", ["integer", "1.5"]),
    ({"seed": 2**63}, "seed", [str(2**63 - 1), str(2**63)]),
    # counts
    ({"n": 0}, "n", [">= 1", "0"]),
    ({"n": 129}, "n", ["<= 128", "129"]),
    ({"n": "2"}, "n", ["integer", "'2'"]),
    ({"max_tokens": 0}, "max_tokens", [">= 1", "0"]),
    ({"max_completion_tokens": -4}, "max_completion_tokens", [">= 1", "-4"]),
    ({"max_completion_tokens": 5.0}, "max_completion_tokens", ["integer", "5.0"]),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", ["max_completion_tokens", "(6)", "5"]),
    ({"min_tokens": 7, "max_tokens": 6}, "min_tokens", ["(6)", "7"]),
    ({"min_tokens": -1}, "min_tokens", [">= 0", "-1"]),
    # logprobs, stop, streams
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", ["<= 20", "21"]),
    ({"top_logprobs": 2}, "top_logprobs", ["logprobs", "2"]),
    ({"logprobs": 1}, "logprobs", ["true or false", "1"]),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", ["at most 4", "'e'"]),
    ({"stop": ""}, "stop", ["non-empty", "''"]),
    ({"stop": [1]}, "stop", ["string", "[1]"]),
    ({"stop_token_ids": ["a"]}, "stop_token_ids[0]", ["integer", "'a'"]),
    ({"stream": "yes"}, "stream", ["true or false", "'yes'"]),
    ({"stream": 1}, "stream", ["true or false", "1"]),
    ({"stream_options": {"include_usage": True}}, "stream_options", ["stream", "include_usage"]),
    ({"stream": True, "stream_options": {"include_use": True}}, "stream_options.include_use", ["True"]),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", ["true", "1"]),
    ({"include_reasoning": "no"}, "include_reasoning", ["true or false", "'no'"]),
    ({"include_reasoning": False, "logprobs": True}, "logprobs", ["include_reasoning", "True"]),
    ({"reasoning": {"exclude": True}, "return_token_ids": True}, "return_token_ids", ["hidden", "True"]),
    # tools and formats
    ({"tools": []}, "tools", ["at least 1", "[]"]),
    ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type", ["'function'", "'web'"]),
    ({"tools": [{"type": "function"}]}, "tools[0].function", ["required"]),
    ({"tool_choice": "auto"}, "tool_choice", ["tools", "'auto'"]),
    ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", ["auto", "'maybe'"]),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
        "tool_choice",
        ["add", "'sub'"],
    ),
    ({"response_format": {"type": "xml"}}, "response_format.type", ["json_object", "'xml'"]),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", ["required"]),
    ({"request_id": "a b"}, "request_id", ["match", "'a b'"]),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with running(StandIn()) as engine, gateway(engine.url, refresh_interval_s=5) as opened:
        yield opened


def check_envelope(
    response: httpx.Response, status: int, param: str | None, *, code: str | None = None
) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["code"] == code
    return error["message"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("fields", "param", "holds"), BAD, ids=[f"{p}-{str(f)[:40]}" for f, p, _ in BAD])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, holds: list[str], stream: bool
) -> None:
    asked = ASK | ({"stream": True} if stream else {}) | fields
    if stream and param == "stream_options" and "stream" not in fields:
        pytest.skip("valid when streaming")
    message = check_envelope(await client.post("/v1/chat/completions", json=asked), 400, param)
    assert param in message
    for part in holds:
        assert part in message


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"messages": [}', "JSON"),
        (b'{"temperature": NaN}', "JSON"),
        (b'{"a": "\xff"}', "JSON"),
        (b"[]", "an array"),
        (b'"x"', "a string"),
        (b"5", "a number"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"[" * 5000, "JSON"),
        (b'{"a": ' * 201 + b"1" + b"}" * 201, "<= 200 levels"),
        (b'{"tools": ' + b"[" * 900 + b"]" * 900 + b"}", "<= 200 levels"),
    ],
)
async def test_a_body_that_is_no_json_object(client: httpx.AsyncClient, body: bytes, says: str) -> None:
    response = await client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert says in check_envelope(response, 400, "body")


@pytest.mark.asyncio(loop_scope="module")
async def test_missing_messages(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"model": "tiny"})
    assert "messages" in check_envelope(response, 400, "messages")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_wrong_content_type(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", data={"model": "tiny"})
    message = check_envelope(response, 415, "content-type", code="unsupported_media_type")
    assert "application/json" in message
    assert "application/x-www-form-urlencoded" in message
    with_charset = {"content-type": "application/json; charset=utf-8"}
    response = await client.post("/v1/chat/completions", json=ASK, headers=with_charset)
    assert response.status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_model(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=ASK | {"model": "huge"})
    assert "huge" in check_envelope(response, 404, "model", code="model_not_found")
    assert "huge" in check_envelope(await client.get("/v1/models/huge"), 404, "model", code="model_not_found")


@pytest.mark.asyncio(loop_scope="module")
async def test_no_such_route_and_wrong_method(client: httpx.AsyncClient) -> None:
    assert "/v1/nothing" in check_envelope(await client.get("/v1/nothing"), 404, None)
    response = await client.get("/v1/chat/completions")
    assert "GET" in check_envelope(response, 405, None)
    assert response.headers["allow"] == "POST"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 1, "n": None, "stop": None, "seed": -(2**63), "top_logprobs": None},
        {"max_tokens": 30, "max_completion_tokens": 30, "max_thinking_tokens": 3},
        {"chat_template_kwargs": {"enable_thinking": False}, "max_thinking_tokens": 0},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"metadata": None, "store": None, "return_token_offsets": False},
        {"metadata": {"a": "b"}, "prompt_cache_key": "k"},
        {"metadata": {}, "store": False, "service_tier": "auto", "modalities": ["text"], "functions": []},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"max_thinking_tokens": None, "num_waits": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "me"}]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"logprobs": True, "top_logprobs": 20, "stop": ["a", "b", "c", "d"], "truncate_prompt_tokens": 5},
        {"max_completion_tokens": MINIMUM_ROOM, "num_waits": 1},
        {"max_completion_tokens": 1},
    ],
    ids=str,
)
async def test_accepted_at_the_limits(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await client.post("/v1/chat/completions", json=ASK | fields)
    assert response.status_code == 200, response.text


@pytest.mark.asyncio(loop_scope="module")
async def test_nested_as_deep_as_it_may_be(client: httpx.AsyncClient) -> None:
    deep: dict[str, Any] = {}
    for _ in range(197):
        deep = {"a": deep}
    asked = ASK | {"chat_template_kwargs": deep, "max_thinking_tokens": 3}
    assert (await client.post("/v1/chat/completions", json=asked)).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 100}, "n"),
        (
            {"parallel": {"method": "majority_vote", "width": 64, "total_thinking_tokens": 640}},
            "parallel.width",
        ),
    ],
)
async def test_a_large_body_for_many_choices(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    asked = ASK | {"messages": [{"role": "user", "content": "x" * 4_000_000}]}
    message = check_envelope(
        await client.post("/v1/chat/completions", json=asked | fields), 413, param, code="request_too_large"
    )
    assert f"`{param}` must be <= 33" in message
    assert (await client.post("/v1/chat/completions", json=asked | {"n": 2})).status_code == 200
