"""Routes that go to the engine as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import StandIn, running
from tests.gateway.with_keys import error_of

BODIES = [
    ("/v1/completions", {"prompt": "1 + 1 =", "max_tokens": 5, "odd": {"kept": [1, 2]}}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
    ("/tokenize", {"prompt": "x", "add_special_tokens": False}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("model", [{}, {"model": "tiny"}], ids=["unnamed", "named"])
async def test_a_body_arrives_as_it_was_sent(
    client: httpx.AsyncClient, engine: StandIn, path: str, body: dict[str, Any], model: dict[str, str]
) -> None:
    response = await client.post(path, json=body | model, headers={"x-request-id": "r1"})
    assert response.status_code == 200
    assert response.json()["model"] == "tiny"
    assert response.headers["x-request-id"] == "r1"
    assert engine.passed == [(path, body | {"model": "tiny"})]
    assert client.pool.engines[0].outstanding == 0


async def test_completions_stream(client: httpx.AsyncClient, engine: StandIn) -> None:
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
        stream = await sdk.completions.create(model="tiny", prompt="x", stream=True)
        assert [chunk.choices[0].text async for chunk in stream] == ["do", "ne"]
    raw = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert raw.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_thinking_tokens": 5}, "max_thinking_tokens"),
        ({"num_waits": 1}, "num_waits"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"vllm_xargs": {"max_thinking_tokens": 5}}, "vllm_xargs.max_thinking_tokens"),
        ({"vllm_xargs": {"receipt_id": "x"}}, "vllm_xargs.receipt_id"),
        ({"stream": "yes"}, "stream"),
        ({"model": 3}, "model"),
    ],
)
async def test_what_completions_cant_take(
    client: httpx.AsyncClient, engine: StandIn, fields: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/completions", json={"model": "tiny", "prompt": "x"} | fields)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert engine.passed == []


async def test_other_encodings_of_embeddings_are_refused(client: httpx.AsyncClient, engine: StandIn) -> None:
    response = await client.post("/v1/embeddings", json={"input": "x", "encoding_format": "bytes"})
    assert (response.status_code, error_of(response)["param"]) == (400, "encoding_format")
    assert engine.passed == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x", "stream": None, "suffix": None}),
        ("/v1/embeddings", {"input": "x", "encoding_format": None}),
    ],
)
async def test_null_is_absent(
    client: httpx.AsyncClient, engine: StandIn, path: str, body: dict[str, Any]
) -> None:
    assert (await client.post(path, json=body)).status_code == 200
    ((_, passed),) = engine.passed
    assert None not in passed.values()
    assert not passed.keys() & {"stream", "suffix", "encoding_format"}


async def test_what_the_engine_hasnt_got_is_not_found() -> None:
    async with running(StandIn(has_embeddings=False)) as engine, gateway(engine.url) as client:
        response = await client.post("/v1/embeddings", json={"input": "x"})
        assert response.status_code == 404
        assert "/v1/embeddings" in error_of(response)["message"]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_unknown_models_and_broken_bodies(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body | {"model": "huge"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    response = await client.post(path, content=b"{", headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["param"]) == (400, "body")


async def test_leaving_closes_the_engines_request(client: httpx.AsyncClient, engine: StandIn) -> None:
    engine.faults.stall_after = 0
    asking = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x"}))
    await eventually(lambda: engine.active == 1)
    assert client.pool.engines[0].outstanding == 1
    asking.cancel()
    await eventually(lambda: engine.cancelled == 1 and client.pool.engines[0].outstanding == 0)
