"""Receipts of choices without a budget, from what vLLM says of them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from server.budget.spec import ThinkingBudget
from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.receipts import Finish, receipt_for
from server.gateway.engines.engine import ChatEngine

USAGE = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 9}}
SECOND_EOS = 415


@pytest.mark.parametrize(
    ("body", "stop_reason", "ended_by"),
    [
        (b"{}", None, "model"),
        # A model may have several ends of sequence: vLLM tells an id for all but the first.
        (b"{}", SECOND_EOS, "model"),
        (b'{"stop_token_ids":[7]}', SECOND_EOS, "model"),
        (b'{"stop_token_ids":[7]}', 7, "stop"),
        (b"{}", "\\n\\n", "stop"),
    ],
)
async def test_who_ended_a_choice_inside_its_thinking(
    body: bytes, stop_reason: int | str | None, ended_by: str
) -> None:
    call = EngineCall(0, body, "r", None, ThinkingBudget())
    nobody = cast(ChatEngine, None)
    told: dict[str, Any] | None = await receipt_for(
        nobody, call, Finish("stop", stop_reason, has_answer=False), USAGE
    )
    assert told is not None
    assert told["ended_by"] == ended_by
