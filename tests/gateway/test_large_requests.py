"""Bodies within the size limit that are made of very many wrong parts, or of very long names.

Each is refused for the first thing that is wrong: what else is wrong isn't looked for, and little repeated.
"""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest
from pydantic import ValidationError

from server.budget.shown import show
from server.budget.spec import BudgetError
from server.gateway.apis.messages_request import chat_fields_of_messages
from server.gateway.apis.responses_request import chat_fields_of_responses
from server.gateway.chat.chat_call import parse_chat
from server.gateway.chat.messages import MAX_MEMBERS, MAX_MESSAGES, MAX_PARTS, check_messages
from server.gateway.errors import GatewayError, InvalidRequest
from server.gateway.sampling_limits import MAX_ENTRIES
from tests.gateway.stand_in import StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import error_of

MESSAGES = [{"role": "user", "content": "x"}]
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM_CALL = {"id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}
TOOL = {"type": "function", "function": {"name": "f"}}
LONG = "x" * 1_000_000
MANY = 100_000
MOST_CHARACTERS = 1000
"""Of a message: it repeats two things of the request at most."""


def members(count: int) -> dict[str, Any]:
    return {f"m{i}": "x" for i in range(count)}


def said(message: dict[str, Any], count: int = 1) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"} | message] * count}


def parts(part: Any, count: int = 1) -> dict[str, Any]:
    return said({"content": [part] * count})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [0] * 1000}, "messages[0]"),
    ({"messages": [0] * MANY}, "messages"),
    (said({"name": 1}, MAX_MESSAGES), "messages[0].name"),
    (said({}, MAX_MESSAGES + 1), "messages"),
    (parts({}, MAX_PARTS + 1), "messages"),
    (said({"content": [{}] * 2}, MAX_MESSAGES), "messages"),
    (said({"role": "assistant", "tool_calls": [CALL] * (MAX_PARTS + 1)}), "messages"),
    ({"tools": [{}] * 1000}, "tools[0].type"),
    ({"tools": [{}] * MANY}, "tools"),
    ({"stop_token_ids": [""] * 1000}, "stop_token_ids[0]"),
    ({"stop_token_ids": [""] * MANY}, "stop_token_ids"),
    ({"logit_bias": members(MANY)}, "logit_bias"),
    ({"bad_words": [1] * (MAX_ENTRIES + 1)}, "bad_words"),
    ({"vllm_xargs": members(MAX_ENTRIES + 1)}, "vllm_xargs"),
    ({"vllm_xargs": {"a": [None] * (MAX_ENTRIES + 1)}}, "vllm_xargs.a"),
    ({"vllm_xargs": {f"m{i}": [0] * 10_000 for i in range(10)}}, "vllm_xargs"),
    ({"vllm_xargs": {"a": 1, "b": None}}, "vllm_xargs.b"),
    ({"vllm_xargs": {"a": {}}}, "vllm_xargs.a"),
    ({"vllm_xargs": {"a": ["x", 1, {}]}}, "vllm_xargs.a[2]"),
    ({"bad_words": [1] * MAX_ENTRIES}, "bad_words[0]"),
    ({"logprobs": True, "logprob_token_ids": [1, "x"]}, "logprob_token_ids[1]"),
    ({"allowed_token_ids": [1, 1.5]}, "allowed_token_ids[1]"),
    ({"media_io_kwargs": members(1000)}, "media_io_kwargs.m0"),
    ({"documents": [{}, 5]}, "documents[1]"),
    ({"documents": [{"title": "x"}, {"title": 5}]}, "documents[1].title"),
    ({"documents": [members(MAX_ENTRIES + 1)]}, "documents[0]"),
    ({"structured_outputs": {"choice": ["x", 1]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"choice": [1] * (MAX_ENTRIES + 1)}}, "structured_outputs.choice"),
    ({"response_format": {"type": "text"} | members(MANY)}, "response_format"),
    (
        {"response_format": {"type": "structural_tag", "structures": [{}] * MANY, "triggers": [1] * MANY}},
        "response_format",
    ),
    (
        {"response_format": {"type": "structural_tag", "format": {"elements": [{"a": 1}] * MAX_ENTRIES}}},
        "response_format",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"} | members(MANY)}},
        "response_format.json_schema",
    ),
    ({"tools": [TOOL, TOOL | {"defer_loading": "x"}]}, "tools[1].defer_loading"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "defer_loading": {}}}]},
        "tools[0].function.defer_loading",
    ),
    (said({"role": "assistant", "content": None, "tool_calls": None}, 1000), "messages[0].tool_calls"),
    (said({"role": "developer", "tools": [{}] * (MAX_PARTS + 1)}), "messages"),
    (said(members(MAX_MEMBERS)), "messages"),
    (said({"content": [members(MAX_MEMBERS)]}), "messages"),
    ({"stream": True, "stream_options": members(MANY)}, "stream_options.m0"),
    ({"parallel": members(MANY)}, "parallel.m0"),
    ({"reasoning": members(MANY)}, "reasoning.m0"),
    ({"stop": ["x"] * MANY}, "stop"),
    ({"wait_text": ["x"] * MANY}, "wait_text"),
    ({"num_waits": [1] * MANY}, "num_waits"),
    ({"model": [[1] * MANY]}, "model"),
]


