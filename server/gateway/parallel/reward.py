"""A process-reward model behind vLLM's pooling API: how right is each step of a line of thought?

Steps are sent as an assistant message with the model's step tag after each; the server pools at the tags
(`--pooler-config` with `tok_pooling_type` STEP) and answers with the classes' probabilities there. The last
class is "right". Qwen2.5-Math-PRM is served in this way, and so is the demo's own (`s1 reward`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from server.gateway.errors import EngineMisbehaved, EngineRefused, EngineUnavailable
from server.gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Rated:
    scores: list[float]
    """From 0 to 1, one per step."""
    tokens: int
    """That the reward model has read."""


class RewardModel:
    """Usable from `async with` on."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.url = url
        self._tag = settings.reward_step_tag
        self._timeout_s = settings.reward_timeout_s
        self._timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=settings.connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._model: str | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def rate(self, messages: Sequence[Mapping[str, Any]], steps: Sequence[str]) -> Rated:
        """The probability that each step is right, given those before it.

        Args:
            messages: the conversation up to the thinking.
            steps: not empty, none of them blank.

        Raises:
            EngineUnavailable: it can't be reached, or doesn't answer in time.
            EngineRefused: its own error, for example because the steps are longer than its context.
            EngineMisbehaved: it gives something else than a probability for each step.
        """
        model = await self._served()
        tagged = "".join(f"{step}{self._tag}" for step in steps)
        conversation = [*messages, {"role": "assistant", "content": tagged}]
        answer = await self._ask("POST", "/pooling", {"model": model, "messages": conversation})
        try:
            rows = answer["data"][0]["data"]
            scores = [float(row[-1] if isinstance(row, list) else row) for row in rows]
            tokens = int(answer["usage"]["prompt_tokens"])
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise EngineMisbehaved(f"the reward model's /pooling can't be read: {error!r}") from error
        if len(scores) != len(steps) or not all(0 <= score <= 1 for score in scores):
            raise EngineMisbehaved(
                f"the reward model gave {len(scores)} scores for {len(steps)} steps, or one beyond 0 to "
                f"1: it "
                f"must pool at the step tag {self._tag!r} (reward_step_tag) and give probabilities"
            )
        return Rated(scores, tokens)

    async def _served(self) -> str:
        if self._model is None:
            cards = (await self._ask("GET", "/v1/models")).get("data")
            if not isinstance(cards, list) or not cards or "id" not in cards[0]:
                raise EngineMisbehaved("the reward model's server lists no model")
            self._model = str(cards[0]["id"])
        return self._model

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if self._session is None:
            raise RuntimeError("the reward model has not been entered")
        data = None if body is None else orjson.dumps(body)
        headers = {"content-type": "application/json"}
        try:
            async with self._session.request(method, self.url + path, data=data, headers=headers) as response:
                raw, status = await response.read(), response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._model = None
            raise EngineUnavailable(f"the reward model ({self.url}) {self._fault(error)}") from error
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            answer = raw.decode(errors="replace")
        if status != 200:
            refused = EngineRefused.from_body(answer, status)
            raise EngineRefused(f"the reward model refused: {refused}", status=refused.status)
        if not isinstance(answer, dict):
            raise EngineMisbehaved("the reward model sent JSON that is not an object")
        return answer

    def _fault(self, error: Exception) -> str:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"gave no answer within {self._timeout_s:g} s (reward_timeout_s)"
        return f"can't be reached: {type(error).__name__}"


def split_steps(thinking: str | None, boundary: str) -> list[str]:
    """The steps of a finished line of thought; blank ones don't count."""
    return [step.strip() for step in (thinking or "").split(boundary) if step.strip()]
