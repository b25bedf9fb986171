"""What metrics make of one request, seen step by step."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from server.budget.spec import ThinkingBudget
from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.receipts import Finish
from server.gateway.errors import EngineDied, GatewayError, Overloaded, QuotaExceeded
from server.gateway.observe.instruments import Instruments
from server.gateway.observe.observation import EngineWatch, Observation
from server.gateway.observe.observed_engine import ObservedEngine
from server.gateway.observe.series import Distribution

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


TOKENS_PER_S = 200
THINKING, MARKERS, ANSWER = 41, 7, 60


class Engine:
    """Streams a token every 5 ms, `interval` of them an event, the first alone, as vLLM does."""

    def __init__(self, interval: int, *, tells_ids: bool) -> None:
        self.interval, self.tells_ids, self.now = interval, tells_ids, 1.0

    async def stream(self, call: EngineCall, on_event: Any) -> None:
        for tokens, kind in self._events():
            choice: dict[str, Any] = {"index": 0, "delta": {kind: "x"} if kind else {}}
            if self.tells_ids:
                choice["token_ids"] = [1] * tokens
            await on_event({"choices": [choice]})

    def _events(self) -> Iterator[tuple[int, str | None]]:
        self.now += 0.005
        yield 1, "reasoning"
        for kind, count in (("reasoning", THINKING - 1), (None, MARKERS), ("content", ANSWER)):
            for begin in range(0, count, self.interval):
                tokens = min(self.interval, count - begin)
                self.now += tokens / TOKENS_PER_S
                yield tokens, kind


async def observed(interval: int, *, tells_ids: bool, registry: CollectorRegistry) -> Observation:
    engine = Engine(interval, tells_ids=tells_ids)
    seen = Observation(
        "chat",
        started=1.0,
        started_at_ns=0,
        sinks=[Instruments(registry, per_key=False)],
        clock=lambda: engine.now,
        model="tiny",
        engines=["one"],
    )
    call = EngineCall(0, b"", "0", None, ThinkingBudget(), stream_interval=interval)
    await ObservedEngine(engine, seen).stream(call, quietly)  # type: ignore[arg-type]
    seen.settled(call, ENDED, USAGE, None)
    seen.status, seen.complete = 200, True
    seen.finish()
    return seen


async def quietly(chunk: dict[str, Any]) -> None:
    """A client that reads on."""


@pytest.mark.parametrize("tells_ids", [True, False])
@pytest.mark.parametrize("interval", [1, 4, 10, 20])
async def test_rates_and_counts_are_of_tokens_whatever_an_event_has(interval: int, tells_ids: bool) -> None:
    registry = CollectorRegistry()
    seen = await observed(interval, tells_ids=tells_ids, registry=registry)
    (watch,) = seen.watches
    assert (watch.thinking_tokens, watch.answer_tokens) == (THINKING, ANSWER)
    for phase in ("thinking", "answer"):
        rate = registry.get_sample_value(f"s1_{phase}_rate_tokens_per_second_sum", {"model": "tiny"})
        assert rate == pytest.approx(TOKENS_PER_S), phase


class Asks:
    """Of a call all that matters here."""

    stream = True

    def __init__(self, parallel: object = None) -> None:
        self.parallel = parallel


@pytest.mark.parametrize(
    ("error", "complete", "delta", "parallel", "unanswered"),
    [
        (None, False, {}, None, 1),
        (EngineDied("died"), True, {}, None, 1),
        (Overloaded("full"), True, {}, None, 1),
        (None, False, {"content": "x"}, None, 0),
        (None, False, {"reasoning": "x", "content": "x"}, None, 0),
        (None, True, {}, None, 0),
        (QuotaExceeded("no more"), True, {}, None, 0),
        # Its branches are asked for whole answers, so that none is ever seen to begin.
        (None, False, {}, "majority_vote", 0),
    ],
)
def test_streams_that_were_left_without_an_answer_are_timed(
    error: GatewayError | None, complete: bool, delta: dict[str, str], parallel: str | None, unanswered: int
) -> None:
    registry = CollectorRegistry()
    sinks = [Instruments(registry, per_key=False)]
    seen = Observation(
        "chat", 0.0, 0, sinks, clock=lambda: 45.0, model="tiny", engines=["one"], call=Asks(parallel)  # type: ignore[arg-type]
    )  # fmt: skip
    watch = seen.begin(EngineCall(0, b"", "0", None, ThinkingBudget()))
    see = watch.seeing(lambda: 1.0, quietly)
    asyncio.run(see({"choices": [{"delta": {"reasoning": "x"}}]}))
    asyncio.run(see({"choices": [{"delta": delta}]}))
    seen.error, seen.status, seen.complete = error, 200, complete
    seen.finish()
    name, of = "s1_unanswered_stream_duration_seconds", {"model": "tiny"}
    assert registry.get_sample_value(f"{name}_count", of) == unanswered
    assert registry.get_sample_value(f"{name}_sum", of) == 45.0 * unanswered


@pytest.mark.parametrize(
    ("ids", "answer", "thinking_tokens", "answer_tokens"),
    [(12, {"content": "2"}, 11, 1), (12, {"content": "20 apples"}, 6, 6), (2, {"content": "2" * 90}, 1, 1),
     (12, {"tool_calls": [{"index": 0}]}, 11, 1), (1, {"content": "2"}, 1, 1)],
)  # fmt: skip
def test_a_part_with_thinking_and_answer_is_of_both(
    ids: int, answer: dict[str, Any], thinking_tokens: int, answer_tokens: int
) -> None:
    """A short answer comes in one event with the thinking's end."""
    call = EngineCall(0, b"", "0", None, ThinkingBudget(), stream_interval=20)
    watch = EngineWatch(call, "one", begun=0.0, keeps_text=True)
    see = watch.seeing(lambda: 1.5, quietly)
    asyncio.run(see({"choices": [{"delta": {"reasoning": "So 2. Yes"} | answer, "token_ids": [7] * ids}]}))
    assert (watch.first_thinking, watch.first_answer) == (1.5, 1.5)
    assert (watch.thinking_tokens, watch.answer_tokens) == (thinking_tokens, answer_tokens)
    assert "".join(watch.text) == "So 2. Yes" + answer.get("content", "")


