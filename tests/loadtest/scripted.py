"""A server that answers every chat request with bytes that a test wrote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from loadtest.client.asking import Dialect, ask
from loadtest.client.counting import Markers
from loadtest.client.record import Record
from loadtest.client.wire import Client, Target
from loadtest.client.workload import Workload

MARKERS = Markers(start=(1, 2), end=(1, 3))


def event(chunk: Any) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def delta(content: Any = None, *, finish: str | None = None, **fields: Any) -> bytes:
    """A chunk with one choice; `token_ids` go beside its delta, all else into it."""
    ids = fields.pop("token_ids", None)
    choice: dict[str, Any] = {"index": 0, "delta": {"content": content, **fields}, "finish_reason": finish}
    return event({"choices": [choice | ({} if ids is None else {"token_ids": ids})]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def answering(
    parts: Sequence[bytes | float], *, head: str = "", length: bool = True
) -> AsyncIterator[str]:
    """The server's URL.

    Args:
        parts: of the body, and pauses between them in seconds.
        head: lines of the response's head, each with its end.
        length: whether the head tells the body's length; without it the body ends with the connection.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            size = int(asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            whole = sum(len(part) for part in parts if isinstance(part, bytes))
            told = f"content-length: {whole}\r\n" if length else "connection: close\r\n"
            writer.write(f"HTTP/1.1 {status}\r\n{told}{lines}\r\n".encode())
            for part in parts:
                if isinstance(part, bytes):
                    writer.write(part)
                    await writer.drain()
                else:
                    await asyncio.sleep(part)
        finally:
            writer.close()

    status, _, lines = (head or "200 OK\r\n").partition("\r\n")
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def record_of(
    *parts: bytes | float,
    head: str = "",
    length: bool = True,
    markers: Markers = MARKERS,
    **kind: Any,
) -> Record:
    """What is recorded of one answer with this body, streamed unless `stream` is False."""
    workload = Workload.model_validate({"classes": [kind]})
    dialect = Dialect("m", "ours", True, markers, None, 20)
    async with answering(parts, head=head, length=length) as url:
        target = Target.of(url)
        client = Client(target)
        try:
            asked = workload.request(0, seed=0, overrides={})
            return await ask(
                client, target, dialect, asked, intended=time.monotonic(), on_gap=lambda gap_s: None
            )
        finally:
            client.close()
