"""The ledger in Redis, for gateways that share quotas: each operation is one script, so it is atomic.

Per account there are three keys: counters (hash), leases (sorted set: reservation → when it lapses) and open
reservations (hash). They share a hash tag, so a cluster keeps them on one node. A reservation whose gateway
is not heard of for `lease_s` stops being under way; what it reserved stays spent until its windows end, or
the gateway comes back and settles it.

Repeating an operation does no harm, so the client may after a lost connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from server.gateway.access.ledger import DAY_S, Ask, Outcome, WindowState
from server.gateway.errors import QuotaStoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)

_PREFIX = "s1-quota"
_KEPT_S = 2 * DAY_S
_CONNECTIONS = 64
_TIMEOUT_S = 2.0

# The server's clock, so that gateways needn't agree on the time; ARGV[1] overrides it if it isn't empty.
_COMMON = """
local counters, leases, open = KEYS[1], KEYS[2], KEYS[3]
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local function whole(number) return string.format('%.0f', number) end
local function close(id, used)
  local charges = redis.call('HGET', open, id)
  redis.call('HDEL', open, id)
  redis.call('ZREM', leases, id)
  if not charges then return 0 end
  for _, charge in ipairs(cjson.decode(charges)) do
    if redis.call('HGET', counters, charge[2] .. ':period') == charge[3] then
      local delta = (used[charge[1]] or 0) - tonumber(charge[4])
      redis.call('HINCRBY', counters, charge[2] .. ':used', whole(delta))
    end
  end
  return 1
end
"""

# ARGV: clock, id, lease in s, s to keep all this, {"concurrency": n, 0 is no limit, "asks": […]}
_RESERVE = (
    _COMMON
    + """
local now, id = clock(ARGV[1]), ARGV[2]
close(id, {})
for _, lost in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now - tonumber(ARGV[4]))) do
  redis.call('ZREM', leases, lost)
  redis.call('HDEL', open, lost)
end
local asked = cjson.decode(ARGV[5])
local under_way = redis.call('ZCOUNT', leases, string.format('(%.17g', now), '+inf')
local refused = ''
if asked.concurrency > 0 and under_way >= asked.concurrency then refused = 'concurrency' end
local amounts, charges, states = {}, {}, {}
for i, ask in ipairs(asked.asks) do
  local left, tightest
  for _, window in ipairs(ask.windows) do
    local period = whole(math.floor(now / window.period_s))
    if redis.call('HGET', counters, window.name .. ':period') ~= period then
      redis.call('HSET', counters, window.name .. ':period', period, window.name .. ':used', '0')
    end
    local used = tonumber(redis.call('HGET', counters, window.name .. ':used'))
    if not left or window.limit - used < left then
      left, tightest = window.limit - used, window.name
    end
    charges[#charges + 1] = {ask.resource, window.name, period, i}
    states[#states + 1] = {window.name, used, tostring(window.period_s - now % window.period_s)}
  end
  amounts[i] = ask.want
  if left < ask.want then
    amounts[i] = math.max(0, left - left % ask.step)
    if refused == '' and amounts[i] < ask.least then refused = tightest end
  end
end
if refused == '' then
  for i, charge in ipairs(charges) do
    local amount = amounts[charge[4]]
    redis.call('HINCRBY', counters, charge[2] .. ':used', whole(amount))
    charge[4] = whole(amount)
    states[i][2] = states[i][2] + amount
  end
  redis.call('HSET', open, id, cjson.encode(charges))
  redis.call('ZADD', leases, now + tonumber(ARGV[3]), id)
  under_way = under_way + 1
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
for _, state in ipairs(states) do state[2] = whole(state[2]) end
for i, amount in ipairs(amounts) do amounts[i] = whole(amount) end
return cjson.encode({refused = refused, under_way = under_way, amounts = amounts, states = states})
"""
)

# ARGV: id, {resource: used}
_SETTLE = _COMMON + "return close(ARGV[1], cjson.decode(ARGV[2]))"

# ARGV: clock, lease in s, ids
_RENEW = (
    _COMMON
    + """
local lapses = clock(ARGV[1]) + tonumber(ARGV[2])
for i = 3, #ARGV do redis.call('ZADD', leases, 'XX', lapses, ARGV[i]) end
return 1
"""
)


class RedisLedger:
    def __init__(self, client: Redis, *, lease_s: float, clock: Callable[[], float] | None = None) -> None:
        """
        Args:
            client: closed with the ledger.
            clock: for tests; by default the Redis server's.
        """
        self._client = client
        self._lease_s = lease_s
        self._clock = clock
        self._reserve = client.register_script(_RESERVE)
        self._settle = client.register_script(_SETTLE)
        self._renew = client.register_script(_RENEW)

    async def reserve(
        self, account: str, id: str, asks: Sequence[Ask], *, concurrency: int | None
    ) -> Outcome:
        asked = {"concurrency": concurrency or 0, "asks": list(asks)}
        arguments = [self._now(), id, self._lease_s, _KEPT_S, orjson.dumps(asked)]
        told = orjson.loads(await self._run(self._reserve, account, arguments))
        windows = {window.name: window for ask in asks for window in ask.windows}
        refused = told["refused"] or None
        return Outcome(
            states=tuple(
                WindowState(windows[name], int(used), float(resets_in_s))
                for name, used, resets_in_s in told["states"]
            ),
            under_way=int(told["under_way"]),
            # An empty table is an object for cjson.
            amounts={}
            if refused
            else {ask.resource: int(amount) for ask, amount in zip(asks, list(told["amounts"]), strict=True)},
            refused_by=refused,
        )

    async def settle(self, account: str, id: str, used: Mapping[str, int]) -> bool:
        return bool(await self._run(self._settle, account, [id, orjson.dumps(used)]))

    async def renew(self, accounts: Mapping[str, Sequence[str]]) -> None:
        for account, ids in accounts.items():
            await self._run(self._renew, account, [self._now(), self._lease_s, *ids])

    async def close(self) -> None:
        await self._client.aclose()

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    async def _run(self, script: Any, account: str, arguments: list[Any]) -> Any:
        """
        Raises:
            QuotaStoreUnavailable
        """
        from redis.exceptions import RedisError

        keys = [f"{_PREFIX}:{{{account}}}:{part}" for part in ("counters", "leases", "open")]
        try:
            return await script(keys=keys, args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            log.error("quota store failed", error=str(error) or type(error).__name__)
            raise QuotaStoreUnavailable(
                "the store of quotas can't be reached; the request can be repeated"
            ) from error


def connect(url: str) -> Redis:
    """A client that gives up soon: a request waits for it.

    After a failover the old master may still be there, as a replica: a connection to it is opened anew, to
    whoever has the address now.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import MasterDownError, ReadOnlyError

    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 2),
        retry_on_error=[ReadOnlyError, MasterDownError],
    )
    return Redis.from_pool(pool)
