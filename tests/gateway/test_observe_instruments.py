"""Metrics that depend on the order in which the choices of a request end."""

from __future__ import annotations

import itertools

import pytest
from prometheus_client import CollectorRegistry

from server.budget.spec import ThinkingBudget
from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.receipts import Finish
from server.gateway.observe.instruments import Instruments
from server.gateway.observe.observation import Observation

ENDED = Finish("stop", None, has_answer=True)
USAGE = {"prompt_tokens": 26, "completion_tokens": 10}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_choices_share_their_prompt_in_whatever_order_they_end(order: tuple[int, ...]) -> None:
    registry = CollectorRegistry()
    sinks = [Instruments(registry, per_key=False)]
    seen = Observation("chat", started=0.0, started_at_ns=0, sinks=sinks, model="tiny", engines=["one"])
    calls = [EngineCall(index, b"", str(index), None, ThinkingBudget()) for index in range(3)]
    for call in calls:
        seen.begin(call)
    for index in order:
        seen.settled(calls[index], ENDED, USAGE, None)
    counted = {
        kind: registry.get_sample_value("s1_tokens_total", {"model": "tiny", "kind": kind})
        for kind in ("prompt", "uncounted")
    }
    assert counted == {"prompt": 26, "uncounted": 30}
