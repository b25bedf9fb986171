"""/v1/messages and /v1/responses through the gateway, by the SDKs, before the stand-in engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from server.gateway.access.ledger import MemoryLedger
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import PROMPT_TOKENS, Faults, StandIn, running
from tests.gateway.with_keys import KeysForTests

USER: Any = {"role": "user", "content": "q"}
ASK = {"model": "tiny", "max_tokens": 100, "messages": [USER]}


@pytest.fixture
async def claude(client: httpx.AsyncClient) -> AsyncIterator[anthropic.AsyncAnthropic]:
    url = str(client.base_url)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as opened:
        yield opened


async def test_a_message(claude: anthropic.AsyncAnthropic, engine: StandIn) -> None:
    message = await claude.messages.create(
        model="tiny",
        max_tokens=2000,
        system="s",
        messages=[USER],
        thinking={"type": "enabled", "budget_tokens": 1024},
        stop_sequences=["\n"],
        extra_body={"num_waits": 1},
    )
    thinking, text = message.content
    assert isinstance(thinking, anthropic.types.ThinkingBlock)
    assert thinking.thinking == "t0 t1 t2 t3 t4 t5 t6 t7 Wait t9 t10 t11 "
    assert isinstance(text, anthropic.types.TextBlock)
    assert text.text == "42."
    receipt = message.thinking_budget  # type: ignore[attr-defined]
    assert receipt["requested"] == {"max_thinking_tokens": 1024, "num_waits": 1}
    assert receipt["requested_as"] == {"max_thinking_tokens": "thinking.budget_tokens"}
    assert receipt["thinking_tokens"] == 12
    assert (message.usage.input_tokens, message.usage.output_tokens) == (PROMPT_TOKENS, 12 + 2 + 4)
    assert message.usage.output_tokens_details
    assert message.usage.output_tokens_details.thinking_tokens == 12
    (body,) = engine.bodies
    assert body["messages"] == [{"role": "system", "content": "s"}, USER]
    assert body["stop"] == ["\n"]
    assert not body.keys() & {"thinking", "system", "stop_sequences"}


async def test_a_message_streamed(claude: anthropic.AsyncAnthropic) -> None:
    seen = []
    extra = {"max_thinking_tokens": 3}
    async with claude.messages.stream(
        model="tiny", max_tokens=100, messages=[USER], extra_body=extra
    ) as stream:
        async for event in stream:
            seen.append((event.type, getattr(event, "index", None)))
            if event.type == "message_delta":
                assert event.thinking_budget["thinking_tokens"] == 3  # type: ignore[union-attr]
                assert "positions" not in event.thinking_budget  # type: ignore[union-attr]
            if event.type == "message_start":
                assert event.message.usage.input_tokens == PROMPT_TOKENS
        message = await stream.get_final_message()
    assert [kind for kind in seen if kind[0] in ("content_block_start", "content_block_stop")] == [
        (f"content_block_{what}", index) for index in (0, 1) for what in ("start", "stop")
    ]
    assert [seen[0], *seen[-2:]] == [("message_start", None), ("message_delta", None), ("message_stop", None)]
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (PROMPT_TOKENS, 3 + 8 + 4)


async def test_hidden_thinking_still_counts(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(
        **ASK, thinking={"type": "adaptive", "display": "omitted"}, extra_body={"num_waits": 0}
    )
    assert [block.type for block in message.content] == ["text"]
    assert message.usage.output_tokens_details
    assert message.usage.output_tokens_details.thinking_tokens == 8


async def test_messages_run_out_of_tokens(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(model="tiny", max_tokens=5, messages=[USER])
    assert message.stop_reason == "max_tokens"


async def test_tokens_are_counted_by_the_engine() -> None:
    def template(messages: list[dict[str, Any]], _: dict[str, Any]) -> str:
        return "".join(f"{message['role']}:{message['content']}" for message in messages)

    async with running(StandIn(template=template)) as engine, gateway(engine.url) as client:
        body = {"model": "tiny", "messages": [USER], "system": "s"}
        response = await client.post("/v1/messages/count_tokens", json=body)
    assert response.json() == {"input_tokens": len("system:suser:q")}


async def test_an_engine_that_does_not_count_is_given_up() -> None:
    hanging = StandIn(template=lambda messages, _: "", tokenize_stalls=True)
    async with running(hanging) as engine, gateway(engine.url, control_timeout_s=0.2) as client:
        response = await client.post("/v1/messages/count_tokens", json={"model": "tiny", "messages": [USER]})
        assert response.status_code == 503
        assert "timed out" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "says"),
    [
        ({"max_tokens": 0}, 400, "invalid_request_error", "`max_tokens` must be >= 1"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, 400, "invalid_request_error", ">= 1024"),
        ({"num_waits": 3, "max_tokens": 4}, 400, "invalid_request_error", "`max_tokens` must be >= 9"),
        ({"model": "none"}, 404, "not_found_error", "`none`"),
        ({"metadata": {"user_id": "u" * 2000}}, 413, "request_too_large", "1024 bytes"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_errors(
    engine: StandIn, fields: dict[str, Any], status: int, kind: str, says: str, stream: bool
) -> None:
    async with gateway(engine.url, max_body_bytes=1024) as client:
        response = await client.post("/v1/messages", json=ASK | fields | {"stream": stream})
    assert response.status_code == status
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert says in body["error"]["message"]
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


@anthropic.beta_async_tool
async def report(count: int) -> str:
    """Say it."""
    return str(count)


async def test_anthropics_tool_runner_goes_on_without_a_thread(
    claude: anthropic.AsyncAnthropic, client: httpx.AsyncClient, engine: StandIn
) -> None:
    refused = await client.post("/v1/messages", json=ASK | {"thread": {"type": "create"}})
    assert refused.status_code == 400
    assert refused.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
    runner = claude.beta.messages.tool_runner(model="tiny", max_tokens=100, messages=[USER], tools=[report])
    message = await runner.until_done()
    assert [block.type for block in message.content] == ["thinking", "text"]
    (body,) = engine.bodies
    assert body["messages"] == [USER]


async def test_models_by_anthropics_sdk(claude: anthropic.AsyncAnthropic, client: httpx.AsyncClient) -> None:
    listed = [model async for model in claude.models.list()]
    assert listed == [await claude.models.retrieve("tiny")]
    (model,) = listed
    assert (model.type, model.display_name) == ("model", "tiny")
    plain = (await client.get("/v1/models")).json()["data"][0]
    assert model.created_at.timestamp() == plain["created"]
    assert not plain.keys() & {"type", "display_name", "created_at"}


async def test_routes_that_anthropic_has_and_we_do_not(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/messages/batches", json={})
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"
    assert (await client.get("/v1/messages")).json()["error"]["type"] == "invalid_request_error"


async def test_an_anthropic_stream_that_breaks_ends_in_an_error_event(
    claude: anthropic.AsyncAnthropic, engine: StandIn
) -> None:
    engine.faults = Faults(end_early_after=2)
    with pytest.raises(anthropic.APIStatusError) as failed:
        async with claude.messages.stream(model="tiny", max_tokens=100, messages=[USER]) as stream:
            await stream.until_done()
    body: Any = failed.value.body
    assert body["error"]["type"] == "overloaded_error"
    assert "lost" in body["error"]["message"]


async def test_a_response(sdk: openai.AsyncOpenAI, engine: StandIn) -> None:
    response = await sdk.responses.create(
        model="tiny",
        input="q",
        instructions="s",
        reasoning={"effort": "minimal"},
        max_output_tokens=50,
        metadata={"a": "b"},
        store=False,
    )
    thinking, message = response.output
    assert thinking.type == "reasoning"
    assert thinking.content
    assert thinking.content[0].text == "t0 t1 t2 t3 t4 "
    assert message.type == "message"
    assert response.output_text == "42."
    assert (response.status, response.metadata) == ("completed", {"a": "b"})
    assert response.usage
    assert response.usage.input_tokens == PROMPT_TOKENS
    assert response.usage.output_tokens_details.reasoning_tokens == 5
    receipt = response.thinking_budget  # type: ignore[attr-defined]
    assert receipt["requested_as"] == {"max_thinking_tokens": "reasoning.effort"}
    assert engine.bodies[0]["messages"] == [{"role": "system", "content": "s"}, USER]


@pytest.mark.parametrize("summary", [None, "auto"])
async def test_a_response_streamed(sdk: openai.AsyncOpenAI, summary: Any) -> None:
    thought = []
    kind = "response.reasoning_summary_text.delta" if summary else "response.reasoning_text.delta"
    async with sdk.responses.stream(
        model="tiny", input="q", reasoning={"summary": summary}, extra_body={"max_thinking_tokens": 3}
    ) as stream:
        numbers = []
        async for event in stream:
            numbers.append(event.sequence_number)
            if event.type == kind:
                thought.append(event.delta)
        response = await stream.get_final_response()
    assert numbers == list(range(len(numbers)))
    assert "".join(thought) == "t0 t1 t2 "
    assert response.output_text == "42."
    assert response.usage
    assert response.usage.output_tokens_details.reasoning_tokens == 3


async def test_a_response_that_runs_out(sdk: openai.AsyncOpenAI) -> None:
    response = await sdk.responses.create(model="tiny", input="q", max_output_tokens=5)
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_errors_of_responses(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(model="tiny", input="q", store=True)
    assert refused.value.param == "store"
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(
            model="tiny", input="q", max_output_tokens=4, extra_body={"max_thinking_tokens": 2}
        )
    assert refused.value.param == "max_output_tokens"
    assert "`max_output_tokens` must be >= 9" in str(refused.value)


async def test_a_response_that_breaks_has_failed(client: httpx.AsyncClient, engine: StandIn) -> None:
    engine.faults = Faults(die_after=2)
    streamed = await client.post("/v1/responses", json={"input": "q", "stream": True})
    *_, name, data = [line for line in streamed.text.splitlines() if line]
    assert name == "event: response.failed"
    assert json.loads(data.removeprefix("data: "))["response"]["error"]["code"] == "server_error"


async def test_the_policys_headers_are_the_same(client: httpx.AsyncClient) -> None:
    for path, body in (("/v1/messages", ASK), ("/v1/responses", {"input": "q"})):
        for stream in (False, True):
            fields = {**body, "stream": stream, "max_thinking_tokens": 4}
            response = await client.post(path, json=fields)
            assert response.headers["x-thinking-budget-max"] == "4"


async def test_a_client_that_leaves_frees_the_engine(client: httpx.AsyncClient, engine: StandIn) -> None:
    engine.faults = Faults(stall_after=2)
    async with client.stream("POST", "/v1/messages", json={**ASK, "stream": True}) as response:
        async for line in response.aiter_lines():
            if "content_block_delta" in line:
                break
    await eventually(lambda: engine.cancelled == 1)


class SlowLedger(MemoryLedger):
    """Settles late, so that whoever doesn't wait for it is seen."""

    settled = False

    async def settle(self, *given: Any) -> None:
        for _ in range(200):
            await asyncio.sleep(0)
        await super().settle(*given)
        self.settled = True


@pytest.mark.parametrize(
    ("path", "body", "last"),
    [
        ("/v1/messages", ASK, "event: message_stop"),
        ("/v1/responses", {"input": "q"}, "event: response.completed"),
        ("/v1/chat/completions", {"messages": [USER]}, "data: [DONE]"),
    ],
)
async def test_quotas_are_settled_before_the_last_event(
    engine: StandIn, tmp_path: Path, path: str, body: dict[str, Any], last: str
) -> None:
    keys, ledger = KeysForTests(tmp_path / "keys.json"), SlowLedger(lambda: 1.0)
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": 5000})
    async with gateway(engine.url, keys_file=keys.path, ledger=ledger) as client:
        streamed = {**body, "stream": True, "max_thinking_tokens": 5}
        async with client.stream("POST", path, json=streamed, headers=headers) as response:
            async for line in response.aiter_lines():
                if line == last:
                    assert ledger.settled
                    return
    raise AssertionError(f"no {last}")


async def test_a_refused_key_is_told_in_the_apis_own_envelope(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    keys.add("ann")
    async with gateway(engine.url, keys_file=keys.path) as client:
        response = await client.post("/v1/messages", json=ASK, headers={"x-api-key": "s1-no-key"})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
