"""Asks models over HTTP: from the cache where it can, within a limit of requests in flight, with patience."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

from training.endpoints.cache import NOWHERE, CallCache, Origin, request_key
from training.endpoints.errors import EndpointError, EndpointRefuses, RequestRefused
from training.endpoints.wire import WIRES, MalformedReply, Reply, Sampling
from training.json_text import read_json_leniently

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_UNUSABLE = frozenset({401, 403, 404, 405})
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
_CONNECT_TIMEOUT_S = 10.0
_REFUSALS_BEFORE_GIVING_UP = 10


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model and where it is served; `api` is a name of WIRES."""

    model: str
    url: str
    api: str = "openai"
    api_key: str | None = field(default=None, repr=False)
    checkpoint: str | None = None
    """Which weights it serves, as far as it says so."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a failing endpoint is asked again, and how long a single reply may take, in seconds."""

    retry_for_s: float = 300.0
    reply_timeout_s: float = 3600.0


@dataclass(slots=True)
class Caller:
    """Asks endpoints; counts what came from the cache and what was sent."""

    http: httpx.AsyncClient
    cache: CallCache
    patience: Patience
    keeps_origin: bool = True
    """Whether replies are kept with the URL and checkpoint that gave them."""
    num_sent: int = 0
    num_cached: int = 0
    _refusals: dict[Endpoint, int] = field(default_factory=dict)
    """By endpoint, while none of its requests has been answered."""
    _answered: set[Endpoint] = field(default_factory=set)

    @property
    def calls(self) -> Counter[str]:
        return Counter({"sent": self.num_sent, "cached": self.num_cached})

    async def ask(self, endpoint: Endpoint, prompt: str, sampling: Sampling, *, attempt: int = 0) -> Reply:
        """`attempt` tells apart requests that are alike, as those that ask again after a useless answer.

        Raises:
            RequestRefused: this request has no answer.
            EndpointError: no request will have one; EndpointRefuses, if not for a server that may come back.
            OSError: the cache can't be written.
        """
        wire = WIRES[endpoint.api]
        path, body = wire.path(endpoint.model), wire.body(endpoint.model, prompt, sampling)
        key = request_key(endpoint.api, path, body, attempt)
        payload = self.cache.get(key)
        if payload is not None:
            self.num_cached += 1
            return wire.reply(payload)
        payload = await self._send(endpoint, path, body)
        try:
            reply = wire.reply(payload)
        except MalformedReply as error:
            raise EndpointRefuses(
                f"{endpoint.url} answers, but not as the {endpoint.api} API does: {error}"
            ) from error
        origin = Origin(endpoint.url, endpoint.checkpoint) if self.keeps_origin else NOWHERE
        self.cache.put(key, endpoint.model, payload, origin)
        self._answered.add(endpoint)
        return reply

    async def _send(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> Any:
        url = f"{endpoint.url.rstrip('/')}/{path}"
        headers = WIRES[endpoint.api].headers(endpoint.api_key)
        failing_since: float | None = None
        for failures in range(1_000_000):
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
            try:
                self.num_sent += 1
                response = await self.http.post(url, json=body, headers=headers)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise EndpointRefuses(f"{endpoint.url} is not a URL: {error}") from error
            except httpx.TransportError as error:
                problem = f"does not answer ({str(error) or type(error).__name__})"
            else:
                if response.is_success:
                    return self._json(endpoint, response)
                problem = f"answers HTTP {response.status_code} ({_excerpt(response)})"
                if response.status_code not in RETRIED:
                    self._refuse(endpoint, response.status_code, problem)
                pause_s = _retry_after_s(response, default_s=pause_s)
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now + pause_s - failing_since > self.patience.retry_for_s:
                raise EndpointError(f"{endpoint.model} at {endpoint.url} {problem}")
            await asyncio.sleep(pause_s)
        raise AssertionError("the pauses alone outlast any patience")

    def _json(self, endpoint: Endpoint, response: httpx.Response) -> Any:
        try:
            return read_json_leniently(response.content)
        except ValueError as error:
            raise EndpointRefuses(f"{endpoint.url} answers, but not JSON: {_excerpt(response)}") from error

    def _refuse(self, endpoint: Endpoint, status: int, problem: str) -> None:
        """A first run of nothing but refusals is no matter of single questions."""
        message = f"{endpoint.model} at {endpoint.url} {problem}"
        if status in _UNUSABLE or status < 400:
            raise EndpointRefuses(message)
        if endpoint not in self._answered:
            self._refusals[endpoint] = self._refusals.get(endpoint, 0) + 1
            if self._refusals[endpoint] >= _REFUSALS_BEFORE_GIVING_UP:
                kind = EndpointRefuses if status < 500 else EndpointError
                raise kind(f"{message}; so it did for all of {self._refusals[endpoint]} questions")
        raise RequestRefused(problem)


@asynccontextmanager
async def calling(
    cache: CallCache, patience: Patience, *, concurrency: int, keeps_origin: bool = True
) -> AsyncIterator[Caller]:
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    # pool=None: waiting for a free connection is no failure of the endpoint.
    timeout = httpx.Timeout(patience.reply_timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None)
    async with httpx.AsyncClient(limits=limits, timeout=timeout) as http:
        yield Caller(http, cache, patience, keeps_origin)


async def for_all(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, concurrency: int) -> None:
    """Run `work` on every item, `concurrency` at a time.

    After the first EndpointError or OSError nothing new is begun, but what is in flight may finish: its
    replies are paid for. Then that error is raised.
    """
    pending = iter(items)
    errors: list[EndpointError | OSError] = []

    async def worker() -> None:
        for item in pending:
            if errors:
                return
            try:
                await work(item)
            except (EndpointError, OSError) as error:
                errors.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    if errors:
        raise errors[0]


def _retry_after_s(response: httpx.Response, *, default_s: float) -> float:
    """The server's wish in seconds or as a date (RFC 9110, 10.2.3); ours where it says nothing usable."""
    value = response.headers.get("retry-after")
    if value is None:
        return default_s
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return default_s
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _excerpt(response: httpx.Response) -> str:
    return " ".join(response.text.split())[:200] or "empty body"
