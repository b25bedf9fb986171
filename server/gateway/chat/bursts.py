"""What was received together is sent together: in one write and, where it may be, as one event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from server.gateway.errors import GatewayError

_TEXTS = frozenset({"reasoning", "reasoning_content", "content"})


class Burst:
    """Open while a part of an engine's stream is handed on, event by event. Shared by a request's choices."""

    __slots__ = ("_flushes", "_open", "_write")

    def __init__(self) -> None:
        self._open = 0
        self._flushes: list[Callable[[], Awaitable[None]]] = []
        self._write: Callable[[], Awaitable[None]] | None = None

    @property
    def is_open(self) -> bool:
        """Whether more follows at once, so that what is to be sent can wait for it."""
        return self._open > 0

    def stay_open(self) -> None:
        """Only the response's end is to come: it is written in one with what else is left."""
        self._open += 1

    def at_close(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Have `flush` called whenever all of a part has been handed on: before anything is written."""
        self._flushes.append(flush)

    def write_at_close(self, write: Callable[[], Awaitable[None]]) -> None:
        """Have what was kept written whenever all of a part has been handed on."""
        self._write = write

    def forget(self) -> None:
        """The response has ended. Whoever flushes and writes knows this burst: no request may leave a cycle
        to the garbage collector, for its memory would be cold when it comes back.
        """
        self._flushes.clear()
        self._write = None

    async def __aenter__(self) -> None:
        self._open += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What came before an engine's error is the client's; before a cancellation it is nobody's.
            if kind is None or issubclass(kind, GatewayError):
                for flush in self._flushes:
                    await flush()
        finally:
            self._open -= 1
        if self._write is not None and not self._open and (kind is None or issubclass(kind, GatewayError)):
            await self._write()


def joins(last: dict[str, Any], chunk: dict[str, Any]) -> bool:
    """Append `chunk` to `last`, in place, if both are nothing but text of one kind."""
    before, after = last["choices"][0], chunk["choices"][0]
    delta = after["delta"]
    if (
        before["index"] != after["index"]
        or before["delta"].keys() != delta.keys()
        or not is_text(chunk)
        or not is_text(last)
    ):
        return False
    for name, text in delta.items():
        before["delta"][name] += text
    if after.get("token_ids"):
        before["token_ids"] = (before.get("token_ids") or []) + after["token_ids"]
    if chunk.get("usage"):
        last["usage"] = chunk["usage"]
    return True


def is_text(chunk: dict[str, Any]) -> bool:
    choice = chunk["choices"][0]
    delta = choice["delta"]
    return (
        bool(delta)
        and delta.keys() <= _TEXTS
        and all(isinstance(text, str) for text in delta.values())
        and choice.get("finish_reason") is None
        and not choice.get("logprobs")
    )