@pytest.mark.parametrize(("maximum", "counted"), [(0, 0), (5, 1)])
def test_where_no_thinking_is_allowed_none_is_cut_off(maximum: int, counted: int) -> None:
    registry = CollectorRegistry()
    sinks = [Instruments(registry, per_key=False)]
    seen = Observation("chat", started=0.0, started_at_ns=0, sinks=sinks, model="tiny", engines=["one"])
    call = EngineCall(0, b"", "0", "r", ThinkingBudget(max_thinking_tokens=maximum))
    seen.begin(call)
    receipt = {
        "requested": {"max_thinking_tokens": maximum},
        "effective": {"min": 0, "max": maximum, "num_waits": 0},
        "thinking_tokens": maximum,
        "answer_tokens": 4,
        "waits": 0,
        "ended_by": "max_thinking_tokens",
        "clamped_by": [],
    }
    seen.settled(call, ENDED, USAGE, receipt)
    of = {"model": "tiny", "ended_by": "max_thinking_tokens"}
    assert registry.get_sample_value("s1_thinking_ended_total", of) == counted


def test_a_models_requests_begin_at_zero() -> None:
    registry = CollectorRegistry()
    Instruments(registry, per_key=False).know(models=["tiny"], engines=[])
    of = {"api": "chat", "model": "tiny", "outcome": "engine_error"}
    assert registry.get_sample_value("s1_requests_total", of) == 0


BOUNDS = (0.25, 0.5, 1.0, 4.0)


@given(gaps=st.lists(st.sampled_from((0.0, 0.125, 0.25, 0.375, 0.5, 1.0, 2.0, 4.0, 8.0)), max_size=40))
def test_times_between_moments_are_counted_as_if_one_by_one(gaps: list[float]) -> None:
    together, one_by_one = Distribution(BOUNDS), Distribution(BOUNDS)
    together.observe_between(list(itertools.accumulate(gaps, initial=1.0)))
    for gap in gaps:
        if gap:
            one_by_one.observe(gap)
    assert together.buckets() == one_by_one.buckets()
    assert together.sum == one_by_one.sum
