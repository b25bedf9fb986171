from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn, running


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with running(StandIn()) as started:
        yield started


@pytest.fixture
async def client(engine: StandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(engine.url) as opened:
        yield opened


@pytest.fixture
async def sdk(client: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{client.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as opened:
        yield opened
