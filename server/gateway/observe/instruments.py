"""The gateway's Prometheus metrics of requests. docs/observability.md explains each.

Labels are bounded: a model is one that an engine serves, a key one of the keys file, everything else from a
closed set. What clients make up never becomes a label.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry

from server.budget.receipt import count_tokens
from server.budget.spec import EndedBy
from server.gateway.access.metering import Used
from server.gateway.access.reservation import THINKING, TOTAL
from server.gateway.errors import QuotaExceeded
from server.gateway.observe.observation import Api, EngineWatch, Observation, SettledChoice, Sink
from server.gateway.observe.outcomes import QUOTA_REASONS, EngineFailure, Outcome, quota_reason
from server.gateway.observe.series import (
    Count,
    Counts,
    Distribution,
    Distributions,
    Everything,
    Found,
    Labels,
)

_TOKENS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.999, 1.0)
"""The last two tell budgets that were used up from those that nearly were."""
_DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_WAITING_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_INTERVALS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 5)
_RATES = (1, 2.5, 5, 10, 20, 30, 40, 60, 80, 100, 150, 250, 500, 1000)
_BRANCHES = (1, 2, 4, 8, 16, 32, 64, 128)

NO_MODEL = "unknown"
"""The label of requests that named no model of this server."""

_TOLD = frozenset({"ok", "invalid", "unauthorized", "quota"})
"""Outcomes of requests that got all there was to say."""
REFUSED_END_REASONS = ("num_waits", "min_thinking_tokens")

Phase = Literal["thinking", "answer"]
Exemplar = dict[str, str] | None


class Instruments(Sink):
    def __init__(self, registry: CollectorRegistry, *, per_key: bool) -> None:
        """
        Args:
            per_key: whether requests, tokens and refusals are counted by key, too.
        """
        self._by_model: dict[str, _OfModel] = {}
        self.per_key = per_key
        self._settled: deque[tuple[Observation, SettledChoice]] = deque()
        self._finished: deque[Observation] = deque()
        families: list[Counts | Distributions] = []
        key = ("key",) if per_key else ()

        def counter(name: str, text: str, *labels: str) -> Counts:
            families.append(made := Counts(name, text, labels))
            return made

        def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Distributions:
            families.append(made := Distributions(name, text, bounds, ("model", *labels)))
            return made

        self.requests = counter(
            "s1_requests", "Requests that ended, by how they did.", "api", "model", "outcome", *key
        )
        self.tokens = counter("s1_tokens", "Tokens by kind, as usage and receipts count them.",
                              "model", "kind", *key)  # fmt: skip
        self.cut_short = counter(
            "s1_cut_short_tokens",
            "Tokens seen in streams that never got a receipt: a client left, or an engine failed.",
            "model",
            "kind",
        )
        self.ended = counter(
            "s1_thinking_ended", "Choices by what ended their thinking.", "model", "ended_by"
        )
        self.clamped = counter(
            "s1_thinking_clamped", "Choices whose budget was lowered, by what.", "model", "clamped_by"
        )
        self.waits = counter("s1_waits_injected", "Wait texts put into thinking.", "model")
        self.refused_ends = counter(
            "s1_end_attempts_refused", "Ends of thinking that were replaced, by why.", "model", "reason"
        )
        self.empty = counter(
            "s1_empty_answers", "Choices with a budget that came to their end without an answer.", "model"
        )
        self.quota_refusals = counter("s1_quota_refusals", "Requests refused by a quota.", "reason", *key)
        self.quota_reserved = counter(
            "s1_quota_reserved_tokens", "Tokens reserved of keys' quotas, at worst.", "kind"
        )
        self.quota_used = counter(
            "s1_quota_used_tokens", "Tokens that the reservations became in the end.", "kind"
        )
        self.branches = histogram(
            "s1_parallel_branches", "Branches of a request with parallel scaling.", _BRANCHES, "method"
        )
        self.duration = histogram(
            "s1_request_duration_seconds", "From a request's arrival to its last byte.", _DURATIONS_S, "api"
        )
        self.queue = histogram(
            "s1_queue_time_seconds", "From an understood request to an engine for it.", _WAITING_S
        )
        self.first_thinking = histogram(
            "s1_time_to_first_thinking_token_seconds", "From a request's arrival; of streams.", _DURATIONS_S
        )
        self.first_answer = histogram(
            "s1_time_to_first_answer_token_seconds", "From a request's arrival; of streams.", _DURATIONS_S
        )
        self.unanswered = histogram(
            "s1_unanswered_stream_duration_seconds",
            "From arrival to the end of streams that were left, cut off or failed before an answer token.",
            _DURATIONS_S,
        )
        self.requested = histogram(
            "s1_thinking_requested_tokens", "The maximum that a choice asked for.", _TOKENS
        )
        self.effective = histogram("s1_thinking_effective_tokens", "The maximum that was enforced.", _TOKENS)
        self.used = histogram("s1_thinking_used_tokens", "Thinking tokens of a choice.", _TOKENS)
        self.utilisation = histogram(
            "s1_thinking_utilisation_ratio", "Part of the enforced maximum that was used.", _RATIOS
        )
        self.answer = histogram("s1_answer_tokens", "Answer tokens of a choice.", _TOKENS)
        self.thinking_rate = histogram(
            "s1_thinking_rate_tokens_per_second", "While thinking; of streams.", _RATES
        )
        self.answer_rate = histogram(
            "s1_answer_rate_tokens_per_second", "While answering; of streams.", _RATES
        )
        self.intervals = histogram(
            "s1_inter_token_latency_seconds",
            "Between two parts of a stream that carry text.",
            _INTERVALS_S,
            "phase",
        )
        self.engine_errors = counter(
            "s1_engine_errors", "Requests to an engine that failed.", "engine", "kind"
        )
        self.engine_retries = counter(
            "s1_engine_retries", "Requests that another engine took over from this one.", "engine"
        )
        registry.register(Everything(families, first=self.catch_up))
        self._reserved = {kind: self.quota_reserved.of(kind) for kind in (THINKING, TOTAL)}
        self._used_thinking, self._used_total = self.quota_used.of(THINKING), self.quota_used.of(TOTAL)
        if not per_key:
            for reason in QUOTA_REASONS:
                self.quota_refusals.of(reason)

    def of_model(self, model: str) -> _OfModel:
        found = self._by_model.get(model)
        if found is None:
            found = self._by_model[model] = _OfModel(self, model)
        return found

    def count_intervals(self, seen: Observation) -> None:
        """Of a request that may still run."""
        if seen.model is not None:
            for watch in seen.watches:
                watch.count_intervals(self.of_model(seen.model).intervals)

    def key_label(self, seen: Observation) -> Labels:
        return (seen.key or "",) if self.per_key else ()

    def know(self, *, models: Iterable[str], engines: Iterable[str]) -> None:
        """Begin the series of all models and engines at 0, and drop those of engines that have left.

        A counter that begins with its first event has no increase to show. And a name may stand for ever
        new addresses of engines.
        """
        for model in models:
            self.of_model(model)
        urls = tuple(engines)
        self.engine_errors.keep([(url, kind) for url in urls for kind in get_args(EngineFailure)])
        self.engine_retries.keep([(url,) for url in urls])

    def placed(self, seen: Observation, queued_s: float) -> None:
        if seen.model is not None:
            self.of_model(seen.model).queue.observe(queued_s, exemplar_of(seen))

    def retried(self, engine: str) -> None:
        self.engine_retries.of(engine).value += 1

    def engine_failed(self, engine: str, failure: EngineFailure) -> None:
        self.engine_errors.of(engine, failure).value += 1

    def branched(self, seen: Observation, method: str, width: int) -> None:
        self.branches.of(seen.model or NO_MODEL, method).observe(width, exemplar_of(seen))

    def reserved(self, amounts: Mapping[str, int]) -> None:
        for kind, amount in amounts.items():
            self._reserved[kind].value += amount

    def charged(self, used: Used) -> None:
        self._used_thinking.value += used.thinking
        self._used_total.value += used.total

    def settled(self, seen: Observation, watch: EngineWatch, choice: SettledChoice) -> None:
        self._settled.append((seen, choice))

    def finished(self, seen: Observation) -> None:
        self._finished.append(seen)

    @property
    def behind(self) -> int:
        """Requests that have ended and aren't counted yet."""
        return len(self._finished)

    def catch_up(self) -> None:
        """Count what has come to its end. By the dozen it costs half: code and series are at hand then."""
        while self._settled:
            self._count_choice(*self._settled.popleft())
        while self._finished:
            self._count_request(self._finished.popleft())

    def _count_choice(self, seen: Observation, choice: SettledChoice) -> None:
        if seen.model is None:
            return
        own = self.of_model(seen.model)
        if choice.usage is not None:
            tokens = own.tokens[self.key_label(seen)]
            for kind, count in _tokens_by_kind(choice.usage, choice.receipt, first=choice.is_first):
                if count:
                    tokens[kind].value += count
        if choice.receipt is not None:
            _settle_receipt(own, choice.receipt, exemplar_of(seen))
            if choice.receipt["effective"] is not None and _answers_nothing(choice):
                own.empty.value += 1

    def _count_request(self, seen: Observation) -> None:
        key = self.key_label(seen)
        if isinstance(seen.error, QuotaExceeded):
            self.quota_refusals.of(quota_reason(seen.error), *key).value += 1
        if seen.model is None or seen.ended is None:
            self.requests.of(seen.api, seen.model or NO_MODEL, seen.outcome, *key).value += 1
            return
        own, exemplar, outcome = self.of_model(seen.model), exemplar_of(seen), seen.outcome
        own.requests[seen.api, outcome, key].value += 1
        own.duration[seen.api].observe(seen.ended - seen.started, exemplar)
        if outcome not in _TOLD and _is_unanswered_stream(seen):
            own.unanswered.observe(seen.ended - seen.started, exemplar)
        self.count_intervals(seen)
        for watch in seen.watches:
            self._finish_watch(own, seen, watch, exemplar)

    def _finish_watch(self, own: _OfModel, seen: Observation, watch: EngineWatch, exemplar: Exemplar) -> None:
        if watch.first_thinking is not None:
            own.first_thinking.observe(watch.first_thinking - seen.started, exemplar)
        if watch.first_answer is not None:
            own.first_answer.observe(watch.first_answer - seen.started, exemplar)
        if not watch.choices:
            for kind, tokens in _tokens_without_receipt(watch).items():
                own.cut_short[kind].value += tokens
            return
        for phase, rate in rates_of(watch).items():
            own.rate[phase].observe(rate, exemplar)


