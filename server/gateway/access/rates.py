"""Requests per minute, counted by `limits` over a moving window, and the x-ratelimit-* headers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError

from server.gateway.access.callers import Caller
from server.gateway.access.ledger import WindowState
from server.gateway.errors import QuotaExceeded, QuotaStoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

HEADER_NAMES = tuple(
    f"x-ratelimit-{part}-{kind}"
    for kind in ("requests", "tokens", "thinking-tokens")
    for part in ("limit", "remaining", "reset")
)


def memory_storage() -> Storage:
    return MemoryStorage(wrap_exceptions=True)


def redis_storage(url: str, client: Redis) -> Storage:
    """Over the connections of `client`."""
    return RedisStorage(
        f"async+{url}" if not url.startswith("unix://") else url.replace("unix://", "async+redis+unix://", 1),
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="s1-rate",
        connection_pool=client.connection_pool,  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one kind of quota, for headers."""

    kind: str
    """requests, tokens or thinking-tokens"""
    limit: int
    remaining: int
    resets_in_s: float

    @classmethod
    def of(cls, kind: str, state: WindowState) -> Standing:
        return cls(kind, state.window.limit, state.remaining, state.resets_in_s)

    def headers(self) -> dict[str, str]:
        values = (str(self.limit), str(max(0, self.remaining)), duration(self.resets_in_s))
        parts = ("limit", "remaining", "reset")
        return {f"x-ratelimit-{part}-{self.kind}": value for part, value in zip(parts, values, strict=True)}


class RequestRates:
    def __init__(self, storage: Storage) -> None:
        self._limiter = MovingWindowRateLimiter(storage)

    async def count(self, caller: Caller) -> Mapping[str, str]:
        """Count one request; the headers that say what is left.

        Raises:
            QuotaExceeded, QuotaStoreUnavailable
        """
        limit = caller.quotas.requests_per_minute
        if limit is None:
            return {}
        item = RateLimitItemPerMinute(limit)
        try:
            admitted = await self._limiter.hit(item, caller.account)
            stats = await self._limiter.get_window_stats(item, caller.account)
        except StorageError as error:
            log.error("quota store failed", error=str(error) or type(error).__name__)
            raise QuotaStoreUnavailable(
                "the store of quotas can't be reached; the request can be repeated"
            ) from error
        standing = Standing("requests", limit, stats.remaining, max(0.0, stats.reset_time - time.time()))
        if admitted:
            return standing.headers()
        raise QuotaExceeded(
            f"the key '{caller.name}' may send {limit} requests per minute, and has",
            headers=standing.headers() | retry_after(standing.resets_in_s),
        )


def retry_after(seconds: float) -> dict[str, str]:
    """Whole seconds, as HTTP wants them, and never 0."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 7.5s, 6m0s, 23h59m59s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
