"""Who is let in, and where."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import orjson
import pytest
from starlette.datastructures import Headers
from typer.testing import CliRunner

from server.cli import app as commands
from server.gateway.access import callers
from server.gateway.access.callers import KeyRing, check_exposure, is_loopback
from server.gateway.app import create_app
from server.gateway.errors import InvalidKey
from server.gateway.settings import Settings, SettingsError
from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests, bearer, error_of

CHAT = "/v1/chat/completions"
URL = "http://127.0.0.1:9"


@pytest.fixture
def keys(tmp_path: Path) -> KeysForTests:
    made = KeysForTests(tmp_path / "keys.json")
    made.add("ann")
    made.add("root", admin=True)
    return made


@pytest.fixture
async def guarded(engine: StandIn, keys: KeysForTests) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(engine.url, keys_file=keys.path) as client:
        yield client


@pytest.mark.parametrize("form", ["bearer", "x-api-key", "both"])
async def test_a_key_lets_in(guarded: httpx.AsyncClient, keys: KeysForTests, form: str) -> None:
    key = keys.secrets["ann"]
    headers = bearer(key) if form != "x-api-key" else {}
    if form != "bearer":
        headers["x-api-key"] = key
    assert (await guarded.post(CHAT, json=ASK, headers=headers)).status_code == 200


async def test_sdks_are_let_in_with_their_own_headers(guarded: httpx.AsyncClient, keys: KeysForTests) -> None:
    key = keys.secrets["ann"]
    async with openai.AsyncOpenAI(base_url=f"{guarded.base_url}/v1", api_key=key, max_retries=0) as sdk:
        assert (await sdk.chat.completions.create(**ASK)).choices[0].message.content == "42."
    async with openai.AsyncOpenAI(base_url=f"{guarded.base_url}/v1", api_key="no", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError) as raised:
            await sdk.chat.completions.create(**ASK)
        assert raised.value.code == "invalid_api_key"
    async with anthropic.AsyncAnthropic(base_url=str(guarded.base_url), api_key=key, max_retries=0) as sdk:
        # Past the keys: which routes there are is another matter.
        assert (await sdk.models.list()).data


async def strangers(keys: KeysForTests) -> list[dict[str, str]]:
    key = keys.secrets["ann"]
    id = key.split("-")[1]
    return [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {key}"},
        {"authorization": key},
        bearer(key[:-1]),
        bearer(key + "x"),
        bearer(key.upper()),
        bearer(f"s1-{id}-"),
        bearer(f"s1-000000000000-{key.split('-', 2)[2]}"),
        bearer("s1-" + "0" * 12 + "-" + "0" * 43),
        {"x-api-key": "sk-something"},
        bearer(key) | {"x-api-key": keys.secrets["root"]},
    ]


async def test_strangers_are_not(guarded: httpx.AsyncClient, engine: StandIn, keys: KeysForTests) -> None:
    for headers in await strangers(keys):
        response = await guarded.post(CHAT, json=ASK, headers=headers)
        assert response.status_code == 401, headers
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["x-request-id"]
        error = error_of(response)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert keys.secrets["ann"] not in response.text
    assert engine.bodies == []


async def test_only_what_is_public_is_open(guarded: httpx.AsyncClient, keys: KeysForTests) -> None:
    for path in ("/", "/health", "/ready", "/version", "/docs", "/openapi.json"):
        for headers in ({}, bearer("s1-no-key")):
            response = await guarded.get(path, headers=headers)
            assert response.status_code == 200
            assert "127.0.0.1" not in response.text
    routes = [
        (method, path)
        for path, methods in (await guarded.get("/openapi.json")).json()["paths"].items()
        for method in methods
    ]
    assert ("post", CHAT) in routes
    closed = [route for route in routes if route[1] not in ("/health", "/ready", "/version")]
    for method, path in [*closed, ("get", "/s1/engine"), ("get", "/nowhere"), ("get", "/ready/")]:
        assert (await guarded.request(method.upper(), path)).status_code == 401, path


ENGINE_PATHS = [
    "/s1/engine",
    "/s1/receipts/x",
    "/load",
    "/server_info",
    "/pause",
    "/nowhere",
    "/v1/",
    "/metrics/",
]


@pytest.mark.parametrize("path", [*ENGINE_PATHS, "/%2e%2e/s1/engine", "/health/../s1/engine", "//s1/engine"])
async def test_what_isnt_ours_is_not_found(
    guarded: httpx.AsyncClient, client: httpx.AsyncClient, keys: KeysForTests, path: str
) -> None:
    """The engine's own routes are never reachable through the gateway, not even for admins."""
    for method in ("GET", "POST"):
        for name in ("ann", "root"):
            response = await guarded.request(method, path, headers=bearer(keys.secrets[name]))
            assert response.status_code == 404
            assert error_of(response)["type"] == "invalid_request_error"
        assert (await client.request(method, path)).status_code == 404