class _OfModel:
    """The series of one model, looked up once."""

    def __init__(self, instruments: Instruments, model: str) -> None:
        self.intervals = {phase: instruments.intervals.of(model, phase) for phase in get_args(Phase)}
        self.queue = instruments.queue.of(model)
        self.first_thinking = instruments.first_thinking.of(model)
        self.first_answer = instruments.first_answer.of(model)
        self.unanswered = instruments.unanswered.of(model)
        self.requested = instruments.requested.of(model)
        self.effective = instruments.effective.of(model)
        self.used = instruments.used.of(model)
        self.utilisation = instruments.utilisation.of(model)
        self.answer = instruments.answer.of(model)
        self.rate: Mapping[str, Distribution] = {
            "thinking": instruments.thinking_rate.of(model),
            "answer": instruments.answer_rate.of(model),
        }
        self.duration = Found[str, Distribution](lambda api: instruments.duration.of(model, api))
        self.waits = instruments.waits.of(model)
        self.empty = instruments.empty.of(model)
        self.ended = Found[str, Count](lambda by: instruments.ended.of(model, by))
        for by in get_args(EndedBy):
            instruments.ended.of(model, by)
        self.clamped = Found[str, Count](lambda by: instruments.clamped.of(model, by))
        self.refused_ends = {why: instruments.refused_ends.of(model, why) for why in REFUSED_END_REASONS}
        self.cut_short = {kind: instruments.cut_short.of(model, kind) for kind in get_args(Phase)}
        self.tokens = Found[Labels, Found[str, Count]](
            lambda key: Found(lambda kind: instruments.tokens.of(model, kind, *key))
        )
        """By key, then by kind."""
        self.requests = Found[tuple[str, str, Labels], Count](
            lambda ended: instruments.requests.of(ended[0], model, ended[1], *ended[2])
        )
        """By API, outcome and key."""
        if not instruments.per_key:
            for api in get_args(Api):
                for outcome in get_args(Outcome):
                    instruments.requests.of(api, model, outcome)


