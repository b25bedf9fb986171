"""In place of counters that several workers would have to share: keys with quotas are refused.

A key that gets quotas while such a gateway runs must not have them once for every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from server.gateway.access.callers import Caller
from server.gateway.access.ledger import Ask, Ledger, Outcome
from server.gateway.access.rates import RequestRates, memory_storage
from server.gateway.errors import QuotaStoreUnavailable


class Unshared(Ledger):
    async def reserve(
        self, account: str, id: str, asks: Sequence[Ask], *, concurrency: int | None
    ) -> Outcome:
        _refuse()

    async def settle(self, account: str, id: str, used: Mapping[str, int]) -> bool:
        return False

    async def renew(self, accounts: Mapping[str, Sequence[str]]) -> None:
        pass

    async def close(self) -> None:
        pass


class UnsharedRates(RequestRates):
    def __init__(self) -> None:
        super().__init__(memory_storage())

    async def count(self, caller: Caller) -> Mapping[str, str]:
        if caller.quotas.requests_per_minute is not None:
            _refuse()
        return {}


def _refuse() -> NoReturn:
    raise QuotaStoreUnavailable(
        "this key has quotas, which this gateway's worker processes can't count together: it was started "
        "without `redis_url`"
    )