async def test_admins_see_the_engines(
    guarded: httpx.AsyncClient, engine: StandIn, keys: KeysForTests
) -> None:
    assert (await guarded.get("/ready")).json() == STRANGERS_SEE
    assert (await guarded.get("/ready", headers=bearer(keys.secrets["ann"]))).json() == STRANGERS_SEE
    seen = (await guarded.get("/ready", headers=bearer(keys.secrets["root"]))).json()
    assert seen["engines"][0]["url"] == engine.url


async def test_metrics_are_for_admins(guarded: httpx.AsyncClient, keys: KeysForTests) -> None:
    assert (await guarded.get("/metrics")).status_code == 401
    assert (await guarded.get("/metrics", headers=bearer(keys.secrets["ann"]))).status_code == 403
    assert (await guarded.get("/metrics", headers=bearer(keys.secrets["root"]))).status_code == 200


async def test_who_lets_everybody_in_shows_engines_on_loopback_only(engine: StandIn) -> None:
    async with gateway(engine.url) as client:
        assert "engines" in (await client.get("/ready")).json()
    async with gateway(engine.url, host="0.0.0.0", insecure_no_auth=True) as client:
        assert (await client.get("/ready")).json() == STRANGERS_SEE
        assert (await client.post(CHAT, json=ASK)).status_code == 200
        # Prometheus would have no key.
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/s1/requests")).status_code == 403


async def test_keys_change_without_a_restart(guarded: httpx.AsyncClient, keys: KeysForTests) -> None:
    late = keys.add("late")
    assert (await guarded.post(CHAT, json=ASK, headers=late)).status_code == 200
    keys.revoke("ann")
    assert (await guarded.post(CHAT, json=ASK, headers=bearer(keys.secrets["ann"]))).status_code == 401
    assert (await guarded.post(CHAT, json=ASK, headers=late)).status_code == 200


@pytest.mark.parametrize("break_it", ["garbage", "gone"])
async def test_a_broken_file_changes_nothing(
    guarded: httpx.AsyncClient, keys: KeysForTests, break_it: str
) -> None:
    sane = keys.path.read_bytes()
    if break_it == "garbage":
        keys.path.write_text("{")
    else:
        keys.path.unlink()
    for _ in range(2):
        known = await guarded.get("/v1/models", headers=bearer(keys.secrets["ann"]))
        assert known.status_code == 200
        assert (await guarded.get("/v1/models")).status_code == 401
    keys.path.write_bytes(sane)
    keys.revoke("ann")
    assert (await guarded.get("/v1/models", headers=bearer(keys.secrets["ann"]))).status_code == 401


@pytest.mark.parametrize("retry_s", [0.0, 60.0], ids=["again", "not at once"])
def test_a_file_that_could_not_be_read_is_read_again(
    keys: KeysForTests, monkeypatch: pytest.MonkeyPatch, retry_s: float
) -> None:
    monkeypatch.setattr(callers, "RETRY_S", retry_s)
    ring = KeyRing(keys.path, open_to_admins=False)
    headers = Headers(bearer(keys.secrets["ann"]))
    keys.revoke("ann")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert ring.caller(headers).name == "ann"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if retry_s:
        assert ring.caller(headers).name == "ann"
        keys.add("next")
    with pytest.raises(InvalidKey):
        ring.caller(headers)


