"""Thinking on from a completion that has ended, over toy engines with and without the plugin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.budget.machine import BudgetMachine
from server.budget.spec import EffectiveBudget
from server.gateway.live.kept_thinking import Kept, KeptChoice, KeptThinking
from server.gateway.settings import Settings, SettingsError, read_settings
from tests.gateway.serving import eventually, gateway
from tests.gateway.toy_engine import MAX_MODEL_LEN, Toy, running
from tests.gateway.toy_native import ToyNative, running_native
from tests.gateway.with_keys import KeysForTests, error_of
from tests.support.toy_markers import EOS, WAIT, toy_markers

IDS = toy_markers()
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "6 * 7?"}]


@pytest.fixture(params=["native", "rounds"])
async def toy(request: pytest.FixtureRequest) -> AsyncIterator[Toy]:
    native = request.param == "native"
    async with running_native(ToyNative()) if native else running(Toy()) as engine:
        yield engine


@pytest.fixture
async def client(toy: Toy) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(toy.url, refresh_interval_s=5, receipt_wait_ms=2000) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, toy: Toy, **fields: Any) -> dict[str, Any]:
    body = {"model": toy.name, "messages": MESSAGES, "max_thinking_tokens": 30, **fields}
    response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def more(client: httpx.AsyncClient, id: str, **fields: Any) -> dict[str, Any]:
    response = await client.post(f"{CHAT}/{id}/think_more", json=fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def continued(toy: Toy, before: list[int], *, num_waits: int, maximum: int) -> list[int]:
    """One generation over prompt and thinking whose machine is given an end token first."""
    budget = EffectiveBudget(max=maximum, min=0, num_waits=num_waits, landing=0, clamped_by=())
    machine = BudgetMachine(IDS, budget, opened=True)
    output = [machine.commit(EOS)]
    while len(output) < MAX_MODEL_LEN - len(before) and output[-1] != EOS:
        output.append(machine.commit(toy.next([*before, *output], masked=machine.masked)))
    return output


def thinking_of(answer: dict[str, Any]) -> list[int]:
    """Prompt and thinking."""
    choice = answer["choices"][0]
    thought = choice["token_ids"][: choice["thinking_budget"]["thinking_tokens"]]
    return [*answer["prompt_token_ids"], *thought]


@pytest.mark.parametrize("seed", range(6))
async def test_thinking_goes_on_after_a_wait(client: httpx.AsyncClient, toy: Toy, seed: int) -> None:
    toy.seed = seed
    first = await ask(client, toy, return_token_ids=True, num_waits=seed % 2)
    second = await more(client, first["id"], num_waits=2, max_thinking_tokens=25, return_token_ids=True)
    assert second["id"] != first["id"]
    before = thinking_of(first)
    (choice,) = second["choices"]
    assert second["prompt_token_ids"] == before
    assert choice["token_ids"] == continued(toy, before, num_waits=2, maximum=25)
    assert choice["token_ids"][0] == WAIT
    assert choice["message"]["reasoning"].startswith("Wait")
    receipt, earlier = choice["thinking_budget"], first["choices"][0]["thinking_budget"]
    assert receipt["requested"] == {"max_thinking_tokens": 25, "num_waits": 2}
    assert 1 <= receipt["waits"] <= 2
    assert receipt["continues"] == {
        "id": first["id"],
        "thinking_tokens": earlier["thinking_tokens"],
        "waits": earlier["waits"],
    }
    usage = second["usage"]
    assert usage["prompt_tokens"] == len(before)
    assert usage["completion_tokens"] == len(choice["token_ids"])
    counts = sum(receipt[f"{kind}_tokens"] for kind in ("thinking", "marker", "answer"))
    assert counts == usage["completion_tokens"]
    # And on from there.
    third = await more(client, second["id"], return_token_ids=True)
    assert third["prompt_token_ids"] == thinking_of(second)
    assert third["choices"][0]["thinking_budget"]["continues"] == {
        "id": second["id"],
        "thinking_tokens": earlier["thinking_tokens"] + receipt["thinking_tokens"],
        "waits": earlier["waits"] + receipt["waits"],
    }


async def test_streams_both_ways(client: httpx.AsyncClient, toy: Toy) -> None:
    body = {"model": toy.name, "messages": MESSAGES, "max_thinking_tokens": 30, "stream": True}
    chunks = events(await client.post(CHAT, json=body))
    id = chunks[0]["id"]
    assert "token_ids" not in json.dumps(chunks)
    whole = await more(client, id)
    response = await client.post(
        f"{CHAT}/{id}/think_more", json={"stream": True, "stream_options": {"include_usage": True}}
    )
    streamed = events(response)
    choices = [choice for chunk in streamed for choice in chunk["choices"]]
    for kind in ("reasoning", "content"):
        text = "".join(choice["delta"].get(kind) or "" for choice in choices)
        assert text == (whole["choices"][0]["message"][kind] or "")
    assert choices[-1]["thinking_budget"] == whole["choices"][0]["thinking_budget"]
    assert streamed[-1]["usage"] == whole["usage"]
    assert "token_ids" not in json.dumps(streamed)
    assert whole["choices"][0]["token_ids"] is None


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_a_choice_of_several(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.ends = 0.5
    first = await ask(client, toy, n=2, return_token_ids=True)
    id = first["id"]
    assert (await more(client, id, choice=1))["choices"][0]["index"] == 0
    response = await client.post(f"{CHAT}/{id}/think_more", json={"choice": 2})
    assert (response.status_code, error_of(response)["param"]) == (400, "choice")


async def test_a_completion_without_a_budget_on_an_engine_with_the_plugin() -> None:
    async with running_native(ToyNative(ends=0.4)) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        first = await ask(client, toy, max_thinking_tokens=None, return_token_ids=True)
        second = await more(client, first["id"], max_thinking_tokens=9, return_token_ids=True)
        output = first["choices"][0]["token_ids"]
        end = next(i for i in range(len(output)) if tuple(output[i : i + 2]) == IDS.end or output[i] == EOS)
        # A marker that has begun is no thinking.
        end -= output[end - 1 : end] == [IDS.end[0]]
        assert second["prompt_token_ids"] == [*toy.prompt, *output[:end]]
        assert second["choices"][0]["thinking_budget"]["waits"] == 1


async def test_what_was_asked_for_holds_on(client: httpx.AsyncClient, toy: Toy) -> None:
    first = await ask(client, toy, include_reasoning=False, temperature=0.5, seed=11, max_tokens=60)
    asked = len(toy.bodies)
    second = await more(client, first["id"])
    message = second["choices"][0]["message"]
    assert message["reasoning"] is None
    assert message["content"]
    assert second["usage"]["completion_tokens"] <= 60
    sent = toy.bodies[asked:]
    assert sent
    assert all(body["temperature"] == 0.5 and "seed" in body for body in sent)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"num_waits": 0}, "num_waits"),
        ({"num_waits": 1025}, "num_waits"),
        ({"num_waits": 1.5}, "num_waits"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens"),
        ({"min_thinking_tokens": 9, "max_thinking_tokens": 5}, "min_thinking_tokens"),
        ({"messages": MESSAGES}, "messages"),
        ({"temperature": 0}, "temperature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"choice": -1}, "choice"),
    ],
)
async def test_bad_fields(client: httpx.AsyncClient, toy: Toy, body: dict[str, Any], param: str) -> None:
    first = await ask(client, toy)
    response = await client.post(f"{CHAT}/{first['id']}/think_more", json=body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize(
    "fields", [{"logprobs": True}, {"tools": [{"type": "function", "function": {"name": "f"}}]}]
)
async def test_what_can_not_be_continued_says_why(fields: dict[str, Any]) -> None:
    async with running_native(ToyNative()) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        first = await ask(client, toy, **fields)
        response = await client.post(f"{CHAT}/{first['id']}/think_more", json={})
        error = error_of(response)
        assert (response.status_code, error["code"]) == (409, "cannot_think_more")
        assert f"`{next(iter(fields))}`" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [{"max_thinking_tokens": 0}, {"max_thinking_tokens": None, "reasoning_effort": "none"}],
    ids=["maximum", "effort"],
)
async def test_where_there_was_to_be_no_thinking_none_goes_on(
    client: httpx.AsyncClient, toy: Toy, fields: dict[str, Any]
) -> None:
    first = await ask(client, toy, **fields)
    assert first["choices"][0]["thinking_budget"]["thinking_tokens"] == 0
    response = await client.post(f"{CHAT}/{first['id']}/think_more", json={})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (409, "cannot_think_more")
    assert "it was to have no thinking" in error["message"]


async def test_a_stream_of_several_tokens_an_event_thinks_on() -> None:
    async with (
        running_native(ToyNative()) as toy,
        gateway(toy.url, refresh_interval_s=5, stream_granularity="auto") as client,
    ):
        client.pool.engines[0].pace.tokens_per_s = 200.0  # type: ignore[attr-defined]
        body = {"model": toy.name, "messages": MESSAGES, "max_thinking_tokens": 30, "stream": True}
        id = events(await client.post(CHAT, json=body))[0]["id"]
        assert toy.asked[-1]["stream_interval"] == 10
        assert (await more(client, id))["choices"][0]["thinking_budget"]["waits"] == 1


async def test_an_engine_that_does_not_tell_its_markers() -> None:
    engine = ToyNative(tells_markers=False)
    async with running_native(engine) as toy, gateway(toy.url, refresh_interval_s=5) as client:
        first = await ask(client, toy)
        response = await client.post(f"{CHAT}/{first['id']}/think_more", json={})
        assert response.status_code == 409


async def test_one_that_still_runs(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.gate = asyncio.Semaphore(0)
    body = {"model": toy.name, "messages": MESSAGES, "max_thinking_tokens": 30}
    asked = asyncio.create_task(client.post(CHAT, json=body, headers={"x-request-id": "busy"}))
    await eventually(lambda: toy.active == 1)
    response = await client.post(f"{CHAT}/chatcmpl-busy/think_more", json={})
    assert (response.status_code, error_of(response)["code"]) == (409, "still_running")
    for _ in range(1000):
        toy.gate.release()
    assert (await asked).status_code == 200
    assert (await more(client, "chatcmpl-busy"))["choices"]


async def test_keys_do_not_see_each_others(tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    own, other = keys.add("own"), keys.add("other")
    async with (
        running_native(ToyNative()) as toy,
        gateway(toy.url, refresh_interval_s=5, keys_file=keys.path) as client,
    ):
        body = {"model": toy.name, "messages": MESSAGES, "max_thinking_tokens": 30}
        id = (await client.post(CHAT, json=body, headers=own)).json()["id"]
        foreign = await client.post(f"{CHAT}/{id}/think_more", json={}, headers=other)
        unknown = await client.post(f"{CHAT}/chatcmpl-none/think_more", json={}, headers=other)
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.text.replace(id, "chatcmpl-none") == unknown.text
        assert (await client.post(f"{CHAT}/{id}/think_more", json={}, headers=own)).status_code == 200


async def test_the_oldest_make_room() -> None:
    async with (
        running_native(ToyNative()) as toy,
        gateway(toy.url, refresh_interval_s=5, think_more_keep_tokens=400) as client,
    ):
        ids = [(await ask(client, toy))["id"] for _ in range(8)]
        statuses = [
            (await client.post(f"{CHAT}/{id}/think_more", json={"max_completion_tokens": 40})).status_code
            for id in (ids[0], ids[-1])
        ]
        assert statuses == [404, 200]


def test_what_is_kept_is_counted() -> None:
    """Also entries that hold no tokens, and choices of an entry that is gone already."""
    store = KeptThinking(Settings(think_more_keep_tokens=300))
    kept = [Kept("toy", {}, False, None) for _ in range(3)]

    async def fill() -> None:
        store.note(("a", "0"), Kept("toy", {}, False, "no"))
        assert store.tokens == 64
        for i, one in enumerate(kept):
            store.put(("a", str(i + 1)), one, 0, KeptChoice([1] * 10, [2] * 20))
        assert store.tokens == 3 * (64 + 30)
        assert store.find("a", "0") is None
        store.put(("a", "3"), kept[2], 1, KeptChoice([1] * 400, []))
        assert store.tokens == 0
        store.put(("a", "3"), kept[2], 2, KeptChoice([1] * 5, []))
        assert store.tokens == 64 + 5

    asyncio.run(fill())
    tiny = KeptThinking(Settings(think_more_keep_tokens=1))

    async def overfill() -> None:
        tiny.put(("a", "1"), kept[0], 0, KeptChoice([1], [2]))
        assert tiny.tokens == 0

    asyncio.run(overfill())


async def test_fields_that_are_kept_weigh_as_much_as_they_hold(client: httpx.AsyncClient, toy: Toy) -> None:
    kept: KeptThinking = client.kept  # type: ignore[attr-defined]
    first = (await ask(client, toy))["id"]
    usual = kept.tokens
    await ask(client, toy, stop="x" * 400_000)
    assert kept.tokens - usual >= 100_000
    for _ in range(5):
        await ask(client, toy, stop="x" * 900_000)
    assert kept.tokens <= 1_000_000
    assert (await client.post(f"{CHAT}/{first}/think_more", json={})).status_code == 404


async def test_time_is_up() -> None:
    async with (
        running_native(ToyNative()) as toy,
        gateway(toy.url, refresh_interval_s=5, think_more_keep_s=0.05) as client,
    ):
        id = (await ask(client, toy))["id"]
        kept = client.kept  # type: ignore[attr-defined]
        await eventually(lambda: kept.tokens == 0)
        assert (await client.post(f"{CHAT}/{id}/think_more", json={})).status_code == 404


@pytest.mark.parametrize("setting", ["think_more_keep_s", "think_more_keep_tokens"])
async def test_zero_turns_it_off(setting: str) -> None:
    async with (
        running_native(ToyNative()) as toy,
        gateway(toy.url, refresh_interval_s=5, **{setting: 0}) as client,
    ):
        id = (await ask(client, toy))["id"]
        assert "return_token_ids" not in toy.asked[-1]
        response = await client.post(f"{CHAT}/{id}/think_more", json={})
        assert (response.status_code, error_of(response)["code"]) == (400, "think_more_off")


@pytest.mark.parametrize("value", ["-1", "soon"])
@pytest.mark.parametrize("setting", ["THINK_MORE_KEEP_S", "THINK_MORE_KEEP_TOKENS"])
def test_bad_settings(setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=setting):
        read_settings({f"S1_GATEWAY_{setting}": value, "S1_GATEWAY_ENGINE_URLS": "http://x:1"})
