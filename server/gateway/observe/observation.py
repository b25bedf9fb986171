"""What is seen of one request on its way through the gateway. It records; sinks make something of it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from server.budget.receipt import EngineReceipt
from server.gateway.chat_call import ChatCall, EngineCall
from server.gateway.observe.intervals import Intervals
from server.gateway.observe.observer import Observer
from server.gateway.observe.outcomes import EngineFailure, Outcome, engine_failure, outcome_of
from server.gateway.observe.trace_context import TraceContext

if TYPE_CHECKING:
    from server.gateway.access import Caller
    from server.gateway.engine import ChatEngine
    from server.gateway.metering import Used
    from server.gateway.receipts import Finish

Api = Literal["chat", "messages", "responses", "completions", "embeddings"]
Phase = Literal["received", "queued", "prefill", "thinking", "answering", "generating"]
"""`generating`: an answer that the engine gives as a whole, so that nobody can tell how far it is."""
Clock = Callable[[], float]


class Sink:
    """Takes what observations have to tell, at the moment at which it is certain."""

    def started(self, seen: Observation) -> None:
        """May set `seen.trace` and `seen.keeps_times`."""

    def placed(self, seen: Observation, queued_s: float) -> None: ...
    def retried(self, engine: str) -> None: ...
    def settled(self, seen: Observation, watch: EngineWatch, choice: SettledChoice) -> None: ...
    def engine_failed(self, engine: str, failure: EngineFailure) -> None: ...
    def branched(self, seen: Observation, method: str, width: int) -> None: ...
    def reserved(self, amounts: Mapping[str, int]) -> None: ...
    def charged(self, used: Used) -> None: ...
    def finished(self, seen: Observation) -> None: ...


@dataclass(frozen=True, slots=True)
class SettledChoice:
    """A choice that came to its end."""

    finish: Finish
    receipt: Mapping[str, Any] | None
    """As the client gets it."""
    usage: Mapping[str, Any] | None
    """Of the engine call; None if another choice of the same call has brought it already."""


@dataclass(slots=True, eq=False)
class EngineWatch:
    """One request to an engine, as its parts come. Times are of the observation's clock, in seconds."""

    call: EngineCall
    engine: str
    begun: float
    intervals: Mapping[str, Intervals] | None = None
    """Where the time between two parts is counted, by phase."""
    keeps_times: bool = False
    keeps_text: bool = False
    first_thinking: float | None = None
    first_answer: float | None = None
    last_part: float | None = None
    ended: float | None = None
    thinking_tokens: int = 0
    """So far: one for each part of the stream, or as many as it has ids. The receipt counts exactly."""
    answer_tokens: int = 0
    times: array[float] = field(default_factory=lambda: array("d"))
    """When each thinking token came, if they are kept."""
    text: list[str] = field(default_factory=list)
    choices: list[SettledChoice] = field(default_factory=list)
    recorded: EngineReceipt | None = None

    def part(self, choice: Mapping[str, Any], now: float) -> None:
        """The hot path: once per token."""
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        if not thought and not delta.get("content") and not delta.get("tool_calls"):
            return
        ids = choice.get("token_ids")
        tokens = len(ids) if ids else 1
        if thought:
            if self.first_thinking is None:
                self.first_thinking = now
            elif self.intervals is not None and self.last_part is not None:
                self.intervals["thinking"].add(now - self.last_part)
            self.thinking_tokens += tokens
            if self.keeps_times:
                self.times.extend([now] * tokens)
        else:
            if self.first_answer is None:
                self.first_answer = now
            elif self.intervals is not None and self.last_part is not None:
                self.intervals["answer"].add(now - self.last_part)
            self.answer_tokens += tokens
        self.last_part = now
        if self.keeps_text:
            self.text.append(str(thought or delta.get("content") or ""))

    @property
    def phase(self) -> Phase:
        if self.first_answer is not None:
            return "answering"
        return "prefill" if self.first_thinking is None else "thinking"


