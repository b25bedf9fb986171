"""Charges that the store of quotas hasn't taken, until it does: till then all that was reserved is spent."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from server.gateway.access.ledger import Ledger
from server.gateway.errors import QuotaStoreUnavailable

log = structlog.get_logger(__name__)

_MOST = 10_000
"""What a gateway ends in the minutes that a store may be away; some 5 MB."""


class Unsettled:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Account and amounts by reservation, the oldest first.
        self._used: dict[str, tuple[str, Mapping[str, int]]] = {}
        self._unused: dict[str, tuple[str, Mapping[str, int]]] = {}
        """Of requests that used nothing: each that is refused while the store is away leaves one."""

    def __len__(self) -> int:
        return len(self._used) + len(self._unused)

    def add(self, account: str, id: str, amounts: Mapping[str, int]) -> None:
        charges = self._used if any(amounts.values()) else self._unused
        charges[id] = (account, amounts)
        if len(self) > _MOST:
            charges = self._unused or self._used
            dropped, _ = charges.pop(next(iter(charges)))
            log.error("reservation not settled; it stays spent", account=dropped)

    async def settle(self) -> None:
        """
        Raises:
            QuotaStoreUnavailable: what isn't settled stays here.
        """
        try:
            await self._settle(self._used)
        except QuotaStoreUnavailable:
            await self._settle(self._unused)
            raise
        await self._settle(self._unused)

    async def _settle(self, charges: dict[str, tuple[str, Mapping[str, int]]]) -> None:
        for id in tuple(charges):
            # Last, so that one which can't be settled doesn't keep the others from it the next time.
            charge = charges.pop(id, None)
            if charge is not None:
                charges[id] = charge
                account, amounts = charge
                await self._ledger.settle(account, id, amounts)
                charges.pop(id, None)
