"""What several workers' metrics, views and words become together."""

from __future__ import annotations

from array import array
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from server.gateway.app import create_app
from server.gateway.errors import CompletionNotFound, Conflict, EngineRefused, GatewayError, Overloaded
from server.gateway.live.kept_thinking import Kept, KeptChoice
from server.gateway.settings import Settings, SettingsError
from server.gateway.workers.fleet import (
    error_of,
    error_to_json,
    kept_from_json,
    kept_to_json,
    merged_readiness,
)
from server.gateway.workers.share import engines_from, share_of
from server.gateway.workers.totals import (
    Fixed,
    Snapshot,
    add_up,
    lasting,
    left_behind,
    metrics_of,
    snapshot,
    total,
)


def told(registry: CollectorRegistry) -> Snapshot:
    read: Snapshot = orjson.loads(orjson.dumps(snapshot(registry.collect())))
    return read


def worker(
    *,
    counted: int = 0,
    took_s: float = 0.3,
    engine: str = "http://a",
    state: str = "ready",
    reconnects: int = 0,
) -> Snapshot:
    registry = CollectorRegistry()
    Counter("s1_requests", "R.", ["outcome"], registry=registry).labels("ok").inc(counted)
    Counter("s1_engine_errors", "E.", ["engine"], registry=registry).labels(engine).inc(counted)
    Counter("s1_engine_reconnects", "B.", ["engine"], registry=registry).labels(engine).inc(reconnects)
    duration = Histogram("s1_took_seconds", "D.", buckets=(0.5, 1), registry=registry)
    duration.observe(took_s, {"trace_id": f"{counted:x}"})
    states = Gauge("s1_engine_state", "S.", ["engine", "state"], registry=registry)
    for name in ("starting", "ready", "down"):
        states.labels(engine, name).set(name == state)
    for name, value in (("s1_queue", counted), ("s1_engine_kv_cache_tokens", 4096)):
        Gauge(name, "G.", ["engine"], registry=registry).labels(engine).set(value)
    return told(registry)


def values(one: Snapshot) -> dict[tuple[Any, ...], float]:
    return {
        (name, *labels.values()): value
        for family in one
        for name, labels, value, _ in family["samples"]
        if not name.endswith("_created")
    }


def test_counts_add_up_and_views_do_not() -> None:
    found = values(total([worker(counted=3, reconnects=2), worker(counted=4, took_s=0.7, reconnects=1)], []))
    assert found["s1_requests_total", "ok"] == 7
    assert found["s1_queue", "http://a"] == 7
    assert [found["s1_took_seconds_bucket", le] for le in ("0.5", "1.0", "+Inf")] == [1, 2, 2]
    assert found["s1_took_seconds_sum",] == pytest.approx(1.0)
    assert found["s1_engine_kv_cache_tokens", "http://a"] == 4096
    assert found["s1_engine_reconnects_total", "http://a"] == 2


@pytest.mark.parametrize(
    ("one", "other", "whole"),
    [("ready", "ready", "ready"), ("ready", "starting", "starting"), ("down", "starting", "down")],
)
def test_the_worst_view_of_an_engine_holds(one: str, other: str, whole: str) -> None:
    found = values(total([worker(state=one), worker(state=other)], []))
    states = {name: found["s1_engine_state", "http://a", name] for name in ("starting", "ready", "down")}
    assert states == {name: float(name == whole) for name in states}


def test_a_worker_that_has_ended_leaves_its_counts_alone() -> None:
    ended = add_up([lasting(worker(counted=5)), lasting(worker(counted=6, engine="http://gone"))])
    found = values(total([worker(counted=1)], ended))
    assert found["s1_requests_total", "ok"] == 12
    assert found["s1_took_seconds_count",] == 3
    assert found["s1_queue", "http://a"] == 1
    # Of engines that nobody knows any more there are no series.
    assert found["s1_engine_errors_total", "http://a"] == 6
    assert ("s1_engine_errors_total", "http://gone") not in found


def test_a_series_that_begins_anew_leaves_what_it_had_counted() -> None:
    before, away, again = worker(counted=90), worker(engine="http://b"), worker(counted=7, took_s=0.7)
    assert left_behind(before, before) == []
    kept = left_behind(before, away)
    # The engine's series have gone; the worker's own began anew.
    found = values(total([worker(counted=100), again], add_up([kept, left_behind(away, again)])))
    assert found["s1_engine_errors_total", "http://a"] == 100 + 90 + 7
    assert found["s1_requests_total", "ok"] == 100 + 90 + 7
    assert [found["s1_took_seconds_bucket", le] for le in ("0.5", "1.0", "+Inf")] == [3, 4, 4]


