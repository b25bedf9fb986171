"""Requests that were told to end their thinking while they stood in no row: they wait, or are preempted."""

from __future__ import annotations

from collections import OrderedDict

from server.engine.ended_by import EndedBy

_KEPT = 65_536
"""Of a request that has ended meanwhile, or is another replica's, nobody ever asks again."""


class Told:
    def __init__(self) -> None:
        self._by: OrderedDict[str, EndedBy] = OrderedDict()

    def add(self, receipt_id: str, ended_by: EndedBy) -> None:
        self._by.setdefault(receipt_id, ended_by)
        while len(self._by) > _KEPT:
            self._by.popitem(last=False)

    def take(self, receipt_id: str) -> EndedBy | None:
        """What this request was told, as it takes a row."""
        return self._by.pop(receipt_id, None)
