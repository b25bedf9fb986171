"""A client that takes nothing of its answer: its connection is closed, which ends its request.

Who reads slowly is waited for. Who doesn't read at all would keep what the request holds, room in an engine's
cache included, for as long as it likes: the server waits for it without end.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
from asyncio import TimerHandle, Transport

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger(__name__)

UNTAKEN_S = 60.0
"""A client for which an answer waits, and that takes nothing from one look to the next, is given up."""


class ClosesUntaken(HttpToolsProtocol):
    """Costs nothing as long as the system takes what is written."""

    _untaken_bytes = 0
    _untaken_timer: TimerHandle | None = None

    def pause_writing(self) -> None:
        """Much is waiting to be sent: from now on so does whoever sends."""
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        self._stop_looking()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_looking()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._untaken_bytes = _untaken_bytes(self.transport)
        self._untaken_timer = self.loop.call_later(UNTAKEN_S, self._look)

    def _look(self) -> None:
        if _untaken_bytes(self.transport) < self._untaken_bytes:
            self._look_later()
        else:
            log.warning("client takes nothing; its connection is closed", after_s=UNTAKEN_S)
            # Not `close`, which would wait until it has taken all.
            self.transport.abort()

    def _stop_looking(self) -> None:
        if self._untaken_timer is not None:
            self._untaken_timer.cancel()
            self._untaken_timer = None


def _untaken_bytes(transport: Transport) -> int:
    """Written, and not yet received by the client's machine."""
    untaken = transport.get_write_buffer_size()
    # The system holds megabytes, too, and asks for more only when much of that has gone: a slow client that
    # reads on may seem to take nothing for minutes. Not every system tells.
    with contextlib.suppress(OSError):
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        untaken += struct.unpack("i", queued)[0]
    return untaken