def test_a_sum_is_told_with_its_exemplars() -> None:
    summed = total([worker(counted=3), worker(counted=10)], [])
    registry = CollectorRegistry()
    registry.register(Fixed(metrics_of(summed)))
    families = {
        family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    exemplars = [sample.exemplar for sample in families["s1_took_seconds"].samples if sample.exemplar]
    assert [exemplar.labels for exemplar in exemplars] == [{"trace_id": "a"}]
    created = [s.value for s in families["s1_requests"].samples if s.name.endswith("_created")]
    assert created == [min(s[2] for s in summed[0]["samples"] if s[0].endswith("_created"))]


def view(state: str, *, ready: bool = True, draining: bool = False, tokens: int = 0) -> dict[str, Any]:
    engine = {"url": "http://a", "state": state, "enforcement": "native", "reason": state}
    engine |= {"outstanding": 1, "committed_tokens": tokens, "reconnects": tokens}
    return {"ready": ready, "draining": draining, "engines": [engine]}


def test_readiness_is_everybodys() -> None:
    both = merged_readiness([view("ready", tokens=5), view("ready", tokens=7)])
    assert (both["ready"], both["draining"]) == (True, False)
    assert both["engines"][0] | {"committed_tokens": 12, "outstanding": 2} == both["engines"][0]
    assert both["engines"][0]["reconnects"] == 7
    one_down = merged_readiness([view("ready"), view("down", ready=False)])
    assert one_down["ready"] is False
    assert one_down["engines"][0]["reason"] == "down"
    assert merged_readiness([view("ready"), view("ready", draining=True)])["draining"] is True
    assert merged_readiness([])["ready"] is False


def test_a_completion_is_handed_over_whole() -> None:
    choice = KeptChoice(array("i", [1, 2]), array("i", [3, -4]), thinking_end=1, thinking_tokens=1, waits=2)
    kept = Kept("m", {"seed": 3, "logit_bias": {"5": 1}}, True, None, choices={0: choice}, noted_s=12.5)
    wire = orjson.dumps(kept_to_json(kept), option=orjson.OPT_NON_STR_KEYS)
    assert kept_from_json(orjson.loads(wire)) == kept


@pytest.mark.parametrize(
    "error",
    [
        CompletionNotFound("none", param="id"),
        Conflict("it has ended", code="already_answering"),
        EngineRefused("no", status=418, param="seed"),
        Overloaded("full", code="queue_full"),
    ],
)
def test_errors_are_handed_over_whole(error: GatewayError) -> None:
    again = error_of(orjson.loads(orjson.dumps(error_to_json(error))))
    assert type(again) is type(error)
    assert (str(again), again.param, again.code) == (str(error), error.param, error.code)
    assert getattr(again, "status", None) == getattr(error, "status", None)


def test_a_worker_has_its_share() -> None:
    urls = ("http://a", "http://b", "http://c")
    whole = Settings(workers=4, engine_urls=urls, admission_queue_size=10, think_more_keep_tokens=0)
    share = share_of(whole)
    assert share.admission_overcommit == 0.25
    # Rounded up; what is off stays off.
    assert (share.admission_queue_size, share.admission_queue_per_key) == (3, 16)
    assert share.think_more_keep_tokens == 0
    assert share.workers == 4
    assert [engines_from(share, index)[0] for index in range(4)] == [
        "http://a",
        "http://b",
        "http://c",
        "http://a",
    ]


def test_one_process_is_not_several() -> None:
    with pytest.raises(SettingsError, match="workers: .* Given: 2"):
        create_app(Settings(workers=2, engine_urls=("http://a",)))


def test_a_sum_does_not_depend_on_its_order() -> None:
    """Floats' own sum of these is 0.6000000000000001 or 0.6, and a counter that falls seems to begin anew."""
    told_s = [worker(took_s=took_s) for took_s in (0.1, 0.2, 0.3)]

    def took(parts: Snapshot) -> float:
        (family,) = [family for family in parts if family["name"] == "s1_took_seconds"]
        (value,) = [value for name, _, value, _ in family["samples"] if name.endswith("_sum")]
        assert isinstance(value, float)
        return value

    before = took(total(told_s, []))
    for gone in range(3):
        living = [one for number, one in enumerate(told_s) if number != gone]
        assert took(total(living, add_up([lasting(told_s[gone])]))) == before
        assert (
            took(total([living[0]], add_up([add_up([lasting(living[1])]), lasting(told_s[gone])]))) == before
        )
