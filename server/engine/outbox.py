"""Receipts that are still on their way from the device: published by a thread, once their copy is complete.

The decoding loop never waits for a copy. After the last request of a burst there is no further step in which
a finished copy could be found, so a thread waits for it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from server.budget.receipt import EngineReceipt
from server.engine.device_batch import Snapshot, receipts_of

# The engine's own logging: a worker needs nothing of the gateway's.
_log = logging.getLogger(__name__)


class Event(Protocol):
    """A point on the device's stream, such as `torch.cuda.Event`."""

    def synchronize(self) -> None: ...


class Outbox:
    """The only user of `publish` after its construction: ZeroMQ sockets must not be shared by threads."""

    def __init__(
        self, publish: Callable[[EngineReceipt], None], *, prepare: Callable[[], None] | None = None
    ) -> None:
        """
        Args:
            prepare: run by the thread before anything else, for example to choose its device.
        """
        self._publish = publish
        self._prepare = prepare
        self._pending: queue.SimpleQueue[tuple[Snapshot, Event | None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="s1-receipts", daemon=True).start()

    def put(self, snapshot: Snapshot, arrived: Event | None) -> None:
        """Publish the receipts of `snapshot` after `arrived`; None: it is on the host already."""
        self._pending.put((snapshot, arrived))

    def _run(self) -> None:
        if self._prepare is not None:
            self._prepare()
        while True:
            snapshot, arrived = self._pending.get()
            try:
                if arrived is not None:
                    arrived.synchronize()
                for receipt in receipts_of(snapshot):
                    if receipt.receipt_id:
                        self._publish(receipt)
            except Exception:  # noqa: BLE001 -- the thread's boundary: one lost message is not all of them
                _log.exception("%d receipts were lost", len(snapshot.choices))
