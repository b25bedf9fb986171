"""Bad requests through the real server: 4xx naming field, limit and value, and the engine stays up."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from server.gateway.chat.chat_fields import VLLM_FIELDS
from tests.gateway.test_gateway_bad_requests import BAD
from tests.gateway.test_large_requests import CUSTOM_ROLE, RIGHT_MESSAGES, WRONG_MESSAGES
from tests.support.engines import Running, gateway_only

pytestmark = pytest.mark.engine

ASK = {"messages": [{"role": "user", "content": "How many r in raspberry?"}]}


@pytest.fixture(scope="module")
def http(served: Running) -> Any:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def test_every_bad_request_is_refused_and_the_engine_stays_up(http: httpx.Client, served: Running) -> None:
    engine_before = served.get("/ready")["engines"][0]["reconnects"]
    assert len(BAD) >= 40
    for fields, param, holds in BAD:
        response = http.post("/v1/chat/completions", json={"model": served.model, **ASK, **fields})
        assert response.status_code == 400, (fields, response.text)
        error = response.json()["error"]
        assert error["param"] == param, fields
        # The stand-in's engine and this one differ in how much room a constrained answer needs.
        expected = [] if "response_format" in fields and "num_waits" in fields else holds
        assert all(part in error["message"] for part in expected), (fields, error)
    assert served.get("/ready")["engines"][0]["reconnects"] == engine_before
    body = {"model": served.model, **ASK, "max_thinking_tokens": 8}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [(b"{", 400, "body"), (b"[]", 400, "body"), (b'{"model": "tiny-reasoner"}', 400, "messages")],
)
def test_malformed_bodies(http: httpx.Client, body: bytes, status: int, param: str) -> None:
    response = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_an_unknown_model(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json={"model": "gpt-17", **ASK})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")
    assert "gpt-17" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_leaves_no_room_for_an_answer(
    http: httpx.Client, served: Running, stream: bool
) -> None:
    """Only the engine knows the prompt's tokens; its refusal comes through with the field's name."""
    messages = [{"role": "user", "content": "a " * 1000}]
    tokenized = httpx.post(
        f"{served.engine_url}/tokenize", json={"model": served.model, "messages": messages}, timeout=60
    ).json()
    messages[0]["content"] += "a " * (tokenized["max_model_len"] - tokenized["count"] - 5)
    body = {"model": served.model, "messages": messages, "stream": stream}
    response = http.post("/v1/chat/completions", json={**body, "max_thinking_tokens": 50})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"]


def test_an_engine_that_enforces_nothing_gets_no_budget(stock: Running, logs: Any) -> None:
    """Stock vLLM, and a wait text that holds the model's own end marker: not even rounds can enforce it.

    The gateway refuses budgets by name and serves the rest.
    """
    with gateway_only(logs, stock.url, options=("--wait-text", "<|im_start|>answer")) as running:
        body = {"model": stock.model, **ASK}
        refused = httpx.post(f"{running.url}/v1/chat/completions", json={**body, "num_waits": 1}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_waits")
        assert "plugin" in refused.json()["error"]["message"]
        assert "rounds" in refused.json()["error"]["message"]
        assert "--wait-text can't contain" in refused.json()["error"]["message"]
        served = httpx.post(f"{running.url}/v1/chat/completions", json={**body, "max_tokens": 8}, timeout=60)
        assert served.status_code == 200
        assert running.get("/ready")["engines"][0]["enforcement"] == "none"


def test_the_field_list_is_that_of_the_installed_vllm() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    assert set(ChatCompletionRequest.model_fields) == VLLM_FIELDS


def test_what_passes_the_check_of_messages_is_what_vllm_takes() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    for right in [*RIGHT_MESSAGES, CUSTOM_ROLE]:
        read_whole(ChatCompletionRequest.model_validate({"messages": [copy.deepcopy(right)]}))
    for wrong, _ in WRONG_MESSAGES:
        with pytest.raises((ValidationError, TypeError)):
            read_whole(ChatCompletionRequest.model_validate({"messages": [copy.deepcopy(wrong)]}))


def read_whole(request: Any) -> None:
    """vLLM's models check some arrays when they are read."""
    for message in request.messages:
        for value in message.values():
            if not isinstance(value, str | dict) and value is not None:
                list(value)
