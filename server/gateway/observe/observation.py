"""What is seen of one request on its way through the gateway. It records; sinks make something of it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from server.budget.receipt import EngineReceipt
from server.gateway.chat.chat_call import ChatCall, EngineCall
from server.gateway.observe.observed_engine import ObservedEngine, OnEvent
from server.gateway.observe.observer import Observer
from server.gateway.observe.outcomes import EngineFailure, Outcome, engine_failure, outcome_of
from server.gateway.observe.series import Distribution
from server.gateway.observe.trace_context import TraceContext

if TYPE_CHECKING:
    from server.gateway.access.callers import Caller
    from server.gateway.access.metering import Used
    from server.gateway.chat.receipts import Finish
    from server.gateway.engines.engine import ChatEngine

Api = Literal["chat", "messages", "responses", "completions", "embeddings"]
Phase = Literal["received", "queued", "prefill", "thinking", "answering", "generating"]
"""`generating`: an answer that the engine gives as a whole, so that nobody can tell how far it is."""
Clock = Callable[[], float]


class Sink:
    """Takes what observations have to tell, at the moment at which it is certain."""

    def started(self, seen: Observation) -> None:
        """May set `seen.trace` and `seen.keeps_text`."""

    def placed(self, seen: Observation, queued_s: float) -> None: ...
    def retried(self, engine: str) -> None: ...
    def settled(self, seen: Observation, watch: EngineWatch, choice: SettledChoice) -> None: ...
    def engine_failed(self, engine: str, failure: EngineFailure) -> None: ...
    def branched(self, seen: Observation, method: str, width: int) -> None: ...
    def reserved(self, amounts: Mapping[str, int]) -> None: ...
    def charged(self, used: Used) -> None: ...
    def finished(self, seen: Observation) -> None: ...


@dataclass(slots=True)
class SettledChoice:
    """A choice that came to its end. Nobody changes it; to be frozen would make it thrice as dear."""

    finish: Finish
    receipt: Mapping[str, Any] | None
    """As the client gets it."""
    usage: Mapping[str, Any] | None
    """Of the engine call; None if another choice of the same call has brought it already."""
    is_first: bool
    """Whether it was the first of its request: choices share their prompt, which is counted once."""


class EngineWatch:
    """One request to an engine, as its parts come. Times are of the observation's clock, in seconds."""

    __slots__ = (
        "_counted", "answer", "answer_sizes", "begun", "call", "choices", "ended", "engine", "keeps_text",
        "recorded", "text", "thinking", "thinking_sizes",
    )  # fmt: skip

    def __init__(self, call: EngineCall, engine: str, begun: float, keeps_text: bool = False) -> None:
        self.call = call
        self.engine = engine
        self.begun = begun
        self.keeps_text = keeps_text
        self.ended: float | None = None
        self.thinking = array("d")
        """When each part of a stream came that has thinking."""
        self.thinking_sizes = array("I")
        """How many token ids each of them had; 0: it told none."""
        self.answer = array("d")
        self.answer_sizes = array("I")
        self.text: list[str] = []
        self.choices: list[SettledChoice] = []
        self.recorded: EngineReceipt | None = None
        self._counted: dict[str, int] = {}
        """How many of the times `count_intervals` has seen, by phase."""

    def seeing(self, clock: Clock, on_event: OnEvent) -> OnEvent:
        """`on_event`, with every part of a stream noted: once per event, so everything is at hand."""
        thought, thinking_size = self.thinking.append, self.thinking_sizes.append
        answered, answer_size = self.answer.append, self.answer_sizes.append
        text = self.text if self.keeps_text else None

        def see(chunk: dict[str, Any]) -> Awaitable[None]:
            if choices := chunk.get("choices"):
                choice = choices[0]
                delta = choice["delta"]
                tokens = len(choice.get("token_ids") or ())
                if said := delta.get("reasoning") or delta.get("reasoning_content"):
                    thought(now := clock())
                    if len(delta) > 1 and (answer := delta.get("content") or delta.get("tool_calls")):
                        answered(now)
                        of_answer = _answer_part(tokens, said, answer)
                        answer_size(of_answer)
                        tokens = max(1, tokens - of_answer) if tokens else 0
                        if text is not None:
                            said += delta.get("content") or ""
                    thinking_size(tokens)
                elif (said := delta.get("content")) or delta.get("tool_calls"):
                    answered(clock())
                    answer_size(tokens)
                if text is not None:
                    text.append(said or "")
            return on_event(chunk)

        return see

    def count_intervals(self, by_phase: Mapping[str, Distribution]) -> None:
        """Count the times between two parts that haven't been counted yet."""
        for phase, times in (("thinking", self.thinking), ("answer", self.answer)):
            known = self._counted.get(phase, 0)
            if len(times) > max(known, 1):
                by_phase[phase].observe_between(times[max(0, known - 1) :])
                self._counted[phase] = len(times)

    @property
    def thinking_tokens(self) -> int:
        """Of a stream so far, by its parts' token ids, else by what was asked for a part; the receipt counts
        exactly.
        """
        return self._tokens(self.thinking_sizes, begins=True)

    @property
    def answer_tokens(self) -> int:
        return self._tokens(self.answer_sizes, begins=not self.thinking)

    @property
    def later_tokens(self) -> Mapping[str, int]:
        """By phase, without those of its first part."""
        return {
            "thinking": self._tokens(self.thinking_sizes[1:]),
            "answer": self._tokens(self.answer_sizes[1:]),
        }

    def _tokens(self, sizes: Sequence[int], *, begins: bool = False) -> int:
        """
        Args:
            begins: the first of them began the stream: an engine's first token comes alone.
        """
        untold = sizes.count(0)
        alone = untold > 0 and begins and not sizes[0]
        return sum(sizes) + (untold - alone) * self.call.stream_interval + alone

    @property
    def first_thinking(self) -> float | None:
        return self.thinking[0] if self.thinking else None

    @property
    def first_answer(self) -> float | None:
        return self.answer[0] if self.answer else None

    @property
    def last_part(self) -> float | None:
        lasts = [times[-1] for times in (self.thinking, self.answer) if times]
        return max(lasts, default=None)

    @property
    def phase(self) -> Phase:
        if self.answer:
            return "answering"
        return "thinking" if self.thinking else "prefill"


def _answer_part(tokens: int, thinking: str, answer: str | Sequence[Any]) -> int:
    """How many of a part's tokens are its answer's, going by the texts: at least one, as is thinking's."""
    if tokens < 2 or not isinstance(answer, str):
        return 1
    share = round(tokens * len(answer) / (len(thinking) + len(answer)))
    return min(max(1, share), tokens - 1)


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
    keeps_text: bool = False
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
        watch = EngineWatch(call, self.engines[-1], self.clock(), self.keeps_text)
        self.watches.append(watch)
        return watch

    def settled(
        self, call: EngineCall, finish: Finish, usage: Mapping[str, Any], receipt: Mapping[str, Any] | None
    ) -> None:
        for watch in reversed(self.watches):
            if watch.call is call:
                break
        else:
            return
        is_first = not watch.choices and (len(self.watches) == 1 or not any(w.choices for w in self.watches))
        choice = SettledChoice(finish, receipt, None if watch.choices else usage, is_first)
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
