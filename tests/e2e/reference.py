"""Budget forcing without our plugin: s1's own way, round after round, through a stock completions API.

Stop at an end token, drop it, append Wait, send everything again. Written from the rules in docs/budget.md
and independent of the code under test, which it is the measure of.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.budget.markers import MarkerIds


@dataclass(frozen=True)
class Settings:
    max_thinking_tokens: int
    min_thinking_tokens: int = 0
    num_waits: int = 0
    max_completion_tokens: int = 400
    wait_ids: tuple[tuple[int, ...], ...] = ()
    """The request's own wait texts; empty: the family's."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Greedy sampling parameters that do not depend on where prompt ends and output begins."""

    def as_request(self) -> dict[str, Any]:
        return {
            "max_thinking_tokens": self.max_thinking_tokens,
            "min_thinking_tokens": self.min_thinking_tokens,
            "num_waits": self.num_waits,
        }


@dataclass(frozen=True)
class Outcome:
    token_ids: list[int]
    """All output ids, EOS included."""
    thinking_tokens: int
    waits: int
    ended_by: str


class Reference:
    def __init__(self, client: httpx.AsyncClient, url: str, model: str, ids: MarkerIds) -> None:
        self._client = client
        self._url = url
        self._model = model
        self._ids = ids

    async def run(self, prompt: list[int], settings: Settings) -> Outcome:
        """What the rules demand of this prompt."""
        thinking, waits, forced = await self._think(prompt, settings)
        output, ids = list(thinking), self._ids
        if forced:
            newline = [ids.newline] if settings.max_thinking_tokens > 0 else []
            output += [*newline, *ids.end, *ids.answer_prompt]
        else:
            output += ids.end
        return Outcome(
            token_ids=await self._answer(prompt, output, settings),
            thinking_tokens=len(thinking) + (forced and settings.max_thinking_tokens > 0),
            waits=waits,
            ended_by="max_thinking_tokens" if forced else "model",
        )

    async def _think(self, prompt: list[int], settings: Settings) -> tuple[list[int], int, bool]:
        thinking: list[int] = []
        waits = 0
        room = max(settings.max_thinking_tokens - 1, 0)  # the last place is the newline's
        while len(thinking) < room:
            fresh, stopped = await self._generate(
                prompt + thinking, room - len(thinking), settings, first_not_end=waits > 0
            )
            thinking += fresh
            if not stopped:
                break
            if waits < settings.num_waits or len(thinking) < settings.min_thinking_tokens:
                texts = settings.wait_ids or (self._ids.wait,)
                thinking += texts[waits % len(texts)][: room - len(thinking)]
                waits += 1
            else:
                return thinking, waits, False
        return thinking, waits, True

    async def _answer(self, prompt: list[int], output: list[int], settings: Settings) -> list[int]:
        begin = len(output)
        while len(output) < settings.max_completion_tokens:
            visible = any(token not in self._ids.blank for token in output[begin:])
            room = settings.max_completion_tokens - len(output)
            fresh, stopped = await self._generate(
                prompt + output, room if visible else 1, settings, first_not_end=not visible
            )
            output += fresh
            if stopped:
                return [*output, self._ids.eos_token]
        return output

    async def _generate(
        self, prompt: list[int], max_tokens: int, settings: Settings, *, first_not_end: bool
    ) -> tuple[list[int], bool]:
        """Tokens up to an end token, which is dropped, and whether one came."""
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stop_token_ids": sorted(self._ids.not_first_in_answer),
            "min_tokens": 1 if first_not_end else 0,
            "return_token_ids": True,
            **settings.sampling,
        }
        response = await self._client.post(f"{self._url}/v1/completions", json=body)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        stopped = choice["finish_reason"] == "stop"
        return (choice["token_ids"][:-1] if stopped else choice["token_ids"]), stopped


async def many(
    reference: Reference, cases: list[tuple[list[int], Settings]], *, at_once: int = 16
) -> list[Outcome]:
    gate = asyncio.Semaphore(at_once)

    async def one(prompt: list[int], settings: Settings) -> Outcome:
        async with gate:
            return await reference.run(prompt, settings)

    return await asyncio.gather(*(one(prompt, settings) for prompt, settings in cases))