def check_short(error: Exception) -> None:
    assert isinstance(error, GatewayError | BudgetError)
    assert len(str(error)) < MOST_CHARACTERS
    assert error.param is not None
    assert len(error.param) < MOST_CHARACTERS
    if isinstance(error.__context__, ValidationError):
        # Of one element, not of all.
        assert error.__context__.error_count() <= 2


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_the_first_of_many_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises((InvalidRequest, BudgetError)) as refused:
        parse_chat({"messages": MESSAGES} | fields)
    check_short(refused.value)
    assert getattr(refused.value, "param", None) == param


@pytest.mark.parametrize(
    "fields",
    [
        {LONG: 1},
        {"model": LONG, "n": LONG},
        {"reasoning": {LONG: 1}},
        {"parallel": {LONG: 1}},
        {"vllm_xargs": {LONG: [1] * (MAX_ENTRIES + 1)}},
        {"logit_bias": {LONG: "x"}},
        {"store": LONG},
        {"messages": [{"role": LONG}]},
        {"messages": [{"role": {LONG: LONG}}]},
        {
            "tools": [{"type": "function", "function": {"name": LONG}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
    ],
    ids=[str(i) for i in range(10)],
)
def test_long_names_and_values_are_cut(fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, BudgetError)) as refused:
        parse_chat({"messages": MESSAGES} | fields)
    check_short(refused.value)


async def test_what_is_told_of_a_long_name(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=ASK | {LONG: 1})
    error = error_of(response)
    assert response.status_code == 400
    assert error["message"].startswith("`xxxxx")
    assert (len(error["message"]) < MOST_CHARACTERS, error["param"]) == (True, "x" * 120 + "…")


@pytest.mark.parametrize(
    "fields",
    [
        {LONG: 1},
        {"messages": [{"role": "user", "content": "x", LONG: 1}]},
        {"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * (MAX_PARTS + 1)}]},
        {"messages": [0] * MANY},
        {"tools": [0] * MANY},
        {"thinking": members(MANY)},
        {"metadata": {LONG: 1}},
    ],
    ids=[str(i) for i in range(8)],
)
def test_messages_requests(fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, BudgetError)) as refused:
        parse_chat(chat_fields_of_messages({"messages": MESSAGES, "max_tokens": 9} | fields))
    check_short(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {LONG: 1},
        {"input": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * (MAX_PARTS + 1)}]},
        {"input": [0] * MANY},
        {"tools": [0] * MANY},
        {"metadata": {LONG: 1}},
        {"reasoning": {LONG: 1}},
    ],
    ids=[str(i) for i in range(7)],
)
def test_responses_requests(fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, BudgetError)) as refused:
        parse_chat(chat_fields_of_responses({"input": "x"} | fields))
    check_short(refused.value)


