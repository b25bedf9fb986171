"""A request's memory is free at its end: what stands in a cycle waits for the garbage collector, and is cold
by the time it is used again.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway.test_gateway_chat import ASK

CHAT = "/v1/chat/completions"
BUDGET = {"max_thinking_tokens": 5}
MESSAGES = ASK | {"max_tokens": 900, "max_thinking_tokens": 5}
RESPONSES = {"model": ASK["model"], "input": "How many r in raspberry?", "max_thinking_tokens": 5}


@contextlib.contextmanager
def left_in_cycles() -> Iterator[list[Any]]:
    """Filled, at the end, with what only the garbage collector finds."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    found: list[Any] = []
    try:
        yield found
        gc.collect()
        found.extend(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, ASK | BUDGET, 200),
        (CHAT, ASK | BUDGET | {"stream": True}, 200),
        (CHAT, ASK | BUDGET | {"stream": True, "n": 2}, 200),
        (CHAT, ASK | BUDGET | {"stream": True, "stream_granularity": "auto"}, 200),
        (CHAT, ASK | {"max_thinking_tokens": -1}, 400),
        (CHAT, ASK | BUDGET | {"parallel": {"width": 3, "method": "majority_vote"}}, 200),
        ("/v1/messages", MESSAGES, 200),
        ("/v1/messages", MESSAGES | {"stream": True}, 200),
        ("/v1/responses", RESPONSES, 200),
        ("/v1/responses", RESPONSES | {"stream": True}, 200),
    ],
)
async def test_no_request_leaves_a_cycle(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int
) -> None:
    async def ask() -> None:
        answer = await client.post(path, json=body)
        assert answer.status_code == status, answer.text
        # Whoever reads the metrics has all requests counted, and forgotten.
        await client.get("/metrics")

    # The first one imports what it needs.
    await ask()
    with left_in_cycles() as left:
        for _ in range(3):
            await ask()
    assert {type(one).__qualname__ for one in left if type(one).__module__.startswith("server.")} == set()
