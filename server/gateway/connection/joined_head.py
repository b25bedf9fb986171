"""A response's head and the first of its body in one write. uvicorn writes them apart, which costs a system
call here, and a client that waits for the answer a wake-up.
"""

from __future__ import annotations

import asyncio
from typing import Any

_STATUS = b"HTTP/1.1 "


class JoinedHead:
    """A transport that keeps a head until more is written, or its event loop turns."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def write(self, raw: bytes) -> None:
        if self._head:
            raw, self._head = self._head + raw, b""
        elif raw.startswith(_STATUS):
            # A body may begin like this, too, and goes out a moment later.
            self._head = raw
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(raw)

    def close(self) -> None:
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