WRONG_MESSAGES: list[tuple[Any, str]] = [
    (5, ""),
    ({"content": "x"}, ".role"),
    ({"role": 1, "content": "x"}, ".role"),
    ({"role": "user", "content": 1}, ".content"),
    ({"role": "user", "content": None}, ".content"),
    ({"role": "system", "content": None}, ".content"),
    ({"role": "user", "content": ["x"]}, ".content[0]"),
    ({"role": "user", "content": "x", "name": 1}, ".name"),
    ({"role": "user", "content": "x", "name": None}, ".name"),
    ({"role": "tool", "content": "x", "tool_call_id": 1}, ".tool_call_id"),
    ({"role": "assistant", "content": None, "tool_calls": 1}, ".tool_calls"),
    ({"role": "assistant", "content": None, "tool_calls": None}, ".tool_calls"),
    ({"role": "assistant", "content": None, "refusal": 1}, ".refusal"),
    ({"role": "assistant", "content": None, "audio": 1}, ".audio"),
    ({"role": "assistant", "content": None, "audio": {}}, ".audio.id"),
    ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, ".function_call.arguments"),
    ({"role": "function", "content": None}, ".name"),
    ({"role": "tool", "content": "x", "name": None}, ".name"),
    ({"role": "tool", "content": "x", "reasoning": 1}, ".reasoning"),
    ({"role": "critic", "content": "x", "task": {}}, ".task"),
    ({"role": "user", "tools": 1}, ".tools"),
    ({"role": "user", "tools": [TOOL, 1]}, ".tools[1]"),
    ({"role": "critic", "content": "x", "tool_calls": [CALL, CUSTOM_CALL]}, ".tool_calls[1].type"),
    ({"role": "assistant", "content": None, "tool_calls": [1]}, ".tool_calls[0]"),
    ({"role": "assistant", "tool_calls": [{**CALL, "id": None}]}, ".tool_calls[0].id"),
    ({"role": "assistant", "tool_calls": [{**CALL, "type": None}]}, ".tool_calls[0].type"),
    ({"role": "assistant", "tool_calls": [{**CALL, "function": 1}]}, ".tool_calls[0].function"),
    (
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]},
        ".tool_calls[0].function.arguments",
    ),
]
"""And the path of what is wrong, below the message's own. vLLM refuses them all."""
UNTAKEN_PARTS: list[tuple[Any, str]] = [
    ({"type": 5}, ".type"),
    ({"type": "text", "text": 5}, ".text"),
    ({"type": "text"}, ".text"),
    ({"type": "image_url", "image_url": "x", "uuid": 5}, ".uuid"),
    ({"image_pil": {}}, ".image_pil"),
    ({"type": "image_embeds", "image_embeds": 5}, ".image_embeds"),
    ({"type": "audio_embeds", "audio_embeds": {"a": "AA==", "b": [1, "x"]}}, ".audio_embeds.b"),
]
RIGHT_MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "x"},
    {"role": "user", "content": "x", "name": "ann"},
    {"role": "user"},
    {"role": "developer", "content": [{"type": "text", "text": "x"}]},
    {"role": "developer", "content": "x", "tools": [TOOL]},
    {"role": "system", "content": "x", "tools": [{"name": "f"}]},
    {"role": "system", "content": "x", "unknown": {"a": [1]}},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": "x", "reasoning": "y", "tool_calls": None, "refusal": None},
    {"role": "assistant", "content": "x", "reasoning_content": "y"},
    {"role": "assistant", "tool_calls": None},
    {"role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None},
    {"role": "assistant", "content": None, "audio": {"id": "a", "expires_at": 1}},
    {"role": "assistant", "content": None, "function_call": CALL["function"]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "y"}, {"type": "text", "text": "x"}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "assistant", "content": None, "tool_calls": [CUSTOM_CALL]},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "tool", "content": "x", "tool_call_id": "a"},
    {"role": "tool", "content": "x", "tool_call_id": "a", "name": None},
    {"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": None},
    {"role": "function", "content": None, "name": "f"},
    *(
        {"role": "user", "content": [part]}
        for part in (
            {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}, "uuid": "u"},
            {"type": "image_url", "image_url": None, "uuid": "u"},
            {"image_url": "https://a.example/x.png"},
            {"type": "audio_url", "audio_url": {"url": "https://a.example/x.wav"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "video_url", "video_url": {"url": "https://a.example/x.mp4"}},
            {"type": "image_embeds", "image_embeds": "AA=="},
            {"type": "image_embeds", "image_embeds": {"a": "AA==", "b": [1, 2]}, "uuid": None},
            {"type": "prompt_embeds", "data": "AA=="},
            {"type": "file", "file": {"file_id": "f"}},
            {"type": "tool_reference", "name": "f"},
        )
    ),
]
"""vLLM takes them all."""
CUSTOM_ROLE = {"role": "critic", "content": "x"}


@pytest.mark.parametrize("message", [*RIGHT_MESSAGES, CUSTOM_ROLE], ids=str)
def test_messages_that_are_taken(message: dict[str, Any]) -> None:
    check_messages({"messages": [message] * 3})


@pytest.mark.parametrize("message", RIGHT_MESSAGES, ids=str)
async def test_messages_reach_the_engine_as_they_are(
    client: httpx.AsyncClient, engine: StandIn, message: dict[str, Any]
) -> None:
    response = await client.post("/v1/chat/completions", json=ASK | {"messages": [message]})
    assert response.status_code == 200, response.text
    # What becomes of earlier thinking is another test's matter.
    if not any(word in orjson.dumps(message).decode() for word in ("reasoning", "thinking")):
        assert engine.bodies[-1]["messages"] == [message]


@pytest.mark.parametrize(("message", "path"), WRONG_MESSAGES, ids=str)
def test_messages_that_are_refused(message: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_messages({"messages": [{"role": "user", "content": "x"}, message]})
    assert refused.value.param == f"messages[1]{path}"
    assert f"`messages[1]{path}` " in str(refused.value)


@pytest.mark.parametrize(("part", "path"), UNTAKEN_PARTS, ids=str)
def test_parts_that_are_refused(part: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_messages(parts(part, 2))
    assert refused.value.param == f"messages[0].content[0]{path}"


def test_as_many_as_may_be_are_taken() -> None:
    parse_chat(said({}, MAX_MESSAGES))
    parse_chat(parts({"type": "text", "text": "x"}, MAX_PARTS))
    check_messages({"prompt": "x"})


@pytest.mark.parametrize(
    "value", [None, True, 1.5, "it's", [], {}, [1, [2, {"a": None}]], {"a": {"b": "c"}, "d": []}]
)
def test_what_is_short_is_shown_whole(value: object) -> None:
    assert show(value) == repr(value)


def test_what_is_long_is_cut() -> None:
    for value in (LONG, [LONG], {LONG: LONG}, [1] * MANY, members(MANY)):
        assert show(value) == repr(value)[:120] + "…"
