"""The reference procedure (`loadtest.reference`) through a stock completions API."""

from __future__ import annotations

import asyncio

import httpx

from loadtest.reference import Fresh, Outcome, Round, Settings, procedure
from server.budget.markers import MarkerIds

__all__ = ["Outcome", "Reference", "Settings", "many"]


class Reference:
    def __init__(self, client: httpx.AsyncClient, url: str, model: str, ids: MarkerIds) -> None:
        self._client = client
        self._url = url
        self._model = model
        self._ids = ids

    async def run(self, prompt: list[int], settings: Settings) -> Outcome:
        """What the rules demand of this prompt."""
        rounds = procedure(self._ids, prompt, settings)
        asked = next(rounds)
        while True:
            fresh = await self._generate(asked, settings)
            try:
                asked = rounds.send(fresh)
            except StopIteration as done:
                outcome: Outcome = done.value
                return outcome

    async def _generate(self, asked: Round, settings: Settings) -> Fresh:
        body = {
            "model": self._model,
            "prompt": asked.prompt,
            "max_tokens": asked.max_tokens,
            "temperature": 0,
            "stop_token_ids": sorted(asked.stops),
            "min_tokens": 1 if asked.first_not_stop else 0,
            "return_token_ids": True,
            **settings.sampling,
        }
        response = await self._client.post(f"{self._url}/v1/completions", json=body)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        return Fresh.of(choice["token_ids"], choice["finish_reason"])


async def many(
    reference: Reference, cases: list[tuple[list[int], Settings]], *, at_once: int = 16
) -> list[Outcome]:
    gate = asyncio.Semaphore(at_once)

    async def one(prompt: list[int], settings: Settings) -> Outcome:
        async with gate:
            return await reference.run(prompt, settings)

    return await asyncio.gather(*(one(prompt, settings) for prompt, settings in cases))
