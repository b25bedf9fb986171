"""Stopping without losing what was promised: unready first, open requests to their end, the rest cut.

A load balancer sees `/ready` fail and sends new requests elsewhere; those that still come are served. When
the time is up, open streams end with an error event and whole answers with a 503, both of which say why.
"""

from __future__ import annotations

import asyncio


class Drain:
    """The gateway's way out. `begin` is called once; `cut` may be called at any time after."""

    def __init__(self) -> None:
        self.draining = False
        self.cut_off = asyncio.Event()
        """Set: whatever is still open ends now."""

    def begin(self) -> None:
        self.draining = True

    def cut(self) -> None:
        self.draining = True
        self.cut_off.set()
