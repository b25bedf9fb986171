"""A chat answer as a row of parts: thinking, text, tool calls. Whole or in chunks, the parts are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from server.gateway.errors import EngineMisbehaved

PartKind = Literal["thinking", "text", "tool"]
_TEXTS: tuple[tuple[str, PartKind], ...] = (("reasoning", "thinking"), ("content", "text"))


@dataclass(slots=True)
class Part:
    index: int
    kind: PartKind
    text: str = ""
    """Of a tool call: its arguments, as JSON text."""
    call_id: str = ""
    name: str = ""
    """Of the tool."""


@dataclass(frozen=True, slots=True)
class Opened:
    part: Part


@dataclass(frozen=True, slots=True)
class Grew:
    part: Part
    """With `text` in it."""
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    part: Part
    cut: bool
    """The completion tokens ran out in it."""


Step = Opened | Grew | Closed


@dataclass(slots=True)
class Answer:
    """One choice, while it grows."""

    parts: list[Part] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    receipt: dict[str, Any] | None = None
    _open: Part | None = None
    _tool_index: int | None = None

    def read_chunk(self, chunk: dict[str, Any]) -> Iterator[Step]:
        """What a chunk of the gateway's chat stream adds.

        Raises:
            EngineMisbehaved: a tool call has no name, or comes back after another has begun.
        """
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name, kind in _TEXTS:
                if delta.get(name):
                    yield from self._grow_text(kind, delta[name])
            for call in delta.get("tool_calls") or ():
                yield from self._grow_call(call)
            if choice.get("finish_reason") is not None:
                yield from self._finish(choice)

    @classmethod
    def of_completion(cls, completion: dict[str, Any]) -> Answer:
        """Raises: EngineMisbehaved: as `read_chunk`."""
        answer = cls()
        choice = completion["choices"][0]
        message = choice["message"]
        calls = [{**call, "index": i} for i, call in enumerate(message.get("tool_calls") or ())]
        delta = {**message, "tool_calls": calls}
        for _ in answer.read_chunk({"choices": [{**choice, "delta": delta}]}):
            pass
        return answer

    @property
    def has_calls(self) -> bool:
        return any(part.kind == "tool" for part in self.parts)

    @property
    def ran_out(self) -> bool:
        return self.finish_reason == "length"

    def _grow_text(self, kind: PartKind, text: str) -> Iterator[Step]:
        if self._open is None or self._open.kind != kind:
            yield from self._next(Part(len(self.parts), kind))
        yield self._grow(text)

    def _grow_call(self, call: dict[str, Any]) -> Iterator[Step]:
        function = call.get("function") or {}
        if self._open is None or self._open.kind != "tool" or call.get("index") != self._tool_index:
            name, call_id = function.get("name"), call.get("id")
            if not name or not call_id:
                raise EngineMisbehaved("the engine's tool call has no name or no id")
            yield from self._next(Part(len(self.parts), "tool", call_id=call_id, name=name))
            self._tool_index = call.get("index")
        if function.get("arguments"):
            yield self._grow(function["arguments"])

    def _grow(self, text: str) -> Grew:
        part = self.parts[-1]
        part.text += text
        return Grew(part, text)

    def _next(self, part: Part) -> Iterator[Step]:
        yield from self._close(cut=False)
        self.parts.append(part)
        self._open = part
        yield Opened(part)

    def _close(self, *, cut: bool) -> Iterator[Step]:
        if self._open is not None:
            yield Closed(self._open, cut)
        self._open = None

    def _finish(self, choice: dict[str, Any]) -> Iterator[Step]:
        self.finish_reason = choice["finish_reason"]
        self.stop_reason = choice.get("stop_reason")
        self.receipt = choice.get("thinking_budget")
        yield from self._close(cut=self.ran_out)
