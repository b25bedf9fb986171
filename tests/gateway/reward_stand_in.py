"""A process-reward model to test the gateway against: vLLM's /pooling with step tags, and a scripted
opinion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TAG = "<extra_0>"
Opinion = Callable[[list[str]], float]
"""From the steps so far to the score of the last."""


@dataclass
class RewardStandIn:
    opinion: Opinion = lambda steps: 0.5
    url: str = ""
    messages: list[list[dict[str, Any]]] = field(default_factory=list)
    """Of every request, without the last."""
    rated: list[list[str]] = field(default_factory=list)
    """The steps of every request."""
    refuse: tuple[int, Any] | None = None
    pools_everywhere: bool = False
    """It wasn't told of the step tag."""
    stalls: bool = False
    active: int = 0

    @property
    def tokens(self) -> int:
        """Prompt tokens of all requests, as it counts them."""
        return sum(10 * len(steps) for steps in self.rated)


@asynccontextmanager
async def running_reward(reward: RewardStandIn) -> AsyncIterator[RewardStandIn]:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "judge"}]})

    async def pooling(request: web.Request) -> web.Response:
        body = await request.json()
        assert set(body) == {"model", "messages"} and body["model"] == "judge"
        if reward.refuse is not None:
            return web.json_response(reward.refuse[1], status=reward.refuse[0])
        *conversation, last = body["messages"]
        assert last["role"] == "assistant" and last["content"].endswith(TAG)
        steps = last["content"].split(TAG)[:-1]
        reward.messages.append(conversation)
        reward.rated.append(steps)
        reward.active += 1
        try:
            if reward.stalls:
                await asyncio.Event().wait()
        finally:
            reward.active -= 1
        scores = [reward.opinion(steps[: at + 1]) for at in range(len(steps))]
        rows = [[1 - score, score] for score in scores]
        if reward.pools_everywhere:
            rows = rows * 2
        usage = {"prompt_tokens": 10 * len(steps), "total_tokens": 10 * len(steps)}
        return web.json_response({"data": [{"index": 0, "data": rows}], "usage": usage})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/pooling", pooling)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reward.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield reward
    finally:
        await runner.cleanup()
