"""What the containers would run, run: two gateways and two real engines, from the chart and from compose."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator

import httpx
import pytest

from server.gateway.access.guard import OPEN_PATHS
from tests.support.commands import s1_ok
from tests.support.deployment import (
    LONG,
    STREAMS,
    Deployment,
    ask,
    body,
    deployed,
    engines_of,
    stream_long_answers,
)
from tests.support.engines import DEMO

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


def test_budgets_hold_through_both_gateways(deployment: Deployment) -> None:
    for gateway in deployment.gateways:
        for engine in engines_of(gateway, deployment.admin_key):
            assert engine["enforcement"] == "native"
        for maximum in (0, 7, 64):
            choice = ask(gateway, deployment.headers, body(maximum))
            assert choice["thinking_budget"]["thinking_tokens"] <= maximum
            assert choice["message"]["content"]


def test_size_agrees_with_the_engines_own_report(deployment: Deployment) -> None:
    gib = deployment.engines[0].container.environment["VLLM_CPU_KVCACHE_SPACE"]
    budget = ("--thinking-tokens", "256", "--answer-tokens", "256")
    computed = json.loads(s1_ok("size", DEMO, "--kv-cache-gib", gib, *budget, "--json"))
    for engine in engines_of(deployment.gateways[0], deployment.admin_key):
        assert computed["kv_cache_tokens"] == pytest.approx(engine["kv_cache_tokens"], rel=0.05)


def test_without_a_key_nobody_reaches_an_engine_or_an_admin_route(deployment: Deployment) -> None:
    """Every route that an engine has, ours included, and the gateway's own."""
    of_engine = httpx.get(f"{deployment.engines[0].url}/openapi.json").json()["paths"]
    ours = (
        "/s1/engine",
        "/s1/receipts/x",
        "/s1/requests",
        "/s1/scrape_targets",
        "/metrics",
        "/load",
        "/sleep",
    )
    paths = {path.replace("{", "").replace("}", "") for path in of_engine} | set(ours)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= paths
    version = httpx.get(f"{deployment.engines[0].url}/version").json()
    for gateway in deployment.gateways:
        with httpx.Client(timeout=30) as client:
            for path in sorted(paths - OPEN_PATHS):
                for variant in (path, f"/{path}", f"{path}/", f"{path}?key=x", f"/docs/%2e%2e{path}"):
                    for method, sent in (("GET", None), ("POST", body(8))):
                        answer = client.request(method, gateway.url + variant, json=sent)
                        assert answer.status_code == 401, (method, variant, answer.status_code)
            # What is open is the gateway's own, and tells of no engine.
            assert client.get(f"{gateway.url}/version").json() != version
            assert set(client.get(f"{gateway.url}/ready").json()) == {"ready", "draining"}


def test_draining_loses_no_stream(deployment: Deployment) -> None:
    """Last: first a gateway goes, then the engine beside it."""
    leaving, staying = deployment.gateways
    with concurrent.futures.ThreadPoolExecutor(2 * STREAMS) as pool:
        streamed = stream_long_answers(pool, leaving, deployment.headers, STREAMS)
        streamed.await_all_begun()
        stopped = pool.submit(leaving.stop)
        # Meanwhile others are served elsewhere.
        assert ask(staying, deployment.headers, body(16))["message"]["content"]
        receipts = [result.result(timeout=180) for result in streamed.results]
        assert [receipt["thinking_tokens"] for receipt in receipts] == [LONG] * STREAMS
        assert stopped.result(timeout=180) == 0, leaving.tail()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{leaving.url}/health")

    engine, other = deployment.engines
    with concurrent.futures.ThreadPoolExecutor(2 * STREAMS) as pool:
        streamed = stream_long_answers(pool, staying, deployment.headers, STREAMS)
        streamed.await_all_begun()
        stopped = pool.submit(engine.stop)
        receipts = [result.result(timeout=180) for result in streamed.results]
        assert [receipt["thinking_tokens"] for receipt in receipts] == [LONG] * STREAMS
        stopped.result(timeout=180)
    assert other.passes(other.container.alive)
    assert ask(staying, deployment.headers, body(16))["message"]["content"]