def _settle_receipt(own: _OfModel, receipt: Mapping[str, Any], exemplar: Exemplar) -> None:
    thinking, effective = receipt["thinking_tokens"], receipt["effective"]
    own.used.observe(thinking, exemplar)
    # Where no thinking was allowed none was cut off.
    if receipt["ended_by"] is not None and (effective is None or effective["max"]):
        own.ended[receipt["ended_by"]].value += 1
    for reason in receipt["clamped_by"]:
        own.clamped[reason].value += 1
    requested = receipt["requested"].get("max_thinking_tokens")
    if requested is not None:
        own.requested.observe(requested, exemplar)
    if effective is None:
        return
    own.effective.observe(effective["max"], exemplar)
    if effective["max"]:
        own.utilisation.observe(thinking / effective["max"], exemplar)
    own.answer.observe(receipt["answer_tokens"], exemplar)
    if receipt["waits"]:
        asked = min(receipt["waits"], effective["num_waits"])
        own.waits.value += receipt["waits"]
        own.refused_ends["num_waits"].value += asked
        own.refused_ends["min_thinking_tokens"].value += receipt["waits"] - asked


def _is_unanswered_stream(seen: Observation) -> bool:
    """Of branches that are asked for whole answers nobody knows when an answer began."""
    if seen.call is None or not seen.call.stream or seen.call.parallel is not None:
        return False
    return all(watch.first_answer is None for watch in seen.watches)


