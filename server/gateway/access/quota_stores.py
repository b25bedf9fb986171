"""Where quotas are counted: in this process, or in a Redis that gateways share."""

from __future__ import annotations

from server.gateway.access.ledger import Ledger, MemoryLedger
from server.gateway.access.rates import RequestRates, memory_storage, redis_storage
from server.gateway.access.unshared import Unshared, UnsharedRates
from server.gateway.settings import Settings, SettingsError


def quota_stores(settings: Settings) -> tuple[Ledger, RequestRates]:
    """
    Raises:
        SettingsError: the client for Redis is not installed.
    """
    if settings.redis_url is None and settings.workers > 1:
        return Unshared(), UnsharedRates()
    if settings.redis_url is None:
        return MemoryLedger(), RequestRates(memory_storage())
    try:
        import redis  # noqa: F401
    except ImportError:
        raise SettingsError(
            "redis_url: needs the package redis: install the extra `redis` (pip install -e '.[redis]')"
        ) from None
    from server.gateway.access.ledger_redis import RedisLedger, connect

    client = connect(settings.redis_url)
    rates = RequestRates(redis_storage(settings.redis_url, client))
    return RedisLedger(client, lease_s=settings.lease_s), rates
