"""Stopping without losing what was promised: unready first, open requests to their end, the rest cut.

A load balancer sees `/ready` fail and sends new requests elsewhere; those that still come are served. When
the time is up, open streams end with an error event and whole answers with a 503, both of which say why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class CutOff:
    """A moment that comes at most once, and who is to be called then: no task has to wait for it."""

    def __init__(self) -> None:
        self._called: dict[Callable[[], None], None] = {}
        self._is_over = False

    def set(self) -> None:
        self._is_over = True
        for call in tuple(self._called):
            call()

    @contextlib.contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """Have `call` called at that moment, at once if it has been, until the block ends."""
        self._called[call] = None
        if self._is_over:
            call()
        try:
            yield
        finally:
            del self._called[call]


class Drain:
    """The gateway's way out. `begin` is called once; `cut` may be called at any time after."""

    def __init__(self) -> None:
        self.draining = False
        self.cut_off = CutOff()
        """Set: whatever is still open ends now."""

    def begin(self) -> None:
        self.draining = True

    def cut(self) -> None:
        self.draining = True
        self.cut_off.set()
