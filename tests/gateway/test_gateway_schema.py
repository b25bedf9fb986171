"""Requests made up from our own OpenAPI schema, right and wrong ones: none may get a 5xx, fixed seed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error

from server.gateway.apis.api_schemas import body_schemas
from server.gateway.app import create_app
from server.gateway.settings import Settings
from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn, running
from tests.gateway.with_keys import KeysForTests
from tests.support.dialects import Request, of_messages, of_responses

CHAT = "POST /v1/chat/completions"
GENERATING = (CHAT, "POST /v1/messages", "POST /v1/responses")
QUOTAS = {"tokens_per_minute": 10**9, "thinking_tokens_per_day": 10**6, "concurrency": 4}


@dataclass
class Target:
    url: str
    headers: dict[str, str]


@pytest.fixture(scope="module")
def plain() -> Iterator[Target]:
    with served() as url:
        yield Target(url, {})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """With everything on that a request may have to pass."""
    keys = KeysForTests(tmp_path_factory.mktemp("keys") / "keys.json")
    headers = keys.add("ann", quotas=QUOTAS, caps={"max_thinking_tokens": 300, "num_waits": 3})
    shrinking = {"shrink_above": 0.1, "shrink_floor_tokens": 10}
    with served(keys_file=keys.path, admission="on", **shrinking) as url:
        yield Target(url, headers)


@contextmanager
def served(**settings: Any) -> Iterator[str]:
    """A gateway over the stand-in engine, in a thread of its own: schemathesis is not asynchronous."""
    started, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        stand_in = StandIn(kv_blocks=200, template=lambda messages, _: str(messages))
        async with running(stand_in) as engine, gateway(engine.url, **settings) as client:
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


def break_it(operation: Any, target: Target, *, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        response = case.call(base_url=target.url, headers=target.headers)
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            anthropics = operation.path.startswith("/v1/messages")
            told = {"type", "message"} if anthropics else {"message", "type", "param", "code"}
            assert set(response.json()["error"]) == told

    check()


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_no_request_breaks_the_gateway(operation: Any, plain: Target) -> None:
    break_it(operation, plain, examples=80 if operation.label in GENERATING else 30)


def test_no_request_breaks_a_guarded_gateway(guarded: Target) -> None:
    (chat,) = (operation for operation in operations() if operation.label == CHAT)
    break_it(chat, guarded, examples=60)


def test_the_schema_names_what_is_tested() -> None:
    labels = {operation.label for operation in operations()}
    passed_on = {"POST /v1/completions", "POST /v1/embeddings", "POST /tokenize", "POST /detokenize"}
    assert passed_on | {CHAT, "GET /v1/models", "GET /ready"} <= labels


@pytest.mark.parametrize(
    ("schema", "base", "forms"),
    [
        (
            "MessagesRequest",
            {"messages": [{"role": "user", "content": "?"}], "max_tokens": 2000},
            of_messages,
        ),
        ("ResponsesRequest", {"input": "?", "max_output_tokens": 2000}, of_responses),
    ],
    ids=["messages", "responses"],
)
def test_the_schema_takes_every_way_to_say_a_budget(
    schema: str, base: dict[str, Any], forms: Callable[..., list[Request]]
) -> None:
    components = {"components": {"schemas": body_schemas()}}
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{schema}", **components})
    for asked in forms(1024, effort="high"):
        validator.validate({**base, **asked.fields, "num_waits": 1, "stream": True})
    assert not validator.is_valid({**base, "max_thinking_token": 1})
    assert not validator.is_valid({**base, "max_thinking_tokens": -1})