async def test_a_key_expires(engine: StandIn, keys: KeysForTests) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    headers = keys.add("brief", expires=now)
    ring = KeyRing(keys.path, open_to_admins=False)
    early = ring.caller(Headers(headers), now=lambda: now - timedelta(seconds=1))
    assert early.name == "brief"
    with pytest.raises(InvalidKey, match="expired"):
        ring.caller(Headers(headers), now=lambda: now)
    async with gateway(engine.url, keys_file=keys.path) as client:
        over = keys.add("over", expires=datetime(2020, 1, 1, tzinfo=UTC))
        response = await client.get("/v1/models", headers=over)
        assert (response.status_code, error_of(response)["code"]) == (401, "api_key_expired")


async def test_a_key_is_for_its_models(keys: KeysForTests) -> None:
    async with running(StandIn(models=("small", "large"))) as engine:
        small = keys.add("small-only", models=["small"])
        async with gateway(engine.url, keys_file=keys.path) as client:
            listed = (await client.get("/v1/models", headers=small)).json()["data"]
            assert [card["id"] for card in listed] == ["small"]
            for path, body in (
                (CHAT, ASK | {"model": "large"}),
                ("/v1/completions", {"model": "large", "prompt": "x"}),
                ("/v1/embeddings", {"model": "large", "input": "x"}),
                ("/tokenize", {"model": "large", "prompt": "x"}),
            ):
                response = await client.post(path, json=body, headers=small)
                assert response.status_code == 403
                error = error_of(response)
                assert (error["type"], error["code"]) == ("permission_error", "model_not_allowed")
                assert error["param"] == "model"
            assert (await client.get("/v1/models/large", headers=small)).status_code == 403
            assert engine.bodies == [] and engine.passed == []
            # Without a model it is the only one that this key may use.
            unnamed = {name: value for name, value in ASK.items() if name != "model"}
            assert (await client.post(CHAT, json=unnamed, headers=small)).json()["model"] == "small"
            assert (
                await client.post(CHAT, json=unnamed, headers=bearer(keys.secrets["ann"]))
            ).status_code == 400


STRANGERS_SEE = {"ready": True, "draining": False}
CAPPED = [
    ({}, {"max_thinking_tokens": 4}, {"max": 4, "min": 0, "num_waits": 0}),
    ({"max_thinking_tokens": 3}, {"max_thinking_tokens": 4}, {"max": 3, "min": 0, "num_waits": 0}),
    (
        {"max_thinking_tokens": 6, "min_thinking_tokens": 5},
        {"max_thinking_tokens": 4},
        {"max": 4, "min": 4, "num_waits": 0},
    ),
    ({"max_thinking_tokens": 6, "num_waits": 3}, {"num_waits": 1}, {"max": 6, "min": 0, "num_waits": 1}),
]


@pytest.mark.parametrize(("asked", "caps", "effective"), CAPPED)
async def test_caps_hold_and_the_receipt_says_so(
    engine: StandIn,
    keys: KeysForTests,
    asked: dict[str, int],
    caps: dict[str, int],
    effective: dict[str, int],
) -> None:
    headers = keys.add("capped", caps=caps)
    async with gateway(engine.url, keys_file=keys.path) as client:
        response = await client.post(CHAT, json=ASK | asked, headers=headers)
        receipt = response.json()["choices"][0]["thinking_budget"]
        assert receipt["requested"] == asked
        assert receipt["effective"] == effective
        assert receipt["thinking_tokens"] <= effective["max"]
        # A maximum that nobody asked for isn't clamped, as with the room (docs/policy.md).
        within = asked in ({}, {"max_thinking_tokens": 3})
        assert receipt["clamped_by"] == ([] if within else ["policy:key"])


