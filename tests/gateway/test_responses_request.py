"""OpenAI's Responses requests as chat requests: what becomes of each field, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from server.budget.spec import BudgetError
from server.gateway.apis.responses_request import chat_fields_of_responses
from server.gateway.chat.chat_call import parse_chat
from server.gateway.errors import InvalidRequest

USER = {"role": "user", "content": "q"}
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"type": "function", "name": "report", "parameters": SCHEMA, "strict": True}
NAMESPACE = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [
        {"type": "function", "name": "report", "description": "Say it.", "parameters": SCHEMA},
        {"type": "function", "name": "find", "parameters": SCHEMA},
    ],
}
CALL = {"type": "function_call", "call_id": "c1", "name": "report", "arguments": "{}"}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "report", "arguments": "{}"}}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "yes"}
THOUGHT = {
    "type": "reasoning",
    "id": "r",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "hm"}],
}


def converted(**fields: Any) -> dict[str, Any]:
    chat = chat_fields_of_responses({"input": "q", **fields})
    # Whatever comes out has to be a valid chat request.
    parse_chat(chat)
    return chat


def messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return converted(input=list(items))["messages"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"model": "m", "stream": True, "temperature": 0.5, "top_p": 0.9, "user": "u", "seed": 3}, None),
        ({"max_thinking_tokens": 9, "num_waits": 1, "include_reasoning": False}, None),
        ({"max_output_tokens": 7}, {"max_completion_tokens": 7}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning": {"effort": "low"}}),
        ({"reasoning": {"summary": "detailed"}}, {}),
        ({"metadata": {"a": "b"}, "store": False, "truncation": "disabled", "include": []}, {}),
        ({"include": ["reasoning.encrypted_content"], "prompt_cache_key": "k"}, {}),
        ({"client_metadata": {"session": "s"}}, {}),
        ({"previous_response_id": None, "background": False, "tool_choice": "auto"}, {}),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "name": "report"},
                "parallel_tool_calls": False,
            },
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "report", "parameters": SCHEMA, "strict": True},
                    }
                ],
                "tool_choice": {"type": "function", "function": {"name": "report"}},
                "parallel_tool_calls": False,
            },
        ),
    ],
)
def test_root_fields(fields: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert converted(**fields) == {"messages": [USER]} | (fields if expected is None else expected)


def test_instructions_come_first() -> None:
    assert converted(instructions="s")["messages"] == [{"role": "system", "content": "s"}, USER]


def test_messages() -> None:
    text, image = (
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": "http://x", "detail": "low"},
    )
    said = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
    }
    assert messages(
        {"role": "developer", "content": "d"}, {"role": "user", "content": [text, image]}, said
    ) == [
        {"role": "developer", "content": "d"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "http://x", "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": "b"},
    ]


def test_items_of_one_turn_are_one_message() -> None:
    said = {"role": "assistant", "content": "I call."}
    other = {**CALL, "call_id": "c2"}
    told = messages(USER, THOUGHT, said, CALL, other, OUTPUT, {**OUTPUT, "call_id": "c2", "output": ""})
    assert told[1] == {
        "role": "assistant",
        "content": "I call.",
        "reasoning": "hm",
        "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "c2"}],
    }
    assert told[2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "yes"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
    ]


def test_each_turn_has_its_own_reasoning() -> None:
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]}
    told = messages(USER, THOUGHT, CALL, OUTPUT, summary, {"role": "assistant", "content": "b"}, USER)
    assert told[1] == {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CHAT_CALL]}
    assert told[3] == {"role": "assistant", "content": "b", "reasoning": "so"}
    assert messages(USER, {"role": "assistant", "content": "a"}, THOUGHT, CALL)[1:] == [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CHAT_CALL]},
    ]


def test_a_turn_that_was_cut_in_its_thinking() -> None:
    assert messages(USER, THOUGHT, USER)[1] == {"role": "assistant", "content": "", "reasoning": "hm"}
    assert messages(THOUGHT, CALL, THOUGHT, USER)[1] == {
        "role": "assistant",
        "content": "",
        "reasoning": "hm",
    }


def test_functions_of_a_namespace_have_both_names() -> None:
    call = {**CALL, "namespace": "crm"}
    chat = converted(tools=[{**TOOL, "name": "crm"}, NAMESPACE], input=[USER, call, OUTPUT])
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["crm", "crm__report", "crm__find"]
    assert chat["tools"][1]["function"] == {
        "name": "crm__report",
        "description": "Customers.\n\nSay it.",
        "parameters": SCHEMA,
    }
    assert "description" not in chat["tools"][2]["function"]
    assert chat["messages"][1]["tool_calls"][0]["function"]["name"] == "crm__report"


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"previous_response_id": "r"},
        {"input": [USER, {"type": "item_reference", "id": "msg_1"}]},
    ],
)
def test_what_would_need_a_store_says_what_to_send(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="stores nothing.*`store: false`"):
        converted(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [OUTPUT]}, "input[0].call_id"),
        ({"input": [USER, THOUGHT]}, "input[1]"),
        ({"input": [{**THOUGHT, "encrypted_content": "x"}, CALL]}, "input[0].encrypted_content"),
        (
            {"input": [{**THOUGHT, "summary": [{"type": "summary_text", "text": "no"}]}, CALL]},
            "input[0].summary",
        ),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"store": True}, "store"),
        ({"tools": [{**NAMESPACE, "tools": [{"type": "custom", "name": "x"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [{**NAMESPACE, "tools": None}]}, "tools[0].tools"),
        ({"tools": [NAMESPACE, {**TOOL, "name": "crm__report"}]}, "tools"),
        ({"prompt_cache_key": 3}, "prompt_cache_key"),
        ({"client_metadata": {"a": 1}}, "client_metadata.a"),
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"reasoning": {"generate_summary": "auto"}}, "reasoning.generate_summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"n": 2}, "n"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        converted(**fields)
    assert refused.value.param == param
    assert f"`{param}`" in str(refused.value)


@pytest.mark.parametrize(
    ("reasoning", "param"),
    [({"effort": "huge"}, "reasoning.effort"), ({"max_tokens": 5}, "reasoning.max_tokens"), (3, "reasoning")],
)
def test_the_reasoning_form(reasoning: Any, param: str) -> None:
    with pytest.raises(BudgetError) as refused:
        converted(reasoning=reasoning)
    assert refused.value.param == param
