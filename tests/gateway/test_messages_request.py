"""Anthropic's Messages requests as chat requests: what becomes of each field, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from server.budget.spec import BudgetError
from server.gateway.apis.messages_request import chat_fields_of_messages
from server.gateway.chat.chat_call import parse_chat
from server.gateway.errors import InvalidRequest

USER = {"role": "user", "content": "q"}
ASK: dict[str, Any] = {"max_tokens": 2000, "messages": [USER]}
TOOL = {"name": "report", "description": "Say it", "input_schema": {"type": "object", "properties": {}}}
USE = {"type": "tool_use", "id": "c1", "name": "report", "input": {"count": 3}}
KEEP_THINKING = {"type": "clear_thinking_20251015", "keep": "all"}
CALL = {"id": "c1", "type": "function", "function": {"name": "report", "arguments": '{"count":3}'}}


def converted(**fields: Any) -> dict[str, Any]:
    chat = chat_fields_of_messages({**ASK, **fields})
    # Whatever comes out has to be a valid chat request.
    parse_chat(chat)
    return chat


def messages(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return converted(messages=list(turns))["messages"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"model": "m", "stream": True, "temperature": 0.5, "top_p": 0.9, "top_k": 4}, None),
        ({"seed": 1, "logit_bias": {"3": -100}, "min_p": 0.1, "chat_template_kwargs": {"a": 1}}, None),
        ({"max_thinking_tokens": 9, "num_waits": 1, "wait_text": "Hm"}, None),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"metadata": {"user_id": None}}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, None),
        ({"thinking": {"type": "disabled"}}, None),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}},
                }
            },
        ),
        ({"service_tier": "auto", "cache_control": {"type": "ephemeral"}, "container": None}, {}),
        ({"cache_control": {"type": "ephemeral", "ttl": "5m"}, "thread": None}, {}),
        ({"context_management": {"edits": []}}, {}),
        ({"context_management": {"edits": [KEEP_THINKING]}}, {}),
    ],
)
def test_root_fields(fields: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert converted(**fields) == ASK | (fields if expected is None else expected)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "report", "disable_parallel_tool_use": True},
            {
                "tool_choice": {"type": "function", "function": {"name": "report"}},
                "parallel_tool_calls": False,
            },
        ),
    ],
)
def test_tools(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    function = {"name": "report", "description": "Say it", "parameters": TOOL["input_schema"]}
    tools = [{"type": "function", "function": function}]
    given = {**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}}
    assert converted(tools=[given], tool_choice=choice) == {**ASK, "tools": tools, **expected}


def test_system_is_a_string_or_blocks() -> None:
    assert converted(system="s")["messages"] == [{"role": "system", "content": "s"}, USER]
    one = {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}
    assert converted(system=[one])["messages"][0]["content"] == "s"
    two = converted(system=[one, {"type": "text", "text": "t"}])["messages"][0]["content"]
    assert two == [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}]


def test_user_blocks() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    image, link = ({"type": "image", "source": s} for s in (source, {"type": "url", "url": "http://x/y"}))
    (message,) = messages({"role": "user", "content": [{"type": "text", "text": "a"}, image, link]})
    assert message["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": {"url": "http://x/y"}},
    ]


def test_assistant_blocks() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm ", "signature": "any"},
        {"type": "thinking", "thinking": "ok", "signature": "other"},
        {"type": "text", "text": "I "},
        {"type": "text", "text": "call."},
        USE,
    ]
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "yes"}
    told = messages(USER, {"role": "assistant", "content": blocks}, {"role": "user", "content": [result]})
    assert told[1] == {
        "role": "assistant",
        "content": "I call.",
        "reasoning": "hm ok",
        "tool_calls": [CALL],
    }
    assert told[2] == {"role": "tool", "tool_call_id": "c1", "content": "yes"}


def test_thinking_that_cannot_be_read_is_left_to_the_policy() -> None:
    blocks = [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}]
    told = messages(USER, {"role": "assistant", "content": blocks}, USER)
    assert told[1] == {"role": "assistant", "content": blocks}


def test_tool_results_keep_their_place() -> None:
    call = {"role": "assistant", "content": [USE]}
    results = [
        {"type": "text", "text": "before"},
        {"type": "tool_result", "tool_use_id": "c1", "is_error": True, "content": "no"},
        {"type": "tool_result", "tool_use_id": "c1"},
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "t"}]},
        {"type": "text", "text": "after"},
    ]
    told = messages(USER, call, {"role": "user", "content": results})
    assert told[1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert told[2:] == [
        {"role": "user", "content": "before"},
        {"role": "tool", "tool_call_id": "c1", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "tool", "tool_call_id": "c1", "content": "t"},
        {"role": "user", "content": "after"},
    ]


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [USER, {"role": "assistant", "content": "The answer is"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        (block(type="document"), "messages[0].content[0].type"),
        (block(type="text"), "messages[0].content[0].text"),
        (block(type="text", text="a", citations=[{}]), "messages[0].content[0].citations"),
        (
            block(type="text", text="a", cache_control={"type": "ephemeral", "ttl": "1h"}),
            "messages[0].content[0].cache_control.ttl",
        ),
        (
            block(type="image", source={"type": "file", "file_id": "f"}),
            "messages[0].content[0].source.type",
        ),
        (block(type="tool_result", tool_use_id="c9"), "messages[0].content[0].tool_use_id"),
        (block(type="thinking", thinking="x", signature=""), "messages[0].content[0].type"),
        ({"system": 3}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "report"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"metadata": {"team": "x"}}, "metadata.team"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
        ({"service_tier": "standard_only"}, "service_tier"),
        ({"container": "c"}, "container"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"context_management": {"edits": [{**KEEP_THINKING, "keep": 1}]}}, "context_management"),
        ({"context_management": {"edits": [KEEP_THINKING, KEEP_THINKING]}}, "context_management"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management",
        ),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"n": 2}, "n"),
        ({"max_token": 5}, "max_token"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        converted(**fields)
    assert refused.value.param == param
    assert f"`{param}`" in str(refused.value)


@pytest.mark.parametrize(
    ("thinking", "param"),
    [
        ({"type": "enabled"}, "thinking.budget_tokens"),
        ({"type": "enabled", "budget_tokens": 1023}, "thinking.budget_tokens"),
        ({"type": "enabled", "budget_tokens": 2000}, "thinking.budget_tokens"),
        ({"type": "adaptive", "budget_tokens": 1024}, "thinking.budget_tokens"),
        ({"type": "between_tools"}, "thinking.type"),
        ({"type": "enabled", "budget_tokens": 1024, "effort": "low"}, "thinking.effort"),
    ],
)
def test_limits_of_the_thinking_form(thinking: dict[str, Any], param: str) -> None:
    with pytest.raises(BudgetError) as refused:
        converted(thinking=thinking)
    assert refused.value.param == param


def test_counting_needs_no_max_tokens() -> None:
    asked = {"messages": [USER], "context_management": {"edits": [KEEP_THINKING]}}
    assert chat_fields_of_messages(asked, counting=True) == {"messages": [USER]}