async def test_a_cap_does_not_turn_thinking_on(engine: StandIn, keys: KeysForTests) -> None:
    headers = keys.add("capped", caps={"max_thinking_tokens": 4})
    async with gateway(engine.url, keys_file=keys.path) as client:
        await client.post(CHAT, json=ASK | {"reasoning_effort": "none"}, headers=headers)
        assert engine.bodies[-1]["vllm_xargs"]["max_thinking_tokens"] == 0


async def test_a_cap_and_what_takes_no_budget(engine: StandIn, keys: KeysForTests) -> None:
    headers = keys.add("capped", caps={"max_thinking_tokens": 4})
    async with gateway(engine.url, keys_file=keys.path) as client:
        response = await client.post(CHAT, json=ASK | {"use_beam_search": True}, headers=headers)
        assert (response.status_code, error_of(response)["param"]) == (400, "use_beam_search")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("127.example.com", False),
        ("", False),
    ],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_gateway_that_others_reach_needs_keys(keys: KeysForTests) -> None:
    check_exposure(Settings(host="127.0.0.1"))
    check_exposure(Settings(host="0.0.0.0", keys_file=keys.path))
    check_exposure(Settings(host="0.0.0.0", insecure_no_auth=True))
    with pytest.raises(SettingsError) as raised:
        check_exposure(Settings(host="0.0.0.0"))
    for part in ("0.0.0.0", "s1 keys create", "--keys-file", "--insecure-no-auth"):
        assert part in str(raised.value)


def test_the_command_refuses_to_start_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("S1_GATEWAY_")]:
        monkeypatch.delenv(variable)
    done = CliRunner().invoke(commands, ["serve", "--host", "0.0.0.0", "--engine-url", URL])
    assert done.exit_code == 2
    assert "--insecure-no-auth" in done.stderr


@pytest.mark.parametrize("content", [None, "{"])
def test_a_keys_file_that_cant_be_read_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match="keys_file"):
        create_app(Settings(engine_urls=(URL,), keys_file=path))


async def test_without_keys_any_key_will_do(client: httpx.AsyncClient) -> None:
    for headers in ({}, bearer("none"), {"x-api-key": "anything"}):
        assert (await client.post(CHAT, json=ASK, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": ASK["messages"]}),
        ("/v1/messages", {"messages": ASK["messages"], "max_tokens": 100}),
        ("/v1/responses", {"input": "x"}),
    ],
)
async def test_only_admins_come_before_others(
    engine: StandIn, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann, root = keys.add("ann"), keys.add("root", admin=True)
    async with gateway(engine.url, keys_file=keys.path) as client:
        asked = len(engine.bodies)
        refused = await client.post(path, json=body | {"priority": -5}, headers=ann)
        assert refused.status_code == 403
        assert "priority" in refused.text
        assert len(engine.bodies) == asked
        assert (await client.post(path, json=body | {"priority": 0}, headers=ann)).status_code == 200
        assert (await client.post(path, json=body | {"priority": -5}, headers=root)).status_code == 200
        assert engine.bodies[-1]["priority"] == -5
    async with gateway(engine.url) as client:
        assert (await client.post(path, json=body | {"priority": -5})).status_code == 200


PAGE = {"origin": "https://elsewhere.example"}


@pytest.mark.parametrize(
    "headers",
    [
        PAGE,
        {"origin": "null"},
        # A name that was made to mean 127.0.0.1: the page and its server seem to be the same.
        {"origin": "http://elsewhere.example:8000", "host": "elsewhere.example:8000"},
        {"sec-fetch-site": "same-origin", "host": "elsewhere.example:8000"},
        # Browsers say nothing of the page where the name has no https.
        {"host": "elsewhere.example:8000"},
        {"host": "127.0.0.1.elsewhere.example"},
        {"host": "localhost.elsewhere.example"},
        {"host": "notlocalhost:8000"},
        {"host": "elsewhere.example."},
        {"host": "."},
        {"origin": "http://localhost:3000", "host": "elsewhere.example"},
    ],
    ids=[
        "another site",
        "no site",
        "rebound",
        "rebound, reading",
        "rebound, unmarked",
        "like ours",
        "our name in theirs",
        "ends like ours",
        "rooted",
        "root",
        "mixed",
    ],
)
async def test_without_keys_other_sites_pages_are_refused(
    client: httpx.AsyncClient, engine: StandIn, headers: dict[str, str]
) -> None:
    asked = len(engine.bodies)
    # As a page may send without asking: no content type, and it can't read the answer.
    content = orjson.dumps(ASK)
    for response in (
        await client.post(CHAT, content=content, headers=headers),
        await client.get("/s1/requests", headers=headers),
        await client.get("/ready", headers=headers),
    ):
        assert (response.status_code, error_of(response)["code"]) == (403, "foreign_page")
        assert "S1_GATEWAY_CORS_ORIGINS" in error_of(response)["message"]
    assert len(engine.bodies) == asked


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://[::1]:8000"},
        {"sec-fetch-site": "same-origin"},
        {"host": "localhost"},
        {"host": "localhost:18201"},
        {"host": "127.0.0.2:9"},
        {"host": "[::1]:8000"},
        {"host": "0.0.0.0:8000"},
        {"host": "[::]:8000"},
        {"host": "localhost."},
        {"host": "LOCALHOST.:8000"},
        {"host": "s1.localhost:8000"},
        {"host": ""},
    ],
)
async def test_this_machines_pages_and_other_clients_are_answered(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await client.post(CHAT, json=ASK, headers=headers)).status_code == 200