@dataclass(slots=True, eq=False)
class Observation(Observer):
    api: Api
    started: float
    started_at_ns: int
    """The same moment as wall clock time."""
    sinks: Sequence[Sink]
    clock: Clock = time.perf_counter
    parent: TraceContext | None = None
    trace: TraceContext | None = None
    """The request's own span, or its caller's if this gateway records none."""
    keeps_times: bool = False
    keeps_text: bool = False
    intervals_of: Callable[[str], Mapping[str, Intervals]] | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    """The request's `state`, where its id and its caller are."""
    model: str | None = None
    call: ChatCall | None = None
    queued_since: float | None = None
    placed_at: float | None = None
    engines: list[str] = field(default_factory=list)
    """That were asked, the last one last."""
    watches: list[EngineWatch] = field(default_factory=list)
    error: Exception | None = None
    status: int | None = None
    complete: bool = False
    ended: float | None = None

    def asked(self, call: ChatCall, *, model: str) -> None:
        self.call, self.model = call, model
        self.queued_since = self.clock()

    def handed_on(self, *, model: str) -> None:
        self.model = model

    def watched(self, answering: ChatEngine, *, engine: str, call: ChatCall) -> ChatEngine:
        from server.gateway.observe.observed_engine import ObservedEngine

        now = self.clock()
        if self.engines:
            for sink in self.sinks:
                sink.retried(self.engines[-1])
        elif self.queued_since is not None:
            for sink in self.sinks:
                sink.placed(self, now - self.queued_since)
        self.call, self.placed_at = call, now
        self.engines.append(engine)
        return ObservedEngine(answering, self)

    def begin(self, call: EngineCall) -> EngineWatch:
        intervals = (
            self.intervals_of(self.model)
            if self.intervals_of is not None and self.model is not None
            else None
        )
        watch = EngineWatch(
            call, self.engines[-1], self.clock(), intervals, self.keeps_times, self.keeps_text
        )
        self.watches.append(watch)
        return watch

    def settled(
        self, call: EngineCall, finish: Finish, usage: Mapping[str, Any], receipt: Mapping[str, Any] | None
    ) -> None:
        watch = next((watch for watch in reversed(self.watches) if watch.call is call), None)
        if watch is None:
            return
        choice = SettledChoice(finish, receipt, None if watch.choices else usage)
        watch.choices.append(choice)
        for sink in self.sinks:
            sink.settled(self, watch, choice)

    def engine_failed(self, watch: EngineWatch, error: Exception) -> None:
        for sink in self.sinks:
            sink.engine_failed(watch.engine, engine_failure(error))

    def branched(self, method: str, width: int) -> None:
        for sink in self.sinks:
            sink.branched(self, method, width)

    def reserved(self, amounts: Mapping[str, int]) -> None:
        for sink in self.sinks:
            sink.reserved(amounts)

    def charged(self, used: Used) -> None:
        for sink in self.sinks:
            sink.charged(used)

    def failed(self, error: Exception) -> None:
        self.error = error

    def finish(self) -> None:
        self.ended = self.clock()
        for sink in self.sinks:
            sink.finished(self)

    @property
    def outcome(self) -> Outcome:
        return outcome_of(self.error, status=self.status, complete=self.complete)

    @property
    def request_id(self) -> str:
        return str(self.state.get("request_id", ""))

    @property
    def key(self) -> str | None:
        """The name of its API key."""
        caller: Caller | None = self.state.get("caller")
        return caller.name if caller is not None and caller.key is not None else None

    @property
    def phase(self) -> Phase:
        if self.placed_at is None:
            return "received" if self.queued_since is None else "queued"
        phases = {watch.phase for watch in self.watches}
        unknown: Phase = "prefill" if self.call is None or self.call.stream else "generating"
        return next((phase for phase in _FURTHEST_FIRST if phase in phases), unknown)

    def at_ns(self, moment: float) -> int:
        """A time of the clock as wall clock time."""
        return self.started_at_ns + round((moment - self.started) * 1e9)


_FURTHEST_FIRST: tuple[Phase, ...] = ("answering", "thinking")
