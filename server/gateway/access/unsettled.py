"""Charges that the store of quotas hasn't taken, until it does: till then all that was reserved is spent."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from server.gateway.access.ledger import Ledger

log = structlog.get_logger(__name__)

_MOST = 10_000
"""What a gateway ends in the minutes that a store may be away; some 5 MB."""


class Unsettled:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._charges: dict[str, tuple[str, Mapping[str, int]]] = {}
        """Account and amounts by reservation, the oldest first."""

    def __len__(self) -> int:
        return len(self._charges)

    def add(self, account: str, id: str, amounts: Mapping[str, int]) -> None:
        self._charges[id] = (account, amounts)
        if len(self._charges) > _MOST:
            oldest = next(iter(self._charges))
            dropped, _ = self._charges.pop(oldest)
            log.error("reservation not settled; it stays spent", account=dropped)

    async def settle(self) -> None:
        """
        Raises:
            QuotaStoreUnavailable: what isn't settled stays here.
        """
        for id in tuple(self._charges):
            # Last, so that one which can't be settled doesn't keep the others from it the next time.
            charge = self._charges.pop(id, None)
            if charge is not None:
                self._charges[id] = charge
                account, amounts = charge
                await self._ledger.settle(account, id, amounts)
                self._charges.pop(id, None)
