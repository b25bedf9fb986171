"""Chat completion chunks: from the engines' streams to the client's one stream.

Each choice is its own engine stream. Text is passed on as it comes; only the chunk that ends a choice is held
until usage and receipt are known, because it carries the receipt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.gateway.chat.bursts import is_text, joins
from server.gateway.chat.chat_call import ChatCall, EngineCall
from server.gateway.chat.gather import run_all
from server.gateway.chat.receipts import Finish, merged_usage, reasoning_details, receipt_for
from server.gateway.engines.engine import ChatEngine
from server.gateway.errors import EngineMisbehaved

EmitChunk = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StreamShape:
    """What all chunks of a response have in common."""

    id: str
    created: int
    hides_reasoning: bool
    wants_usage_chunk: bool
    reasoning_details: bool = False
    merges: bool = False
    """Whether text that was received together goes on as one event."""

    @classmethod
    def of(cls, call: ChatCall, *, id: str, created: int) -> StreamShape:
        return cls(
            id,
            created,
            call.hides_reasoning,
            call.wants_usage_chunk,
            call.wants_reasoning_details,
            merges=call.granularity == "auto",
        )


async def stream_chat(
    engine: ChatEngine, calls: Sequence[EngineCall], shape: StreamShape, emit: EmitChunk
) -> None:
    """Emit the chunks of all choices, interleaved as they come, then the usage if it was asked for."""
    streams = [ChoiceStream(engine, call, shape, emit) for call in calls]
    if len(streams) > 1:
        opening = Opening([call.index or 0 for call in calls], emit)
        for stream in streams:
            stream.opening = opening
    reading = len(streams)

    async def run(stream: ChoiceStream) -> None:
        nonlocal reading
        await stream.read()
        reading -= 1
        if not reading:
            stream.call.burst.stay_open()
        await stream.finish()

    with engine.occupied(len(calls)):
        await run_all([run(stream) for stream in streams])
    if shape.wants_usage_chunk:
        chunk = streams[0].usage_chunk | {"id": shape.id, "created": shape.created, "choices": []}
        chunk["usage"] = merged_usage(
            [stream.usage_chunk["usage"] for stream in streams], [stream.receipt for stream in streams]
        )
        if len(streams) > 1:
            # The engine's timings are of one choice; vLLM leaves them out for several.
            chunk.pop("metrics", None)
        await emit(chunk)


@dataclass(slots=True)
class Opening:
    """The first chunks of several choices, in the order of their indices: clients' helpers build on that."""

    indices: Sequence[int]
    emit: EmitChunk
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _is_done: bool = False

    async def before(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """Open all choices at the first chunk of any; what an engine's own opening says is then said."""
        if not self._is_done:
            async with self._lock:
                if not self._is_done:
                    for index in self.indices:
                        delta = {"role": "assistant", "content": ""}
                        opened = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
                        await self.emit(chunk | {"choices": [opened]})
                    self._is_done = True
        choice["delta"].pop("role", None)


@dataclass(slots=True)
class ChoiceStream:
    engine: ChatEngine
    call: EngineCall
    shape: StreamShape
    emit: EmitChunk
    usage_chunk: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] | None = None
    opening: Opening | None = None
    """Of several choices."""
    _held: list[dict[str, Any]] = field(default_factory=list)
    _has_answer: bool = False
    _joining: dict[str, Any] | None = None
    """Text that more may be appended to while a burst is open."""

    async def read(self) -> None:
        """Emit everything up to the finish."""
        if self.shape.merges:
            self.call.burst.at_close(self._send_joined)
        await self.engine.stream(self.call, self._on_chunk)
        if not self._held or not self.usage_chunk:
            raise EngineMisbehaved("the engine's stream has no finish reason or no usage")

    async def finish(self) -> None:
        """Emit the finish, with its receipt."""
        for chunk in self._held:
            await self._finish(chunk)

    async def _on_chunk(self, chunk: dict[str, Any]) -> None:
        """The hot path: once per token."""
        choices = chunk.get("choices")
        if not choices:
            if chunk.get("usage"):
                self.usage_chunk = chunk
            return
        chunk["id"] = self.shape.id
        chunk["created"] = self.shape.created
        # vLLM sends one choice per chunk.
        choice = choices[0]
        if self.call.hides_ids:
            choice.pop("token_ids", None)
            chunk.pop("prompt_token_ids", None)
        if self.call.index is not None:
            choice["index"] = self.call.index
        if self.opening is not None:
            await self.opening.before(chunk, choice)
        worth_sending = self._shape(choice)
        if choice.get("finish_reason") is not None:
            chunk = self._hold(chunk, choice)
        if worth_sending:
            await self._send(chunk)

    async def _send(self, chunk: dict[str, Any]) -> None:
        if self._joining is not None:
            if joins(self._joining, chunk):
                return
            await self._send_joined()
        if self.shape.merges and self.call.burst.is_open and is_text(chunk):
            self._joining = chunk
        else:
            await self.emit(chunk)

    async def _send_joined(self) -> None:
        if self._joining is not None:
            joined, self._joining = self._joining, None
            await self.emit(joined)

    def _shape(self, choice: dict[str, Any]) -> bool:
        """Put the delta in the client's form; False if nothing is left to say before the finish."""
        delta = choice["delta"]
        if "reasoning_content" in delta and "reasoning" not in delta:
            # The name that llama.cpp and SGLang give it.
            delta["reasoning"] = delta.pop("reasoning_content")
        if delta.get("content") or delta.get("tool_calls"):
            self._has_answer = True
        if self.shape.hides_reasoning:
            delta.pop("reasoning", None)
            # They spell the thinking out.
            choice.pop("logprobs", None)
            choice.pop("token_ids", None)
        elif "reasoning" in delta:
            delta["reasoning_content"] = delta["reasoning"]
            if self.shape.reasoning_details:
                delta["reasoning_details"] = reasoning_details(delta["reasoning"])
        return any(delta.values()) or bool(choice.get("logprobs") or choice.get("token_ids"))

    def _hold(self, chunk: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
        """Keep the finish for later; return the chunk with what came along with it."""
        ending = {
            "index": choice["index"],
            "delta": {},
            "finish_reason": choice["finish_reason"],
            "stop_reason": choice.get("stop_reason"),
        }
        self._held.append(chunk | {"choices": [ending]})
        text = {name: value for name, value in choice.items() if name != "stop_reason"}
        return chunk | {"choices": [text | {"finish_reason": None}]}

    async def _finish(self, chunk: dict[str, Any]) -> None:
        choice = chunk["choices"][0]
        finish = Finish(choice["finish_reason"], choice["stop_reason"], self._has_answer)
        self.receipt = await receipt_for(self.engine, self.call, finish, self.usage_chunk["usage"])
        choice["thinking_budget"] = self.receipt
        if self.receipt is not None and chunk.get("usage"):
            chunk["usage"] = merged_usage([chunk["usage"]], [self.receipt])
        if "system_fingerprint" in self.usage_chunk and not self.shape.wants_usage_chunk:
            chunk["system_fingerprint"] = self.usage_chunk["system_fingerprint"]
        await self.emit(chunk)
