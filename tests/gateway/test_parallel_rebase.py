"""REBASE through the gateway, over a toy model and a scripted reward model: budgets, trees, votes, costs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.reward_stand_in import RewardStandIn, running_reward
from tests.gateway.serving import eventually, gateway
from tests.gateway.test_gateway_chat import ASK
from tests.gateway.toy_engine import Toy, running, text_of
from tests.gateway.toy_llamacpp import running_llamacpp
from tests.gateway.with_keys import KeysForTests, error_of
from tests.support.toy_markers import NEWLINE

CHAT = "/v1/chat/completions"
TOY = {"model": "toy-s1", "messages": ASK["messages"]}


@pytest.fixture
async def toy() -> AsyncIterator[Toy]:
    quick = Toy(halves=(NEWLINE,), prefers=0.3, ends=0.08, heeds_seeds=True)
    async with running(quick) as started:
        yield started


@pytest.fixture
async def reward() -> AsyncIterator[RewardStandIn]:
    async with running_reward(RewardStandIn(lambda steps: (len(steps[-1]) % 7) / 7)) as started:
        yield started


@pytest.fixture
async def client(toy: Toy, reward: RewardStandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(toy.url, reward_url=reward.url, step_boundary="\n", refresh_interval_s=5) as opened:
        toy.bodies.clear()
        yield opened


def rebase(width: int = 4, total: int = 120, **options: Any) -> dict[str, Any]:
    return {"parallel": {"method": "rebase", "width": width, "total_thinking_tokens": total, **options}}


async def search(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json=TOY | {"seed": 1} | fields)
    assert response.status_code == 200, response.text
    got: dict[str, Any] = response.json()
    return got


def check_tree(got: dict[str, Any], *, total: int, width: int) -> None:
    """What has to hold for every tree."""
    choice, usage = got["choices"][0], got["usage"]
    told = choice["parallel"]
    nodes = {node["id"]: node for node in told["tree"]}
    assert nodes[0]["parent"] is None and all(node["parent"] in nodes for node in told["tree"][1:])
    # The sum over the tree counts every step once, and is never more than the budget.
    spent = sum(node["tokens"] for node in nodes.values())
    assert spent == told["thinking_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] <= total
    leaves = [node for node in nodes.values() if node["state"] == "leaf"]
    assert len(leaves) == told["finished"] == len(told["branches"]) <= width
    for node in nodes.values():
        children = [other for other in nodes.values() if other["parent"] == node["id"]]
        assert len(children) == node.get("children", 0)
        assert node["state"] == "expanded" or not children
    # Level by level: as many branches go on as have not answered.
    for depth in range(1, max(node["depth"] for node in nodes.values()) + 1):
        level = [node for node in nodes.values() if node["depth"] == depth]
        answered = [node for node in leaves if node["depth"] < depth]
        assert len(level) == width - len(answered)
    # Every branch's own count is that of its path, shared steps included.
    for branch in told["branches"]:
        path, node = 0, nodes[branch["node"]]
        while node["parent"] is not None:
            path, node = path + node["tokens"], nodes[node["parent"]]
        assert branch["thinking_budget"]["thinking_tokens"] == path
    assert all(receipt["thinking_tokens"] <= receipt["effective"]["max"] for receipt in receipts(told))
    markers = sum(receipt["marker_tokens"] + receipt["answer_tokens"] for receipt in receipts(told))
    assert usage["completion_tokens"] == spent + markers
    assert choice["thinking_budget"] == told["branches"][told["chosen"]]["thinking_budget"]


def receipts(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [branch["thinking_budget"] for branch in told["branches"]]


@pytest.mark.parametrize("seed", range(8))
async def test_a_search_never_exceeds_its_budget(client: httpx.AsyncClient, toy: Toy, seed: int) -> None:
    for width, total in itertools.product((1, 4, 7), (8, 40, 300)):
        got = await search(client, **rebase(width, total), seed=seed)
        check_tree(got, total=total, width=width)


async def test_the_tree_can_be_drawn(client: httpx.AsyncClient) -> None:
    told = (await search(client, **rebase(6, 200)))["choices"][0]["parallel"]
    lines = [
        f'{node["parent"]} -> {node["id"]} "{node["text"]}" {node["state"]}' for node in told["tree"][1:]
    ]
    assert len(lines) == len(told["tree"]) - 1 > 6
    scored = [node for node in told["tree"] if "score" in node]
    assert scored and all(0 <= node["score"] <= 1 and node["state"] != "leaf" for node in scored)
    assert {node["state"] for node in told["tree"]} <= {"expanded", "pruned", "leaf"}


async def test_branches_go_where_the_reward_is(client: httpx.AsyncClient, reward: RewardStandIn) -> None:
    reward.opinion = lambda steps: float(sum(map(ord, steps[0])) % 2)
    told = (await search(client, **rebase(24, 900, balance_temperature=0.05)))["choices"][0]["parallel"]
    first = [node for node in told["tree"] if node["depth"] == 1 and node["state"] != "leaf"]
    liked = [node for node in first if node.get("score") == 1.0]
    disliked = [node for node in first if node.get("score") == 0.0]
    assert liked and disliked
    assert sum(node.get("children", 0) for node in liked) >= len(liked)
    assert all(node["state"] == "pruned" for node in disliked)


async def test_equally_good_branches_all_go_on(client: httpx.AsyncClient, reward: RewardStandIn) -> None:
    reward.opinion = lambda steps: 0.5
    told = (await search(client, **rebase(4, 300)))["choices"][0]["parallel"]
    first = [node for node in told["tree"] if node["depth"] == 1 and node["state"] != "leaf"]
    assert [node["children"] for node in first] == [1] * len(first)


async def test_the_depth_cap_makes_branches_answer(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.ends = 0.0
    got = await search(client, **rebase(3, 200, max_depth=2))
    told = got["choices"][0]["parallel"]
    check_tree(got, total=200, width=3)
    assert {node["depth"] for node in told["tree"]} == {0, 1, 2, 3}
    nodes = {node["id"]: node for node in told["tree"]}
    last = [branch for branch in told["branches"] if nodes[branch["node"]]["depth"] == 3]
    assert last and all(b["thinking_budget"]["ended_by"] == "max_thinking_tokens" for b in last)
    assert all(branch["finish_reason"] in ("stop", "length") for branch in told["branches"])


async def test_prompts_are_continued_token_by_token(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.bodies.clear()
    told = (await search(client, **rebase(3, 90)))["choices"][0]["parallel"]
    assert all(body["prompt"][: len(toy.prompt)] == toy.prompt for body in toy.bodies)
    steps = [body for body in toy.bodies if body.get("stop") == ["\n"]]
    nodes = {node["id"]: node for node in told["tree"]}

    def path(node: dict[str, Any]) -> str:
        return "" if node["parent"] is None else path(nodes[node["parent"]]) + node["text"]

    asked = {text_of(body["prompt"][len(toy.prompt) :]) for body in steps}
    assert asked <= {path(node) for node in nodes.values()}
    assert all(body["seed"] != other["seed"] for body, other in itertools.combinations(toy.bodies, 2))


async def test_a_branch_has_no_more_than_the_policy_leaves_it(
    toy: Toy, reward: RewardStandIn, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("server: {cap: {max_thinking_tokens: 9}}\n")
    async with gateway(
        toy.url, reward_url=reward.url, step_boundary="\n", policy_file=policy, refresh_interval_s=5
    ) as client:
        got = await search(client, **rebase(4, 400))
        check_tree(got, total=4 * 9, width=4)
        for receipt in receipts(got["choices"][0]["parallel"]):
            assert receipt["effective"]["max"] == 9 and receipt["clamped_by"] == ["policy:server"]


async def test_a_key_pays_for_the_whole_tree(toy: Toy, reward: RewardStandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    headers = keys.add("ann", quotas={"thinking_tokens_per_day": 1000})
    async with gateway(
        toy.url, reward_url=reward.url, step_boundary="\n", keys_file=keys.path, refresh_interval_s=5
    ) as client:
        client.headers.update(headers)
        spent = (await search(client, **rebase(4, 200)))["choices"][0]["parallel"]["thinking_tokens"]
        left = (await client.post(CHAT, json=TOY | {"max_thinking_tokens": 0})).headers
        assert left["x-ratelimit-remaining-thinking-tokens"] == str(1000 - spent)


async def test_a_client_that_leaves_stops_the_search(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.stall_after = 1
    asking = asyncio.create_task(client.post(CHAT, json=TOY | rebase(6, 200)))
    await eventually(lambda: toy.active == 6)
    asking.cancel()
    await eventually(lambda: toy.active == 0)


async def test_a_stream_tells_of_every_depth(client: httpx.AsyncClient) -> None:
    url = f"{client.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(**TOY, stream=True, seed=1, extra_body=rebase(4, 120))
        chunks = [chunk async for chunk in stream]
    progress = [chunk.parallel_progress for chunk in chunks if hasattr(chunk, "parallel_progress")]
    told = chunks[-1].choices[0].parallel
    assert [event["depth"] for event in progress] == list(range(1, len(progress) + 1))
    assert progress[-1]["thinking_tokens"] == told["thinking_tokens"]
    assert progress[-1]["nodes"] == len(told["tree"]) - 1


async def test_hidden_thinking_is_not_in_the_tree_either(client: httpx.AsyncClient) -> None:
    got = await search(client, **rebase(), include_reasoning=False)
    choice = got["choices"][0]
    assert choice["message"]["reasoning"] is None
    assert all("text" not in node for node in choice["parallel"]["tree"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"num_waits": 1}, "num_waits"),
        ({"min_thinking_tokens": 5}, "min_thinking_tokens"),
        ({"landing_tokens": 5}, "landing_tokens"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"stop": ["x"]}, "stop"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"stop_token_ids": [3]}, "stop_token_ids"),
    ],
)
async def test_what_a_search_can_not_honour_is_refused_by_name(
    client: httpx.AsyncClient, toy: Toy, fields: dict[str, Any], param: str
) -> None:
    toy.bodies.clear()
    response = await client.post(CHAT, json=TOY | rebase() | fields)
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert toy.bodies == []


async def test_another_make_than_vllm_is_refused(reward: RewardStandIn) -> None:
    async with (
        running_llamacpp(Toy()) as other,
        gateway(other.url, reward_url=reward.url, refresh_interval_s=5) as client,
    ):
        response = await client.post(CHAT, json=TOY | rebase())
        assert response.status_code == 400 and error_of(response)["param"] == "parallel.method"
        assert "llama.cpp" in error_of(response)["message"]


async def test_an_engine_that_dies_in_the_search_ends_it(client: httpx.AsyncClient, toy: Toy) -> None:
    toy.refuse = (500, {"error": {"message": "EngineCore died", "code": 500}})
    response = await client.post(CHAT, json=TOY | rebase())
    assert (response.status_code, error_of(response)["code"]) == (500, "engine_error")
    assert toy.active == 0
