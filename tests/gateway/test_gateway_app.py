"""Settings, the application's parts, its documentation, and what it must not import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from server import __version__
from server.budget.spec import BUDGET_FIELDS
from server.gateway.app import create_app
from server.gateway.chat.chat_fields import (
    ENGINE_IGNORES,
    GATEWAY_FIELDS,
    UNSUPPORTED_OPENAI_FIELDS,
    VLLM_FIELDS,
    WITHOUT_EFFECT,
)
from server.gateway.chat.chat_request import ChatCompletionRequest
from server.gateway.settings import Settings, SettingsError, read_settings
from tests.gateway.serving import serving

URL = "http://127.0.0.1:9"


def test_the_gateway_imports_no_engine() -> None:
    code = (
        "import sys, server.gateway.app\n"
        "found = {'torch', 'vllm', 'transformers', 'server.engine'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_come_from_the_environment_and_overrides_win() -> None:
    environ = {"S1_GATEWAY_PORT": "9001", "S1_GATEWAY_ENGINE_URLS": f"{URL}/, http://b:1", "S1_OTHER": "x"}
    settings = read_settings(environ, host="0.0.0.0", port=None)
    assert settings.engine_urls == (URL, "http://b:1")
    assert (settings.host, settings.port) == ("0.0.0.0", 9001)
    assert read_settings(environ, port=1).port == 1


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"S1_GATEWAY_PROT": "1"}, ["S1_GATEWAY_PROT", "S1_GATEWAY_PORT"]),
        ({"S1_GATEWAY_PORT": "x"}, ["S1_GATEWAY_PORT", "integer", "'x'"]),
        ({"S1_GATEWAY_PORT": "70000"}, ["S1_GATEWAY_PORT", "65535", "'70000'"]),
        ({"S1_GATEWAY_MAX_BODY_BYTES": "1"}, ["S1_GATEWAY_MAX_BODY_BYTES", "1024", "'1'"]),
        ({"S1_GATEWAY_ENGINE_URLS": "localhost:8000"}, ["S1_GATEWAY_ENGINE_URLS", "localhost:8000"]),
        ({"S1_GATEWAY_ENGINE_URLS": "http://a/v1"}, ["without /v1"]),
        ({"S1_GATEWAY_ENGINE_URLS": "http://a,http://a"}, ["twice"]),
    ],
)
def test_a_bad_setting_stops_the_start(environ: dict[str, str], says: list[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        read_settings(environ)
    for part in says:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({"S1_GATEWAY_REDIS_URL": "http://user:hunter2@redis:6379"}, "redis:6379"),
        ({"S1_GATEWAY_REDIS_URL": "user:hunter2@redis:6379"}, "redis:6379"),
        ({"S1_GATEWAY_REDIS_URL": "http://redis:6379?password=hunter2"}, "redis:6379"),
        ({"S1_GATEWAY_OTLP_ENDPOINT": "htp://user:hun@ter//hunter2@otlp:4318"}, "otlp:4318"),
        ({"S1_GATEWAY_REWARD_URL": "http://user:hunter2@reward/v1"}, "reward"),
        ({"S1_GATEWAY_ENGINE_URLS": "http://user:hunter2@a/v1"}, "a/v1"),
        ({"S1_GATEWAY_ENGINE_URLS": "http://b,http://user:hunter2@a,http://user:hunter2@a"}, "a"),
    ],
)
def test_a_bad_url_is_told_without_its_password(environ: dict[str, str], address: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_settings(environ)
    assert "hunter2" not in str(raised.value)
    assert "user" not in str(raised.value)
    assert address in str(raised.value)
    given = {name.removeprefix("S1_GATEWAY_").lower(): value for name, value in environ.items()}
    with pytest.raises(SettingsError) as raised:
        read_settings({}, **given)
    assert "hunter2" not in str(raised.value)


def test_a_gateway_without_engines_does_not_start() -> None:
    with pytest.raises(SettingsError, match="engine_urls"):
        create_app(read_settings({}))


async def test_background_contexts_surround_the_pool() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def supervisor() -> AsyncIterator[None]:
        seen.append(f"enter, {len(app.state.context.engines.engines)} engines")
        yield
        seen.append("leave")

    app = create_app(Settings(engine_urls=(URL,)), background=[supervisor])
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/version")).json() == {"version": __version__}
        assert (await client.get("/")).json()["docs"] == "/docs"
        assert (await client.get("/health")).json() == {"status": "ok", "version": __version__}
        for path in ("/", "/health", "/ready", "/version", "/v1/models"):
            asked, told = await client.head(path), await client.get(path)
            assert (asked.status_code, asked.content) == (told.status_code, b"")
        assert seen == ["enter, 0 engines"]
    assert seen == ["enter, 0 engines", "leave"]


def test_the_api_documents_its_request() -> None:
    schema = create_app(Settings(engine_urls=(URL,))).openapi()
    assert schema["info"]["title"] == "s1-server"
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/ChatCompletionRequest"}
    properties = schema["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert set(BUDGET_FIELDS) <= set(properties)
    assert properties["num_waits"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 1024}
    assert "Message" in schema["components"]["schemas"]


def test_field_lists_agree_with_the_model() -> None:
    known = VLLM_FIELDS | set(BUDGET_FIELDS) | GATEWAY_FIELDS | WITHOUT_EFFECT
    assert set(ChatCompletionRequest.model_fields) <= known
    assert not VLLM_FIELDS & set(BUDGET_FIELDS)
    assert not VLLM_FIELDS & UNSUPPORTED_OPENAI_FIELDS
    assert ENGINE_IGNORES <= VLLM_FIELDS