def exemplar_of(seen: Observation) -> Exemplar:
    """Only of traces that somebody keeps."""
    return {"trace_id": seen.trace.trace_id} if seen.trace is not None and seen.trace.sampled else None


def rates_of(watch: EngineWatch) -> dict[str, float]:
    """Tokens per second by phase, of those that came in more than one part: what came after the first part,
    over the time it took.
    """
    later = watch.later_tokens
    return {
        phase: later[phase] / (times[-1] - times[0])
        for phase, times in (("thinking", watch.thinking), ("answer", watch.answer))
        if len(times) > 1 and times[-1] > times[0]
    }


def _tokens_by_kind(
    usage: Mapping[str, Any], receipt: Mapping[str, Any] | None, *, first: bool
) -> Iterator[tuple[str, int]]:
    """They add up to the usage: prompt, and a choice's thinking, markers and answer."""
    completion = int(usage["completion_tokens"])
    if first:
        yield "prompt", int(usage["prompt_tokens"])
    if receipt is None:
        yield "uncounted", completion
        return
    thinking, marker = receipt["thinking_tokens"], receipt.get("marker_tokens", 0)
    yield "thinking", thinking
    yield "marker", marker
    yield "answer", completion - thinking - marker


def _tokens_without_receipt(watch: EngineWatch) -> dict[str, int]:
    """Exact if somebody has asked the engine, for a quota or because a branch was left."""
    if watch.recorded is None:
        return {"thinking": watch.thinking_tokens, "answer": watch.answer_tokens}
    counts = count_tokens(watch.recorded, watch.recorded.output_tokens)
    return {"thinking": counts.thinking, "answer": counts.answer}


def _answers_nothing(choice: SettledChoice) -> bool:
    """A stop string inside the thinking is the client's own end; everything else must have an answer."""
    return (
        not choice.finish.has_answer and choice.receipt is not None and choice.receipt["ended_by"] != "stop"
    )
