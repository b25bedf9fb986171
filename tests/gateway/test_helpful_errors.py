"""Mistakes that are easily made, and what tells of them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests

CHAT = "/v1/chat/completions"


async def test_a_model_that_is_not_there_tells_which_are(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ASK | {"model": "gpt-5"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["message"].endswith("Given: 'gpt-5'. Served: tiny")
    assert (error["param"], error["code"]) == ("model", "model_not_found")


async def test_a_key_is_told_of_its_own_models_only(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann", models=["other"])
    async with gateway(engine.url, keys_file=keys.path) as client:
        response = await client.post(CHAT, json=ASK | {"model": "other"}, headers=ann)
    assert response.status_code == 404
    assert response.json()["error"]["message"].endswith("Served: none")


@pytest.mark.parametrize("path", ["/chat/completions", "/models"])
async def test_a_path_without_v1_is_told_the_right_one(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=ASK)
    assert response.status_code == 404
    assert f"there is no {path}; did you mean /v1{path}?" in response.json()["error"]["message"]
    other = await client.get("/nothing")
    assert "did you mean" not in other.json()["error"]["message"]


async def test_extra_body_is_the_sdks_word(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ASK | {"extra_body": {"max_thinking_tokens": 5}})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "extra_body.max_thinking_tokens"
    assert "at the request's root: put `max_thinking_tokens` there" in error["message"]
