"""An answer as it comes in, and what is recorded of it once it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from loadtest.client.counting import Counts, Markers, Seen, count, receipt_differs, violation
from loadtest.client.forms import FAILED, failure, one_line, refusal, sides
from loadtest.client.record import Record
from loadtest.client.workload import Asked, BudgetFields
from server.chat.events import Events

_ERROR_BYTES = 2000
Window = tuple[float, float]
"""Begin and end of what rates are counted in, on the monotonic clock."""


@dataclass(slots=True)
class _Side:
    """The events that brought thinking, or answer."""

    first: float | None = None
    last: float = 0.0
    events: int = 0
    ids_at_first: int = 0
    """Token ids that had come with the first such event, its own included."""
    ids_at_last: int = 0

    def saw(self, now: float, ids: int) -> None:
        if self.first is None:
            self.first, self.ids_at_first = now, ids
        self.last, self.ids_at_last = now, ids
        self.events += 1

    def rate(self, tokens: int, *, has_ids: bool) -> float | None:
        """Tokens per second from its first event to its last; with ids, of all that these events brought.

        Args:
            tokens: of this side; without ids they are taken to be spread evenly over its events.
        """
        if self.first is None or self.last <= self.first:
            return None
        by_events = tokens * (self.events - 1) / self.events
        came = self.ids_at_last - self.ids_at_first if has_ids else by_events
        return came / (self.last - self.first) if came > 0 else None


@dataclass(slots=True)
class Answer:
    record: Record
    on_gap: Callable[[float], None]
    streams: bool
    window: Window
    clock: Callable[[], float] = time.monotonic
    _events: Events = field(default_factory=Events)
    _token_ids: list[int] = field(default_factory=list)
    _thinking: _Side = field(default_factory=_Side)
    _answer: _Side = field(default_factory=_Side)
    _usage: dict[str, Any] | None = None
    _receipt: dict[str, Any] | None = None
    _finish_reason: str | None = None
    _done: bool = False
    _body: bytearray = field(default_factory=bytearray)
    _last_update: float = 0.0
    _gaps_s: float = 0.0
    _before: tuple[int, int] = (0, 0)
    """Token ids and updates before the window began."""
    _until: tuple[int, int] = (0, 0)
    """Token ids and updates before it ended."""

    def read(self, status: int, part: bytes) -> None:
        """One part of the body."""
        if status != 200:
            if len(self._body) < _ERROR_BYTES:
                self._body += part
        elif not self.streams:
            self._body += part
        else:
            self._read_events(self._events.feed(part))

    def end(self, status: int) -> None:
        """The body is complete: whether the answer is, too."""
        if status != 200:
            self.fail(f"HTTP {status}", refusal(bytes(self._body)))
        elif self.streams:
            self._read_events(self._events.end())
        else:
            self._read_whole()
        if self._finish_reason in FAILED:
            self.fail(f"finish reason {self._finish_reason}")
        elif self._finish_reason is None:
            self.fail("no finish reason" if self._done else "no [DONE]")

    def fail(self, kind: str, message: str | None = None) -> None:
        """The first failure is kept."""
        if self.record.error is None:
            self.record.error, self.record.message = kind, message

    def _read_events(self, events: list[bytes]) -> None:
        now = self.clock()
        for event in events:
            if event.strip() == b"[DONE]":
                self._done = True
                continue
            try:
                chunk = orjson.loads(event)
            except orjson.JSONDecodeError:
                self.fail("not JSON", one_line(event.decode(errors="replace")))
                continue
            if not self._failed(chunk):
                self._usage = chunk.get("usage") or self._usage
                for choice in chunk.get("choices") or ():
                    self._read_choice(choice, choice.get("delta") or {}, now)

    def _read_whole(self) -> None:
        answer = orjson.loads(bytes(self._body))
        if self._failed(answer):
            return
        choice = answer["choices"][0]
        self._done = True
        self._usage = answer.get("usage")
        self._read_choice(choice, {} if choice.get("error") else choice["message"], self.clock())

    def _failed(self, said: dict[str, Any]) -> bool:
        message = failure(said)
        if message is not None:
            self.fail("error event", message)
        return message is not None

    def _read_choice(self, choice: dict[str, Any], said: dict[str, Any], now: float) -> None:
        """
        Args:
            said: the delta, or the whole message.
        """
        if self._failed(choice):
            return
        ids = choice.get("token_ids")
        if ids:
            self._token_ids += ids
        thinking, answer = sides(said)
        if thinking:
            self._thinking.saw(now, len(self._token_ids))
        if answer:
            self._answer.saw(now, len(self._token_ids))
        if thinking or answer or ids:
            self._update(now)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._receipt = choice.get("thinking_budget") or self._receipt

    def _update(self, now: float) -> None:
        self.record.updates += 1
        if self._last_update:
            gap_s = now - self._last_update
            self._gaps_s += gap_s
            self.on_gap(gap_s)
        self._last_update = now
        begins, ends = self.window
        if now < ends:
            self._until = len(self._token_ids), self.record.updates
            if now < begins:
                self._before = self._until

    def judge(self, asked: Asked, *, fields: BudgetFields, markers: Markers) -> None:
        """Put counts and faults into the record."""
        record = self.record
        if self.streams:
            record.first_thinking = self._thinking.first
        record.first_answer = self._answer.first
        seen = Seen(thinking=self._thinking.events, answer=self._answer.events, updates=record.updates)
        counts = count(self._token_ids, self._usage, markers, seen=seen)
        record.thinking_tokens, record.completion_tokens = counts.thinking, counts.completion
        record.marker_tokens = counts.markers
        record.counted_from = counts.source
        record.prompt_tokens = int((self._usage or {}).get("prompt_tokens") or 0)
        self._time(counts)
        if record.error is not None:
            return
        record.empty = record.first_answer is None
        record.violation = violation(
            counts, asked.enforced(fields), finish_reason=self._finish_reason, receipt=self._receipt
        )
        if self._receipt is not None and counts.source == "token ids":
            differs = receipt_differs(counts, self._receipt, self._usage)
            record.receipt = differs or "agrees"
            if differs is None:
                # The answer prompt is a marker, too, which only a receipt tells from the answer.
                record.marker_tokens = int(self._receipt.get("marker_tokens") or counts.markers)

    def _time(self, counts: Counts) -> None:
        """Speeds, and what of the answer came within the window."""
        record = self.record
        if record.updates > 1:
            record.mean_gap_s = self._gaps_s / (record.updates - 1)
        has_ids = counts.source == "token ids"
        thought = counts.thinking_begin + counts.thinking
        ids = len(self._token_ids)
        record.thinking_tokens_per_s = self._thinking.rate(counts.thinking, has_ids=has_ids)
        record.answer_tokens_per_s = self._answer.rate(record.answer_tokens, has_ids=has_ids)
        at = 0 if ids else 1
        share = counts.completion / ((ids or record.updates) or 1)
        begin, end = self._before[at] * share, self._until[at] * share
        record.updates_in_window = self._until[1] - self._before[1]
        record.tokens_in_window = end - begin
        record.thinking_in_window = max(0.0, min(end, thought) - max(begin, counts.thinking_begin))
