"""Chat answers as Anthropic messages and OpenAI responses: whole and streamed say the same."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from server.gateway.apis.error_forms import error_body
from server.gateway.apis.messages_answer import SIGNATURE, MessageStream, message_of_completion
from server.gateway.apis.responses_answer import ResponseShape, ResponseStream, response_of_completion
from server.gateway.errors import EngineMisbehaved

RECEIPT = {"thinking_tokens": 2}
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 9,
    "total_tokens": 20,
    "completion_tokens_details": {"reasoning_tokens": 2},
}
ANTHROPIC_USAGE = {"input_tokens": 11, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 2}}


def call(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "id": f"c{index}", "function": {"name": "report", "arguments": arguments}}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


THINKING = [{"reasoning": "t0 "}, {"reasoning": "t1"}]
TEXT = [{"content": "4"}, {"content": "2"}]
CALLS = [
    {"tool_calls": [call(0, "")]},
    more(0, '{"a":'),
    more(0, " 1}"),
    {"tool_calls": [call(1, "{}")]},
]
CUT = [{"tool_calls": [call(0, '{"a": 1, "b')]}]
CASES = {
    "all": (THINKING + TEXT + CALLS, "tool_calls", None, "tool_use"),
    "text": (THINKING + TEXT, "stop", None, "end_turn"),
    "no thinking": (TEXT, "stop", None, "end_turn"),
    "forced call": (THINKING + CALLS, "stop", None, "tool_use"),
    "stop string": (TEXT, "stop", "\n", "stop_sequence"),
    "stop token": (TEXT, "stop", 7, "end_turn"),
    "length": (THINKING + TEXT, "length", None, "max_tokens"),
    "length in thinking": (THINKING, "length", None, "max_tokens"),
    "length in a call": (CUT, "length", None, "max_tokens"),
    "nothing": ([], "stop", None, "end_turn"),
}


def chunks(deltas: list[dict[str, Any]], finish: str, stop: int | str | None) -> list[dict[str, Any]]:
    ending = {"delta": {}, "finish_reason": finish, "stop_reason": stop, "thinking_budget": RECEIPT}
    choices = [{"delta": delta} for delta in [{"role": "assistant", "content": ""}, *deltas]]
    return [
        *({"model": "m", "choices": [choice]} for choice in [*choices, ending]),
        {"model": "m", "choices": [], "usage": USAGE},
    ]


def completion(deltas: list[dict[str, Any]], finish: str, stop: int | str | None) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        if "id" in piece:
            calls.append({"id": piece["id"], "function": dict(piece["function"])})
        else:
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    joined = {n: "".join(delta.get(n, "") for delta in deltas) or None for n in ("reasoning", "content")}
    choice = {"message": {**joined, "tool_calls": calls}, "finish_reason": finish, "stop_reason": stop}
    return {"model": "m", "choices": [{**choice, "thinking_budget": RECEIPT}], "usage": USAGE}


@pytest.mark.parametrize("case", CASES)
def test_messages_whole_and_streamed(case: str) -> None:
    deltas, finish, stop, reason = CASES[case]
    whole = message_of_completion(completion(deltas, finish, stop), id="msg_1")
    Message.model_validate(whole, strict=True)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (
        reason,
        "\n" if reason == "stop_sequence" else None,
    )
    assert whole["usage"] == ANTHROPIC_USAGE
    assert whole["thinking_budget"] == RECEIPT
    stream = MessageStream("msg_1")
    events = [event for chunk in chunks(deltas, finish, stop) for event in stream.read(chunk)]
    reader: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        reader.validate_python(event, strict=True)
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)  # type: ignore[arg-type]
    streamed = snapshot.to_dict()
    expected = [
        # The SDK keeps what a cut string has so far.
        block | {"input": {"a": 1}} if block["type"] == "tool_use" and finish == "length" else block
        for block in whole["content"]
    ]
    assert streamed["content"] == expected
    assert {**streamed, "content": 0} == {k: v for k, v in whole.items() if k != "thinking_budget"} | {
        "content": 0
    }
    assert events[-2]["thinking_budget"] == RECEIPT
    check_blocks(events)


def check_blocks(events: list[dict[str, Any]]) -> None:
    assert [event["type"] for event in events[:1] + events[-2:]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    open_block = None
    count = 0
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert open_block is None
            assert event["index"] == count
            open_block, count = event["index"], count + 1
        else:
            assert event["index"] == open_block
            if event["type"] == "content_block_stop":
                open_block = None
    assert open_block is None


def test_thinking_is_signed_at_its_end() -> None:
    stream = MessageStream("msg_1")
    events = [event for chunk in chunks(THINKING + TEXT, "stop", None) for event in stream.read(chunk)]
    kinds = [event.get("delta", event).get("type", event["type"]) for event in events]
    assert kinds[:6] == [
        "message_start",
        "content_block_start",
        "thinking_delta",
        "thinking_delta",
        "signature_delta",
        "content_block_stop",
    ]
    assert events[4]["delta"]["signature"] == SIGNATURE


@pytest.mark.parametrize("arguments", ["{", "[1]", "nonsense"])
def test_a_finished_call_without_an_object_is_an_error(arguments: str) -> None:
    with pytest.raises(EngineMisbehaved):
        message_of_completion(
            completion([{"tool_calls": [call(0, arguments)]}], "tool_calls", None), id="msg_1"
        )


def test_a_call_without_a_name_is_an_error() -> None:
    with pytest.raises(EngineMisbehaved):
        list(MessageStream("msg_1").read(chunks([more(0, "{}")], "stop", None)[1]))


def test_cached_tokens_are_counted_apart() -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}
    whole = message_of_completion(completion(TEXT, "stop", None) | {"usage": usage}, id="msg_1")
    assert (whole["usage"]["input_tokens"], whole["usage"]["cache_read_input_tokens"]) == (7, 4)


@pytest.mark.parametrize("summary", [None, "auto"])
@pytest.mark.parametrize("case", CASES)
def test_responses_whole_and_streamed(case: str, summary: str | None) -> None:
    deltas, finish, stop, _ = CASES[case]
    shape = ResponseShape("resp_1", 5, {"input": "q", "reasoning": {"effort": "low", "summary": summary}})
    whole = response_of_completion(completion(deltas, finish, stop), shape)
    Response.model_validate(whole, strict=True)
    cut = finish == "length"
    assert whole["status"] == ("incomplete" if cut else "completed")
    assert whole["incomplete_details"] == ({"reason": "max_output_tokens"} if cut else None)
    assert [item["status"] for item in whole["output"]][-1:] in ([], ["incomplete" if cut else "completed"])
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert whole["thinking_budget"] == RECEIPT
    stream = ResponseStream(shape)
    events = [event for chunk in chunks(deltas, finish, stop) for event in stream.read(chunk)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == whole
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == whole["output"]
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    reader: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:
        state.handle_event(reader.validate_python(event, strict=True))
    if not cut:
        assert [item.type for item in state._completed_response.output] == [
            i["type"] for i in whole["output"]
        ]


@pytest.mark.parametrize("summary", [None, "detailed"])
def test_where_thinking_stands_in_a_response(summary: str | None) -> None:
    shape = ResponseShape("resp_1", 5, {"reasoning": {"summary": summary}})
    item = response_of_completion(completion(THINKING + TEXT, "stop", None), shape)["output"][0]
    shown, empty = ("summary", "content") if summary else ("content", "summary")
    assert item[shown] == [{"type": f"{'summary' if summary else 'reasoning'}_text", "text": "t0 t1"}]
    assert item[empty] == []


@pytest.mark.parametrize("namespace", [None, "crm"])
def test_a_call_names_its_function(namespace: str | None) -> None:
    tool: dict[str, Any] = {"type": "function", "name": "report", "parameters": {}}
    called = "report"
    if namespace is not None:
        tool = {"type": "namespace", "name": namespace, "description": "d", "tools": [tool]}
        called = "crm__report"
    deltas = [{"tool_calls": [{"index": 0, "id": "c0", "function": {"name": called, "arguments": "{}"}}]}]
    stream = ResponseStream(ResponseShape("resp_1", 5, {"input": "q", "tools": [tool]}))
    events = [event for chunk in chunks(deltas, "tool_calls", None) for event in stream.read(chunk)]
    told = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [event["name"] for event in told] == ["report"]
    items = [event["item"] for event in events if "item" in event] + events[-1]["response"]["output"]
    assert [(item["name"], item.get("namespace")) for item in items] == [("report", namespace)] * 3


def test_a_failed_response() -> None:
    stream = ResponseStream(ResponseShape("resp_1", 5, {}))
    sent = list(stream.read(chunks(TEXT, "stop", None)[1]))
    failed = stream.fail({"message": "lost", "type": "engine_error", "param": None, "code": "x"})
    assert failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(sent)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {
        "code": "server_error",
        "message": "lost",
        "type": "engine_error",
        "param": None,
    }


@pytest.mark.parametrize(
    ("path", "given", "told"),
    [
        ("/v1/responses", ("messages[1].reasoning", "`messages[1].reasoning` x"), ("input", "`input` x")),
        ("/v1/responses", ("max_completion_tokens", "`max_completion_tokens` x"), ("max_output_tokens",) * 2),
        ("/v1/responses", ("max_thinking_tokens", "`messages` x"), ("max_thinking_tokens", "`input` x")),
        ("/v1/chat/completions", ("messages[1].x", "`messages[1].x`"), ("messages[1].x", "`messages[1].x`")),
    ],
)
def test_errors_name_fields_as_their_api_does(
    path: str, given: tuple[str, str], told: tuple[str, str]
) -> None:
    error = {"message": given[1], "type": "t", "param": given[0], "code": None}
    found = error_body({"error": error}, 400, {"path": path})["error"]
    assert found["param"] == told[0]
    assert told[1] in found["message"]
