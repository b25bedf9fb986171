"""/v1/messages and /v1/responses before the real engine: budgets, streams and tools, by the SDKs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic, beta_tool
from openai import OpenAI

from tests.support.engines import Running

pytestmark = pytest.mark.engine

QUESTION: Any = {"role": "user", "content": "How many r in raspberry?"}
SCHEMA: Any = {
    "type": "object",
    "properties": {"count": {"type": "integer", "enum": [1, 2, 3, 4]}},
    "required": ["count"],
    "additionalProperties": False,
}
# The demo model never learnt JSON, and the grammar of a tool call lets it write white space to the end.
PLAIN = {"temperature": 0, "logit_bias": {str(token): -100 for token in (197, 198, 201, 220)}}
BUDGETS = [(0, 0), (16, 0), (64, 2)]


@pytest.fixture(scope="module")
def claude(served: Running) -> Iterator[Anthropic]:
    with Anthropic(base_url=served.url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


def check(receipt: dict[str, Any], thinking_tokens: int, maximum: int, waits: int) -> None:
    assert receipt["effective"] == {"min": 0, "max": maximum, "num_waits": waits}
    assert receipt["thinking_tokens"] == thinking_tokens <= maximum
    if receipt["ended_by"] == "max_thinking_tokens":
        assert thinking_tokens == maximum


@pytest.mark.parametrize(("maximum", "waits"), BUDGETS)
def test_the_same_answer_in_all_three_apis(
    client: OpenAI, claude: Anthropic, served: Running, maximum: int, waits: int
) -> None:
    budget = {"max_thinking_tokens": maximum, "num_waits": waits, "temperature": 0}
    chat = client.chat.completions.create(
        model=served.model, messages=[QUESTION], max_tokens=400, extra_body=budget
    )
    said: Any = chat.choices[0].message
    message = claude.messages.create(
        model=served.model, messages=[QUESTION], max_tokens=400, extra_body=budget
    )
    with claude.messages.stream(
        model=served.model, messages=[QUESTION], max_tokens=400, extra_body=budget
    ) as stream:
        deltas = [event for event in stream if event.type == "message_delta"]
        streamed = stream.get_final_message()
    response = client.responses.create(
        model=served.model, input=QUESTION["content"], max_output_tokens=400, extra_body=budget
    )
    with client.responses.stream(
        model=served.model, input=QUESTION["content"], max_output_tokens=400, extra_body=budget
    ) as events:
        for _ in events:
            pass
        final = events.get_final_response()
    expected = [kind for kind, text in (("thinking", said.reasoning), ("text", said.content)) if text]
    for got in (message, streamed):
        assert [block.type for block in got.content] == expected
        texts = [getattr(block, block.type) for block in got.content]
        assert texts == [text for text in (said.reasoning, said.content) if text]
        assert got.stop_reason == "end_turn"
        assert got.usage.output_tokens == chat.usage.completion_tokens  # type: ignore[union-attr]
        assert got.usage.input_tokens == chat.usage.prompt_tokens  # type: ignore[union-attr]
        details: Any = got.usage.output_tokens_details
        thinking_tokens = details.thinking_tokens
    receipts = [message.thinking_budget, deltas[-1].thinking_budget]  # type: ignore[attr-defined]
    for reply in (response, final):
        assert reply.output_text == said.content
        thoughts = [item.content[0].text for item in reply.output if item.type == "reasoning"]  # type: ignore[index]
        assert thoughts == ([said.reasoning] if said.reasoning else [])
        usage: Any = reply.usage
        assert usage.output_tokens_details.reasoning_tokens == thinking_tokens
        receipts.append(reply.thinking_budget)  # type: ignore[attr-defined]
    for receipt in receipts:
        check(receipt, thinking_tokens, maximum, waits)


def test_anthropics_own_budget(claude: Anthropic, served: Running) -> None:
    message = claude.messages.create(
        model=served.model,
        messages=[QUESTION],
        max_tokens=1600,
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"min_thinking_tokens": 60},
    )
    receipt = message.thinking_budget  # type: ignore[attr-defined]
    assert receipt["effective"] == {"min": 60, "max": 1024, "num_waits": 0}
    assert 60 <= receipt["thinking_tokens"] <= 1024
    off = claude.messages.create(
        model=served.model, messages=[QUESTION], max_tokens=200, thinking={"type": "disabled"}
    )
    assert [block.type for block in off.content] == ["text"]


def test_counted_tokens_are_the_prompts(claude: Anthropic, served: Running) -> None:
    counted = claude.messages.count_tokens(model=served.model, messages=[QUESTION], system="Be brief.")
    message = claude.messages.create(
        model=served.model, messages=[QUESTION], system="Be brief.", max_tokens=64
    )
    assert counted.input_tokens == message.usage.input_tokens


def test_a_tool_round_trip_in_chat(client: OpenAI, served: Running) -> None:
    tool: Any = {"type": "function", "function": {"name": "report", "parameters": SCHEMA}}
    forced: Any = {"type": "function", "function": {"name": "report"}}
    arguments: Any = {"model": served.model, "max_tokens": 300, "tools": [tool]}
    budget = {"max_thinking_tokens": 16}
    first = client.chat.completions.create(
        messages=[QUESTION], tool_choice=forced, extra_body=PLAIN | budget, **arguments
    )
    (call,) = first.choices[0].message.tool_calls or []
    assert set(json.loads(call.function.arguments)) == {"count"}  # type: ignore[union-attr]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "reported"}
    said: Any = first.choices[0].message
    turn: Any = {"role": "assistant", "reasoning": said.reasoning, "tool_calls": [call.model_dump()]}
    second = client.chat.completions.create(
        messages=[QUESTION, turn, result], tool_choice="none", extra_body=budget, **arguments
    )
    assert second.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_round_trip_in_messages(claude: Anthropic, served: Running, stream: bool) -> None:
    tool: Any = {"name": "report", "input_schema": SCHEMA}
    arguments: Any = {"model": served.model, "max_tokens": 300, "tools": [tool]}
    budget = {"max_thinking_tokens": 16}

    def ask(messages: list[Any], choice: Any, extra: dict[str, Any]) -> Any:
        asked = {**arguments, "messages": messages, "tool_choice": choice, "extra_body": budget | extra}
        if not stream:
            return claude.messages.create(**asked)
        with claude.messages.stream(**asked) as events:
            return events.get_final_message()

    first = ask([QUESTION], {"type": "tool", "name": "report"}, PLAIN)
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert first.stop_reason == "tool_use"
    assert set(first.content[1].input) == {"count"}
    result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "reported"}
    turns = [QUESTION, first.to_param(), {"role": "user", "content": [result]}]
    second = ask(turns, {"type": "none"}, {})
    assert second.content[-1].type == "text"
    assert second.usage.output_tokens_details.thinking_tokens <= 16


def test_anthropics_tool_runner(claude: Anthropic, served: Running) -> None:
    counted: list[int] = []

    @beta_tool(input_schema=SCHEMA)
    def report(count: int) -> str:
        """Report the count."""
        counted.append(count)
        return "reported"

    runner = claude.beta.messages.tool_runner(
        model=served.model,
        max_tokens=300,
        messages=[QUESTION],
        tools=[report],
        tool_choice={"type": "tool", "name": "report"},
        max_iterations=2,
        extra_body={"max_thinking_tokens": 16} | PLAIN,
    )
    first, second = runner
    assert first.stop_reason == second.stop_reason == "tool_use"
    # The second turn had the first before it.
    assert second.usage.input_tokens > first.usage.input_tokens + 16
    assert len(counted) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_round_trip_in_responses(client: OpenAI, served: Running, stream: bool) -> None:
    tool: Any = {"type": "function", "name": "report", "parameters": SCHEMA, "strict": True}
    arguments: Any = {"model": served.model, "max_output_tokens": 300, "tools": [tool]}
    budget = {"max_thinking_tokens": 16}

    def ask(items: list[Any], choice: Any, extra: dict[str, Any]) -> Any:
        asked = {**arguments, "input": items, "tool_choice": choice, "extra_body": budget | extra}
        if not stream:
            return client.responses.create(**asked)
        with client.responses.stream(**asked) as events:
            return events.get_final_response()

    first = ask([QUESTION], {"type": "function", "name": "report"}, PLAIN)
    thought, call = first.output
    assert (thought.type, call.type) == ("reasoning", "function_call")
    assert set(json.loads(call.arguments)) == {"count"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "reported"}
    given_back = [
        item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in (thought, call)
    ]
    second = ask([QUESTION, *given_back, result], "none", {})
    assert second.output_text
    assert second.usage.output_tokens_details.reasoning_tokens <= 16


def test_a_namespaces_function_by_both_its_names(client: OpenAI, served: Running) -> None:
    function = {"type": "function", "name": "report", "parameters": SCHEMA, "strict": True}
    group: Any = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [function]}
    arguments: Any = {"model": served.model, "max_output_tokens": 300, "tools": [group]}
    budget = {"max_thinking_tokens": 16}
    first = client.responses.create(
        input=[QUESTION], tool_choice="required", extra_body=PLAIN | budget, **arguments
    )
    call: Any = first.output[-1]
    assert (call.type, call.namespace, call.name) == ("function_call", "crm", "report")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "reported"}
    given_back = [item.model_dump(exclude_none=True) for item in first.output]
    second = client.responses.create(
        input=[QUESTION, *given_back, result], tool_choice="none", extra_body=budget, **arguments
    )
    assert second.output_text


def test_a_turn_cut_in_its_thinking_is_taken_back(client: OpenAI, served: Running) -> None:
    cut = client.responses.create(model=served.model, input=[QUESTION], max_output_tokens=8)
    assert [item.type for item in cut.output] == ["reasoning"]
    given_back: Any = [item.model_dump(exclude_none=True) for item in cut.output]
    after = client.responses.create(
        model=served.model, input=[QUESTION, *given_back, QUESTION], max_output_tokens=300
    )
    assert after.output_text