async def test_pages_that_are_listed_are_answered(engine: StandIn) -> None:
    async with gateway(engine.url, cors_origins=(PAGE["origin"],)) as client:
        assert (await client.post(CHAT, json=ASK, headers=PAGE)).status_code == 200
        reading = {"host": "elsewhere.example", "sec-fetch-site": "same-origin"}
        assert (await client.get("/ready", headers=reading)).status_code == 200
        # A proxy that names the site it stands for.
        assert (await client.get("/ready", headers={"host": "elsewhere.example"})).status_code == 200
        other = await client.post(CHAT, json=ASK, headers={"origin": "https://other.example"})
        assert other.status_code == 403


async def test_with_keys_any_page_may_ask(guarded: httpx.AsyncClient, keys: KeysForTests) -> None:
    headers = bearer(keys.secrets["ann"]) | PAGE
    assert (await guarded.post(CHAT, json=ASK, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "policy",
    [
        "server: {cap: {max_thinking_tokens: 64}}",
        "models: {tiny: {cap: {max_thinking_ms: 64}}}",
        "keys: {ann: {cap: {max_thinking_tokens: 64}}}",
    ],
)
async def test_a_policys_caps_are_no_way_around(
    engine: StandIn, keys: KeysForTests, tmp_path: Path, policy: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(policy)
    headers = bearer(keys.secrets["ann"])
    async with gateway(engine.url, keys_file=keys.path, policy_file=path) as client:
        response = await client.post("/v1/completions", json={"prompt": "1"}, headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (403, "not_counted_here")
        assert "policy's cap.max_thinking_" in error_of(response)["message"]
        assert engine.passed == []


async def test_a_policy_that_caps_no_thinking_lets_completions_pass(engine: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("server: {default: {max_thinking_tokens: 64}, cap: {num_waits: 2}}")
    async with gateway(engine.url, policy_file=path) as client:
        assert (await client.post("/v1/completions", json={"prompt": "1"})).status_code == 200


async def test_an_engines_credentials_are_shown_to_nobody(engine: StandIn) -> None:
    url = engine.url.replace("//", "//user:hidden-word@")
    async with gateway(url) as client:
        assert (await client.post(CHAT, json=ASK | {"max_thinking_tokens": 3})).status_code == 200
        for path in ("/metrics", "/ready", "/s1/scrape_targets", "/s1/requests"):
            shown = (await client.get(path)).text
            assert "hidden-word" not in shown
        assert engine.url in (await client.get("/ready")).text
