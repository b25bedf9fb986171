"""Requests made up from our own OpenAPI schema, right and wrong ones: none may get a 5xx, fixed seed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from server.gateway.app import create_app
from server.gateway.settings import Settings
from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn, running


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway over the stand-in engine, in a thread of its own: schemathesis is not asynchronous."""
    started, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with running(StandIn()) as engine, gateway(engine.url) as client:
            found.append(str(client.base_url))
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield found[0]
    finally:
        stop.set()
        thread.join()


def operations() -> list[Any]:
    """Every operation of the API."""
    app = create_app(Settings(engine_urls=("http://127.0.0.1:9",)))
    schema = schemathesis.openapi.from_dict(app.openapi())
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_no_request_breaks_the_gateway(operation: Any, url: str) -> None:
    @settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        response = case.call(base_url=url)
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    check()


def test_the_schema_names_what_is_tested(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/tokenize",
        "/detokenize",
        "/ready",
    } <= set(paths)
