"""Routes that go to the engine as they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.gateway.engines.engine import MOST_PROMPT_WORK, Engine
from server.gateway.settings import Settings
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import StandIn, running
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.with_keys import KeysForTests, error_of

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
        ({"n": 129}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"n": 65, "prompt": ["a", "b"]}, "n"),
        ({"best_of": 100_000}, "best_of"),
        ({"best_of": 65, "prompt": [[1], [2]]}, "best_of"),
        ({"max_tokens": 2**64 - 1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": [[1], [True]]}, "prompt[1][0]"),
        ({"prompt": [None]}, "prompt[0]"),
        ({"prompt_embeds": ["a"] * 129}, "prompt_embeds"),
        ({"prompt_embeds": [1] * 1000}, "prompt_embeds"),
        ({"vllm_xargs": {"a": [{}] * 1000}}, "vllm_xargs.a[0]"),
        ({"documents": [{"a": 1}]}, "documents[0].a"),
        ({f"m{i}": 1 for i in range(1025)}, "body"),
        ({"stream": True, "stream_options": {f"m{i}": 1 for i in range(1025)}}, "stream_options"),
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


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]], [[]], ["a"] * 128])
async def test_prompts_that_completions_take(client: httpx.AsyncClient, engine: StandIn, prompt: Any) -> None:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 0}
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert engine.passed == [("/v1/completions", body)]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {"prompt": [1]}, "prompt"),
        ("/tokenize", {"messages": {}}, "messages"),
        ("/tokenize", {"messages": [0] * 300_000}, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}, 0]}, "messages[1]"),
        ("/tokenize", {"messages": [{"content": "x"}]}, "messages[0].role"),
        ("/tokenize", {"messages": [{"role": "user", "content": [0]}]}, "messages[0].content[0]"),
        ("/tokenize", {"messages": [{"role": "user", "content": [{}] * 9000}] * 2}, "messages"),
        ("/tokenize", {"messages": [], "tools": [0]}, "tools[0]"),
        ("/tokenize", {"messages": [], "tools": [{}]}, "tools[0].function"),
        ("/tokenize", {"messages": [], "tools": [{}] * 16_385}, "tools"),
        ("/tokenize", {"messages": [], "media_io_kwargs": {"image": 1}}, "media_io_kwargs.image"),
        (
            "/tokenize",
            {"messages": [{"role": "assistant", "content": None, "refusal": 1}]},
            "messages[0].refusal",
        ),
        ("/tokenize", {"prompt": "x"} | {f"m{i}": 1 for i in range(1024)}, "body"),
        ("/detokenize", {"tokens": "1"}, "tokens"),
        ("/detokenize", {"tokens": [1, "2"]}, "tokens[1]"),
        ("/detokenize", {"tokens": [0] * (2**20 + 1)}, "tokens"),
        ("/detokenize", {"tokens": [1, 2**63]}, "tokens"),
        ("/v1/embeddings", {"input": [{}]}, "input[0]"),
        ("/v1/embeddings", {"input": ["x"] * 16_385}, "input"),
        ("/v1/embeddings", {"messages": [0]}, "messages[0]"),
        ("/v1/embeddings", {"input": [[1] * 40_000] * 2}, "input"),
        ("/v1/embeddings", {"input": [1] * 65_537}, "input"),
        ("/v1/embeddings", {"input": ["x"] * 1000, "dimensions": "x"}, "dimensions"),
        ("/v1/embeddings", {"messages": [], "chat_template": 1}, "chat_template"),
        *(
            (path, {field: {}}, field)
            for path in ("/tokenize", "/detokenize", "/v1/completions", "/v1/embeddings")
            for field in ("kv_transfer_params", "ec_transfer_params")
        ),
        ("/v1/completions", {"vllm_xargs": {"kv_transfer_params": "x"}}, "vllm_xargs.kv_transfer_params"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_never_reaches_the_engine(
    client: httpx.AsyncClient, engine: StandIn, path: str, fields: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json=fields)
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert engine.passed == []


async def test_priority_is_for_admins(engine: StandIn, client: httpx.AsyncClient, tmp_path: Path) -> None:
    body = {"prompt": "x", "priority": -5}
    keys = KeysForTests(tmp_path / "keys.json")
    ann, root = keys.add("ann"), keys.add("root", admin=True)
    async with gateway(engine.url, keys_file=keys.path) as guarded:
        for path in ("/v1/completions", "/tokenize"):
            refused = await guarded.post(path, json=body, headers=ann)
            assert (refused.status_code, error_of(refused)["param"]) == (403, "priority")
            assert (await guarded.post(path, json=body, headers=root)).status_code == 200
    # Where there are no keys, nobody is anybody's tenant.
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert [passed["priority"] for _, passed in engine.passed] == [-5] * 3


COUNTING = [
    ("/tokenize", {"prompt": "x"}),
    ("/tokenize", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/messages/count_tokens", {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}),
]


def counting_stalls() -> StandIn:
    return StandIn(template=lambda messages, _: str(messages), tokenize_stalls=True)


@pytest.mark.parametrize(("path", "body"), COUNTING)
async def test_work_on_prompts_takes_a_place_of_the_key(
    path: str, body: dict[str, Any], tmp_path: Path
) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann", quotas={"concurrency": 1, "tokens_per_minute": 5})
    async with running(counting_stalls()) as engine, gateway(engine.url, keys_file=keys.path) as client:
        first = asyncio.create_task(client.post(path, json=body, headers=ann))
        await eventually(lambda: engine.active == 1)
        refused = await client.post(path, json=body, headers=ann)
        assert refused.status_code == 429
        assert "may have 1 requests under way" in refused.text
        engine.release.set()
        # Nothing is generated: no tokens are charged.
        assert [(await first).status_code, first.result().headers["x-ratelimit-remaining-tokens"]] == [
            200,
            "5",
        ]
        assert (await client.post(path, json=body, headers=ann)).status_code == 200


async def test_an_engine_works_on_few_prompts_at_once() -> None:
    async with running(counting_stalls()) as engine, gateway(engine.url) as client:
        (one,) = client.pool.engines
        path, body = COUNTING[0]
        asking = [asyncio.create_task(client.post(path, json=body)) for _ in range(8)]
        await eventually(lambda: len(one.prompt_places._waiters or ()) == 8 - MOST_PROMPT_WORK)
        await eventually(lambda: engine.active == MOST_PROMPT_WORK)
        # It owes no tokens, and isn't taken for one that makes none.
        assert one.owed == 0
        # Who waits and leaves takes no place.
        asking.pop().cancel()
        await eventually(lambda: len(one.prompt_places._waiters or ()) == 7 - MOST_PROMPT_WORK)
        assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
        engine.release.set()
        assert {done.status_code for done in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize(("path", "body"), COUNTING)
async def test_prompts_of_clients_that_leave_keep_their_places(
    path: str, body: dict[str, Any], tmp_path: Path
) -> None:
    """The engine's tokenizer doesn't stop for them."""
    keys = KeysForTests(tmp_path / "keys.json")
    ann, bob = keys.add("ann", quotas={"concurrency": MOST_PROMPT_WORK}), keys.add("bob")
    async with running(counting_stalls()) as engine, gateway(engine.url, keys_file=keys.path) as client:
        (one,) = client.pool.engines
        for _ in range(MOST_PROMPT_WORK):
            active = engine.active
            asking = asyncio.create_task(client.post(path, json=body, headers=ann))
            await eventually(lambda active=active: engine.active > active)
            asking.cancel()
        refused = await client.post(path, json=body, headers=ann)
        assert (refused.status_code, engine.active) == (429, MOST_PROMPT_WORK)
        waiting = asyncio.create_task(client.post(path, json=body, headers=bob))
        await eventually(lambda: len(one.prompt_places._waiters or ()) == 1)
        engine.release.set()
        assert (await waiting).status_code == 200
        await eventually(lambda: not client.turnstile.unattended)
        assert (await client.post(path, json=body, headers=ann)).status_code == 200


async def test_work_that_nobody_waits_for_ends_with_the_gateway() -> None:
    path, body = COUNTING[0]
    async with running(counting_stalls()) as engine:
        async with gateway(engine.url) as client:
            asking = asyncio.create_task(client.post(path, json=body))
            await eventually(lambda: engine.active == 1)
            asking.cancel()
        await eventually(lambda: engine.active == 0)


@pytest.mark.parametrize(("workers", "places"), [(1, 3), (2, 1), (3, 1), (8, 1)])
async def test_workers_divide_an_engines_places(workers: int, places: int) -> None:
    engine = Engine("http://engine:8001", Settings(workers=workers))
    assert engine.prompt_places._value == places


@pytest.mark.parametrize(("path", "body"), COUNTING)
async def test_an_engine_slow_with_a_prompt_is_not_lost(path: str, body: dict[str, Any]) -> None:
    async with (
        running(counting_stalls()) as engine,
        gateway(engine.url, control_timeout_s=0.2, refresh_interval_s=60) as client,
    ):
        lost = []
        client.pool.engines[0].on_lost = lambda: lost.append(path)
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["message"]) == (
            503,
            "work on this prompt has timed out after 0.6 s",
        )
        assert lost == []
        await eventually(lambda: engine.active == 0)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"prompt": "x" * 40_000}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x" * 40_000}]}, "messages"),
        ("/detokenize", {"tokens": [1] * 20_000}, "tokens"),
        (
            "/v1/messages/count_tokens",
            {"model": "tiny", "messages": [{"role": "user", "content": "x" * 40_000}]},
            "messages",
        ),
    ],
)
async def test_texts_that_no_context_holds_are_not_worked_on(
    path: str, body: dict[str, Any], field: str
) -> None:
    async with running(StandIn(template=lambda *_: "")) as engine, gateway(engine.url) as client:
        rendered = engine.renderings
        response = await client.post(path, json=body)
        assert response.status_code == 400
        assert f"`{field}` can't fit the model's context of 2048 tokens" in response.text
        assert engine.passed == []
        assert engine.renderings == rendered


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
    body = {"prompt": ["x", "y"], "n": 3, "best_of": 2}
    asking = asyncio.create_task(client.post("/v1/completions", json=body))
    await eventually(lambda: engine.active == 1)
    assert client.pool.engines[0].outstanding == 6
    asking.cancel()
    await eventually(lambda: engine.cancelled == 1 and client.pool.engines[0].outstanding == 0)
