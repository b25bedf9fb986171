"""What the choices of a request have in common is in memory once, and engines get all of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from server.gateway.chat.chat_call import engine_calls, parse_chat
from server.gateway.errors import BodyTooLarge

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 100_000}], "temperature": 0.5}
BUDGET = {"max_thinking_tokens": 9}
FIELDS = [
    {},
    {"seed": 7},
    {"stream": True, "stream_options": {"include_usage": False}},
    BUDGET,
    BUDGET | {"seed": 7, "vllm_xargs": {"own": 1}, "return_token_ids": True},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_choices_share_what_they_have_in_common(fields: dict[str, Any]) -> None:
    calls = engine_calls(parse_chat(ASK | fields | {"n": 3}), model="m", request_id="r")
    (alone,) = engine_calls(parse_chat(ASK | fields), model="m", request_id="r")
    assert all(call.shared is calls[0].shared for call in calls)
    assert all(len(call.body) < 200 for call in calls)
    for index, call in enumerate(calls):
        sent, expected = call.fields, alone.fields
        if "seed" in fields:
            expected["seed"] += index
        if call.receipt_id is not None:
            assert sent["vllm_xargs"].pop("receipt_id") == call.receipt_id
            expected["vllm_xargs"].pop("receipt_id")
        assert sent == expected
    assert len({call.receipt_id for call in calls}) == (3 if "max_thinking_tokens" in fields else 1)


@pytest.mark.parametrize("fields", [{"user": "x" * 2_000_000}, {"vllm_xargs": {"own": "x" * 2_000_000}}])
def test_what_is_in_memory_for_each_choice_counts_too(fields: dict[str, Any]) -> None:
    with pytest.raises(BodyTooLarge, match="`n` must be <= 6"):
        engine_calls(parse_chat(ASK | fields | {"n": 100}), model="m", request_id="r")


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("choices", [1, 2])
def test_token_ids_can_be_asked_for_later(fields: dict[str, Any], choices: int) -> None:
    for call in engine_calls(parse_chat(ASK | fields | {"n": choices}), model="m", request_id="r"):
        asking = call.asking_for_ids()
        assert asking.fields == call.fields | {"return_token_ids": True}
        assert orjson.loads(asking.shared + asking.body) == asking.fields
