"""Ending a running completion's thinking: on an engine with the plugin, and in rounds before one without."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.budget.machine import BudgetMachine
from server.budget.spec import BUDGET_FIELDS, ThinkingBudget, resolve
from server.gateway.access.keys import Quotas
from tests.gateway.serving import eventually, gateway
from tests.gateway.toy_engine import MAX_MODEL_LEN, Toy, running
from tests.gateway.toy_native import ToyNative, running_native
from tests.gateway.with_keys import KeysForTests, error_of
from tests.support.toy_markers import EOS, toy_markers

IDS = toy_markers()
MESSAGES = [{"role": "user", "content": "6 * 7?"}]
ID = "asked-1"
CHAT = "/v1/chat/completions"
NOW = f"{CHAT}/chatcmpl-{ID}/answer_now"


@dataclass
class Stream:
    """A streamed completion as its client sees it."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    status: int = 0
    done: bool = False

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk.get("choices", ())]

    def token_ids(self, index: int = 0) -> list[int]:
        return [i for c in self.choices if c["index"] == index for i in c.get("token_ids") or ()]

    def text(self, kind: str) -> str:
        return "".join(choice["delta"].get(kind) or "" for choice in self.choices)

    def receipt(self, index: int = 0) -> dict[str, Any]:
        found = [c["thinking_budget"] for c in self.choices if c["index"] == index and "thinking_budget" in c]
        assert len(found) == 1
        return found[0]

    @property
    def error(self) -> dict[str, Any] | None:
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)

    async def run(self, client: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> None:
        async with client.stream("POST", CHAT, json=body, headers=headers) as response:
            self.status = response.status_code
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    self.chunks.append(json.loads(line.removeprefix("data: ")))


def asking(toy: Toy, **fields: Any) -> dict[str, Any]:
    # It never ends its thinking by itself.
    budget = {"max_thinking_tokens": 150, "num_waits": 1000}
    streamed = {"stream": True, "return_token_ids": True, "stream_options": {"include_usage": True}}
    return {"model": toy.name, "messages": MESSAGES, **streamed, **budget, **fields}


@contextlib.asynccontextmanager
async def streaming(client: httpx.AsyncClient, toy: Toy, **fields: Any) -> AsyncIterator[Stream]:
    stream = Stream()
    task = asyncio.create_task(stream.run(client, asking(toy, **fields), **{"x-request-id": ID}))
    try:
        yield stream
        await asyncio.wait_for(task, 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=["native", "rounds"])
async def toy(request: pytest.FixtureRequest) -> AsyncIterator[Toy]:
    """Its tokens come when a test lets them."""
    native = request.param == "native"
    started = running_native(ToyNative(ends=0.0)) if native else running(Toy(ends=0.0))
    async with started as engine:
        yield engine


@pytest.fixture
async def client(toy: Toy) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(toy.url, refresh_interval_s=5, receipt_wait_ms=2000) as opened:
        toy.gate = asyncio.Semaphore(0)
        yield opened


def let(toy: Toy, tokens: int) -> None:
    assert toy.gate is not None
    for _ in range(tokens):
        toy.gate.release()


def expected(toy: Toy, *, told_before: int, word: str, **fields: int) -> tuple[list[int], dict[str, Any]]:
    """What one generation says whose machine is told before the token at this position is committed."""
    room = MAX_MODEL_LEN - len(toy.prompt)
    budget = ThinkingBudget.from_fields(fields)
    effective = resolve(
        budget, room=room, limited_by="context", opening_tokens=0, exit_tokens=IDS.exit_tokens()
    )
    machine = BudgetMachine(IDS, effective, opened=True)
    output: list[int] = []
    while len(output) < room and EOS not in output[-1:]:
        if len(output) == told_before:
            machine.end_thinking(word)
        output.append(machine.commit(toy.next([*toy.prompt, *output], masked=machine.masked)))
    thinking = machine.thinking_end or 0
    return output, {"thinking_tokens": thinking, "ended_by": machine.ended_by, "waits": machine.waits}


def check_exact(toy: Toy, stream: Stream, *, told_before: range, word: str = "request", **fields: int) -> int:
    """The stream is that of one uninterrupted generation that was told in `told_before`; returns where."""
    given = {"max_thinking_tokens": 150, "num_waits": 1000, **fields}
    possible = {at: expected(toy, told_before=at, word=word, **given) for at in told_before}
    at = next((at for at, (output, _) in possible.items() if output == stream.token_ids()), None)
    assert at is not None, (stream.token_ids(), possible)
    receipt = stream.receipt()
    assert {name: receipt[name] for name in possible[at][1]} == possible[at][1]
    usage = stream.chunks[-1]["usage"]
    counts = [receipt[f"{kind}_tokens"] for kind in ("thinking", "marker", "answer")]
    assert usage["completion_tokens"] == sum(counts) == len(stream.token_ids())
    assert usage["completion_tokens_details"]["reasoning_tokens"] == receipt["thinking_tokens"]
    assert stream.text("content")
    assert stream.done
    return at


async def test_thinking_ends_at_the_next_token(client: httpx.AsyncClient, toy: Toy) -> None:
    async with streaming(client, toy) as stream:
        let(toy, 7)
        await eventually(lambda: len(stream.token_ids()) == 7)
        response = await client.post(NOW)
        assert response.status_code == 200
        assert response.json() == {
            "id": f"chatcmpl-{ID}",
            "object": "chat.completion.control",
            "action": "answer_now",
            "applied": True,
        }
        let(toy, 1000)
    assert check_exact(toy, stream, told_before=range(7, 9)) <= 8


async def test_before_the_first_token(client: httpx.AsyncClient, toy: Toy) -> None:
    async with streaming(client, toy) as stream:
        await eventually(lambda: toy.active == 1)
        assert (await client.post(NOW)).status_code == 200
        let(toy, 1000)
    assert check_exact(toy, stream, told_before=range(1)) == 0
    assert stream.receipt()["thinking_tokens"] <= 2


async def test_twice_and_after_the_thinking(client: httpx.AsyncClient, toy: Toy) -> None:
    async with streaming(client, toy) as stream:
        let(toy, 5)
        await eventually(lambda: len(stream.token_ids()) == 5)
        assert (await client.post(NOW)).status_code == 200
        assert (await client.post(NOW)).status_code == 200
        # As many as the next token and all that is forced after it.
        let(toy, 3 + IDS.exit_tokens())
        await eventually(lambda: stream.text("content"))
        response = await client.post(NOW)
        assert response.status_code == 409
        assert error_of(response)["code"] == "already_answering"
        let(toy, 1000)
    check_exact(toy, stream, told_before=range(5, 7))
    response = await client.post(NOW)
    assert response.status_code == 404
    assert error_of(response)["param"] == "id"


async def test_just_after_the_model_ended_its_thinking(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.ends = 1.0
    async with streaming(client, toy, num_waits=0) as stream:
        # Rounds put the end marker into a prompt; more would let the whole answer come.
        let(toy, 1 + (len(IDS.end) if isinstance(toy, ToyNative) else 0))
        await eventually(lambda: len(stream.token_ids()) >= len(IDS.end))
        response = await client.post(NOW)
        assert (response.status_code, error_of(response)["code"]) == (409, "already_answering")
        let(toy, 1000)
    assert stream.receipt()["ended_by"] == "model"


async def test_waits_that_are_left_are_not_taken(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.ends = 0.4
    async with streaming(client, toy) as stream:
        let(toy, 12)
        await eventually(lambda: len(stream.token_ids()) >= 10)
        assert (await client.post(NOW)).status_code == 200
        let(toy, 1000)
    check_exact(toy, stream, told_before=range(8, 16))


async def test_every_choice_that_thinks_is_told(client: httpx.AsyncClient, toy: Toy) -> None:
    async with streaming(client, toy, n=3) as stream:
        let(toy, 9)
        await eventually(lambda: len(stream.choices) >= 9)
        assert (await client.post(NOW)).status_code == 200
        let(toy, 3000)
    for index in range(3):
        assert stream.receipt(index)["ended_by"] == "request"
        assert stream.receipt(index)["thinking_tokens"] < 20
    usage = stream.chunks[-1]["usage"]
    assert usage["completion_tokens"] == sum(len(stream.token_ids(index)) for index in range(3))


async def test_a_whole_answer(client: httpx.AsyncClient, toy: Toy) -> None:
    body = asking(toy, stream=False)
    del body["stream_options"]
    asked = asyncio.create_task(client.post(CHAT, json=body, headers={"x-request-id": ID}))
    await eventually(lambda: toy.active == 1)
    let(toy, 4)
    assert (await client.post(NOW)).status_code == 200
    let(toy, 1000)
    (choice,) = (await asked).json()["choices"]
    assert choice["thinking_budget"]["ended_by"] == "request"
    assert choice["message"]["content"]


async def test_the_form_of_llamacpp(client: httpx.AsyncClient, toy: Toy) -> None:
    async with streaming(client, toy) as stream:
        let(toy, 3)
        await eventually(lambda: len(stream.token_ids()) == 3)
        body = {"id": f"chatcmpl-{ID}", "action": "reasoning_end"}
        response = await client.post(f"{CHAT}/control", json=body)
        assert response.status_code == 200
        assert response.json()["action"] == "reasoning_end"
        let(toy, 1000)
    assert stream.receipt()["ended_by"] == "request"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"action": "reasoning_end"}, "id"),
        ({"id": "chatcmpl-x"}, "action"),
        ({"id": "chatcmpl-x", "action": "reasoning_begin"}, "action"),
        ({"id": "chatcmpl-x", "action": "reasoning_end", "slot": 1}, "slot"),
        ({"id": 7, "action": "reasoning_end"}, "id"),
    ],
)
async def test_bad_control_requests(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post(f"{CHAT}/control", json=body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize(("path", "prefix"), [("/v1/messages", "msg_"), ("/v1/responses", "resp_")])
async def test_the_other_apis(client: httpx.AsyncClient, toy: Toy, path: str, prefix: str) -> None:
    body: dict[str, Any] = {"model": toy.name, "max_thinking_tokens": 150, "num_waits": 1000}
    body |= (
        {"messages": MESSAGES, "max_tokens": 200}
        if path == "/v1/messages"
        else {"input": "6 * 7?", "max_output_tokens": 200}
    )
    asked = asyncio.create_task(client.post(path, json=body, headers={"x-request-id": ID}))
    await eventually(lambda: toy.active == 1)
    let(toy, 4)
    assert (await client.post(NOW)).status_code == 404
    assert (await client.post(f"{CHAT}/{prefix}{ID}/answer_now")).status_code == 200
    let(toy, 1000)
    response = await asked
    assert response.status_code == 200
    assert '"ended_by":"request"' in response.text


async def test_time_ends_the_thinking(client: httpx.AsyncClient, toy: Toy) -> None:
    async with streaming(client, toy, max_thinking_ms=30) as stream:
        # Tokens come for as long as it takes; without the limit there would be 150 of thinking.
        while not stream.done:
            let(toy, 1)
            await asyncio.sleep(0.01)
    check_exact(toy, stream, told_before=range(140), word="time", max_thinking_ms=30)
    assert stream.receipt()["requested"] == {
        "max_thinking_tokens": 150,
        "num_waits": 1000,
        "max_thinking_ms": 30,
    }
    assert stream.receipt()["ended_by"] == "time"


async def test_an_answer_in_time_is_left_alone(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.ends = 1.0
    async with streaming(client, toy, max_thinking_ms=60_000, num_waits=0) as stream:
        let(toy, 1000)
    assert stream.receipt()["ended_by"] == "model"


async def test_a_client_that_hangs_up_meanwhile(client: httpx.AsyncClient, toy: Toy) -> None:
    stream = Stream()
    task = asyncio.create_task(stream.run(client, asking(toy), **{"x-request-id": ID}))
    let(toy, 5)
    await eventually(lambda: len(stream.token_ids()) == 5)
    told = asyncio.create_task(client.post(NOW))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await told).status_code in (200, 404, 409)
    await eventually(lambda: toy.active == 0)
    await eventually(lambda: all(engine.outstanding == 0 for engine in client.pool.engines))  # type: ignore[attr-defined]
    assert (await client.post(NOW)).status_code == 404


async def test_without_a_budget_nothing_can_be_ended() -> None:
    async with running_native(ToyNative()) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        toy.gate = asyncio.Semaphore(0)
        async with streaming(client, toy, max_thinking_tokens=None, num_waits=None):
            await eventually(lambda: toy.active == 1)
            response = await client.post(NOW)
            assert (response.status_code, error_of(response)["code"]) == (409, "no_thinking_budget")
            let(toy, 1000)


async def test_an_engine_that_cannot_be_told() -> None:
    fields = tuple(name for name in BUDGET_FIELDS if name != "max_thinking_ms")
    engine = ToyNative(enforces=fields, ends=0.0)
    async with running_native(engine) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        response = await client.post(CHAT, json=asking(toy, max_thinking_ms=5))
        assert (response.status_code, error_of(response)["param"]) == (400, "max_thinking_ms")
        toy.gate = asyncio.Semaphore(0)
        async with streaming(client, toy) as stream:
            await eventually(lambda: toy.active == 1)
            response = await client.post(NOW)
            assert (response.status_code, error_of(response)["code"]) == (400, "cannot_be_told")
            let(toy, 1000)
        assert stream.receipt()["ended_by"] == "max_thinking_tokens"


async def test_an_engine_that_dies_when_it_is_told() -> None:
    engine = ToyNative(ends=0.0, dies_when_told=True)
    async with running_native(engine) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        toy.gate = asyncio.Semaphore(0)
        async with streaming(client, toy) as stream:
            let(toy, 5)
            await eventually(lambda: len(stream.token_ids()) == 5)
            response = await client.post(NOW)
            assert response.status_code == 503
        assert stream.error is not None
        assert stream.error["code"] == "engine_died"
        assert (await client.post(NOW)).status_code == 404


async def test_rounds_whose_engine_refuses_the_answer() -> None:
    async with running(Toy(ends=0.0)) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        toy.gate = asyncio.Semaphore(0)
        async with streaming(client, toy) as stream:
            let(toy, 5)
            await eventually(lambda: len(stream.token_ids()) == 5)
            toy.refuse = (500, {"error": {"message": "EngineCore died", "code": 500}})
            assert (await client.post(NOW)).status_code == 200
            let(toy, 1000)
        assert stream.error is not None
        assert toy.active == 0


async def test_another_engine_that_takes_over_is_told_too() -> None:
    """A whole answer has shown nothing yet: it is asked of the other engine, which must not think on."""
    engines = [ToyNative(ends=0.0), ToyNative(ends=0.0)]
    async with (
        running_native(engines[0]) as first,
        running_native(engines[1]) as second,
        gateway(first.url, second.url, refresh_interval_s=5) as client,
    ):
        for engine in engines:
            engine.gate = asyncio.Semaphore(0)
        body = asking(first, stream=False)
        del body["stream_options"]
        asked = asyncio.create_task(client.post(CHAT, json=body, headers={"x-request-id": ID}))
        await eventually(lambda: first.active + second.active == 1)
        dying, other = (first, second) if first.active else (second, first)
        assert (await client.post(NOW)).status_code == 200
        dying.dead.set()
        await eventually(lambda: other.told)
        let(other, 1000)
        (choice,) = (await asked).json()["choices"]
    assert choice["thinking_budget"]["ended_by"] == "request"
    assert choice["thinking_budget"]["thinking_tokens"] <= 2


async def test_another_key_does_not_know_the_completion(tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    own = keys.add("own", quotas=Quotas(thinking_tokens_per_minute=1000))
    other = keys.add("other")
    async with (
        running_native(ToyNative(ends=0.0)) as toy,
        gateway(toy.url, refresh_interval_s=5, receipt_wait_ms=2000, keys_file=keys.path) as client,
    ):
        toy.gate = asyncio.Semaphore(0)
        stream = Stream()
        headers = {"x-request-id": ID, **own}
        task = asyncio.create_task(stream.run(client, asking(toy), **headers))
        let(toy, 5)
        await eventually(lambda: len(stream.token_ids()) == 5)
        assert (await client.post(NOW)).status_code == 401
        foreign = await client.post(NOW, headers=other)
        unknown = await client.post(f"{CHAT}/chatcmpl-none/answer_now", headers=other)
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.text.replace(ID, "none") == unknown.text
        assert (await client.post(NOW, headers=own)).status_code == 200
        let(toy, 1000)
        await task
        # What was really thought is charged, not what was reserved.
        body = asking(toy, max_thinking_tokens=0, num_waits=0, stream=False)
        del body["stream_options"]
        response = await client.post(CHAT, json=body, headers=own)
        left = int(response.headers["x-ratelimit-remaining-thinking-tokens"])
        assert left == 1000 - stream.receipt()["thinking_tokens"]
