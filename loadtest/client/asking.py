"""Ask one request and keep a record of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from loadtest.client.counting import Markers, count, receipt_differs, violation
from loadtest.client.record import Record
from loadtest.client.wire import Client, Events, Target, WireError
from loadtest.client.workload import Asked, BudgetFields

_ERROR_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server is spoken to, as far as that differs."""

    model: str
    fields: BudgetFields
    with_ids: bool
    """Whether it takes `return_token_ids`."""
    markers: Markers
    authorization: str | None = None
    timeout_s: float = 600.0

    @property
    def headers(self) -> str:
        return f"authorization: Bearer {self.authorization}\r\n" if self.authorization else ""


@dataclass(slots=True)
class _Answer:
    """An answer as it comes in."""

    record: Record
    on_gap: Callable[[float], None]
    streams: bool
    events: Events = field(default_factory=Events)
    token_ids: list[int] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    receipt: dict[str, Any] | None = None
    finish_reason: str | None = None
    error: str | None = None
    done: bool = False
    refused: bytearray = field(default_factory=bytearray)
    body: bytearray = field(default_factory=bytearray)
    last_update: float = 0.0
    gaps_s: float = 0.0
    thinking_updates: int = 0

    def read(self, status: int, part: bytes) -> None:
        if status != 200:
            if len(self.refused) < _ERROR_BYTES:
                self.refused += part
        elif not self.streams:
            self.body += part
        else:
            now = time.monotonic()
            for event in self.events.feed(part):
                self._read_event(event, now)

    def _read_event(self, event: bytes, now: float) -> None:
        if event == b"[DONE]":
            self.done = True
            return
        try:
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            self.error = "not JSON"
            return
        if "error" in chunk:
            self.error = self.error or "error event"
            return
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            self._read_choice(choice, now)

    def _read_choice(self, choice: dict[str, Any], now: float) -> None:
        delta = choice.get("delta") or {}
        ids = choice.get("token_ids")
        if ids:
            self.token_ids += ids
        thinking = delta.get("reasoning") or delta.get("reasoning_content")
        answer = delta.get("content") or delta.get("tool_calls")
        record = self.record
        if thinking and record.first_thinking is None:
            record.first_thinking = now
        if answer and record.first_answer is None:
            record.first_answer = now
        if thinking or answer or ids:
            self._update(now)
            self.thinking_updates += bool(thinking)
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self.receipt = choice.get("thinking_budget") or self.receipt

    def _update(self, now: float) -> None:
        self.record.updates += 1
        if self.last_update:
            gap_s = now - self.last_update
            self.gaps_s += gap_s
            self.on_gap(gap_s)
        self.last_update = now

    def read_whole(self) -> None:
        """An answer that was not streamed."""
        try:
            answer = orjson.loads(bytes(self.body))
            choice = answer["choices"][0]
            message = choice["message"]
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            self.error = "not a chat completion"
            return
        self.done = True
        self.usage, self.receipt = answer.get("usage"), choice.get("thinking_budget")
        self.token_ids = choice.get("token_ids") or []
        self.finish_reason = choice.get("finish_reason")
        self.record.updates = 1
        if message.get("content") or message.get("tool_calls"):
            self.record.first_answer = time.monotonic()


async def ask(
    client: Client,
    target: Target,
    dialect: Dialect,
    asked: Asked,
    *,
    intended: float,
    on_gap: Callable[[float], None],
) -> Record:
    """The record of one request, whatever becomes of it."""
    body = orjson.dumps(asked.body(dialect.model, fields=dialect.fields, with_ids=dialect.with_ids))
    raw = target.request("POST", "/v1/chat/completions", body, headers=dialect.headers)
    record = Record(asked.kind_number, intended, started=time.monotonic())
    answer = _Answer(record, on_gap, asked.kind.stream)
    status = 0
    try:
        async with asyncio.timeout(dialect.timeout_s):
            status = await client.send(raw, answer.read)
    except TimeoutError:
        record.error = "timeout"
    except WireError as error:
        record.error = str(error)
    record.ended = time.monotonic()
    if record.error is None and status != 200:
        record.error = f"HTTP {status}"
    elif record.error is None and not asked.kind.stream:
        answer.read_whole()
    record.error = record.error or answer.error or (None if answer.done else "no [DONE]")
    _judge(answer, asked, dialect)
    return record


def _judge(answer: _Answer, asked: Asked, dialect: Dialect) -> None:
    record = answer.record
    counts = count(
        answer.token_ids, answer.usage, dialect.markers, updates=(answer.thinking_updates, record.updates)
    )
    record.thinking_tokens, record.completion_tokens = counts.thinking, counts.completion
    record.counted_from = counts.source
    record.prompt_tokens = int((answer.usage or {}).get("prompt_tokens") or 0)
    if record.updates > 1:
        record.mean_gap_s = answer.gaps_s / (record.updates - 1)
    if record.error is not None:
        return
    record.empty = record.first_answer is None
    budget = asked.enforced(dialect.fields)
    record.violation = violation(counts, budget, finish_reason=answer.finish_reason, receipt=answer.receipt)
    if answer.receipt is not None and counts.source == "token ids":
        record.receipt = receipt_differs(counts, answer.receipt, answer.usage) or "agrees"
