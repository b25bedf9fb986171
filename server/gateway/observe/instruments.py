"""The gateway's Prometheus metrics of requests. docs/observability.md explains each.

Labels are bounded: a model is one that an engine serves, a key one of the keys file, everything else from a
closed set. What clients make up never becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry

from server.budget.receipt import count_tokens
from server.budget.spec import EndedBy
from server.gateway.access.metering import Used
from server.gateway.access.reservation import THINKING, TOTAL
from server.gateway.errors import QuotaExceeded
from server.gateway.observe.observation import EngineWatch, Observation, SettledChoice, Sink
from server.gateway.observe.outcomes import QUOTA_REASONS, EngineFailure, quota_reason
from server.gateway.observe.series import Counts, Distribution, Distributions, Everything

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
        self._per_key = per_key
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
        registry.register(Everything(families))
        for kind in (THINKING, TOTAL):
            self.quota_reserved.begin(kind)
            self.quota_used.begin(kind)
        if not per_key:
            for reason in QUOTA_REASONS:
                self.quota_refusals.begin(reason)

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

    def key_label(self, seen: Observation) -> tuple[str, ...]:
        return (seen.key or "",) if self._per_key else ()

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
        self.engine_retries.add((engine,))

    def engine_failed(self, engine: str, failure: EngineFailure) -> None:
        self.engine_errors.add((engine, failure))

    def branched(self, seen: Observation, method: str, width: int) -> None:
        self.branches.of(seen.model or NO_MODEL, method).observe(width, exemplar_of(seen))

    def reserved(self, amounts: Mapping[str, int]) -> None:
        for kind, amount in amounts.items():
            self.quota_reserved.add((kind,), amount)

    def charged(self, used: Used) -> None:
        self.quota_used.add((THINKING,), used.thinking)
        self.quota_used.add((TOTAL,), used.total)

    def settled(self, seen: Observation, watch: EngineWatch, choice: SettledChoice) -> None:
        if seen.model is None:
            return
        own, key, exemplar = self.of_model(seen.model), self.key_label(seen), exemplar_of(seen)
        for kind, tokens in _tokens_by_kind(choice, first=_is_first(seen)).items():
            if tokens:
                self.tokens.add((own.model, kind, *key), tokens)
        if choice.receipt is not None:
            self._settle_receipt(own, choice.receipt, exemplar)
            if choice.receipt["effective"] is not None and _answers_nothing(choice):
                self.empty.add((own.model,))

    def _settle_receipt(self, own: _OfModel, receipt: Mapping[str, Any], exemplar: Exemplar) -> None:
        thinking, effective = receipt["thinking_tokens"], receipt["effective"]
        own.used.observe(thinking, exemplar)
        if receipt["ended_by"] is not None:
            self.ended.add((own.model, receipt["ended_by"]))
        for reason in receipt["clamped_by"]:
            self.clamped.add((own.model, reason))
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
            self.waits.add((own.model,), receipt["waits"])
            self.refused_ends.add((own.model, "num_waits"), asked)
            self.refused_ends.add((own.model, "min_thinking_tokens"), receipt["waits"] - asked)

    def finished(self, seen: Observation) -> None:
        model, key = seen.model or NO_MODEL, self.key_label(seen)
        self.requests.add((seen.api, model, seen.outcome, *key))
        if isinstance(seen.error, QuotaExceeded):
            self.quota_refusals.add((quota_reason(seen.error), *key))
        if seen.model is None or seen.ended is None:
            return
        own, exemplar = self.of_model(model), exemplar_of(seen)
        self.duration.of(model, seen.api).observe(seen.ended - seen.started, exemplar)
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
                self.cut_short.add((own.model, kind), tokens)
            return
        for phase, rate in rates_of(watch).items():
            own.rate[phase].observe(rate, exemplar)


class _OfModel:
    """The series of one model, looked up once."""

    def __init__(self, instruments: Instruments, model: str) -> None:
        self.model = model
        self.intervals = {phase: instruments.intervals.of(model, phase) for phase in get_args(Phase)}
        self.queue = instruments.queue.of(model)
        self.first_thinking = instruments.first_thinking.of(model)
        self.first_answer = instruments.first_answer.of(model)
        self.requested = instruments.requested.of(model)
        self.effective = instruments.effective.of(model)
        self.used = instruments.used.of(model)
        self.utilisation = instruments.utilisation.of(model)
        self.answer = instruments.answer.of(model)
        self.rate: Mapping[str, Distribution] = {
            "thinking": instruments.thinking_rate.of(model),
            "answer": instruments.answer_rate.of(model),
        }
        instruments.waits.begin(model)
        instruments.empty.begin(model)
        for ended_by in get_args(EndedBy):
            instruments.ended.begin(model, ended_by)
        for reason in REFUSED_END_REASONS:
            instruments.refused_ends.begin(model, reason)
        for kind in get_args(Phase):
            instruments.cut_short.begin(model, kind)


def exemplar_of(seen: Observation) -> Exemplar:
    """Only of traces that somebody keeps."""
    return {"trace_id": seen.trace.trace_id} if seen.trace is not None and seen.trace.sampled else None


def rates_of(watch: EngineWatch) -> dict[str, float]:
    """Tokens per second by phase, where there was more than one token of it and so some time."""
    rates = {}
    begin, middle, end = watch.first_thinking, watch.first_answer, watch.last_part
    if begin is not None and watch.thinking_tokens > 1:
        # Up to the answer's first token there are as many intervals as thinking tokens, else one less.
        until, intervals = (
            (middle, watch.thinking_tokens) if middle is not None else (end, watch.thinking_tokens - 1)
        )
        if until is not None and until > begin:
            rates["thinking"] = intervals / (until - begin)
    if middle is not None and end is not None and end > middle and watch.answer_tokens > 1:
        rates["answer"] = (watch.answer_tokens - 1) / (end - middle)
    return rates


def _is_first(seen: Observation) -> bool:
    """Choices share their prompt, which is counted with whichever of them ends first."""
    return sum(len(watch.choices) for watch in seen.watches) == 1


def _tokens_by_kind(choice: SettledChoice, *, first: bool) -> dict[str, int]:
    """They add up to the usage: prompt, and a choice's thinking, markers and answer."""
    if choice.usage is None:
        return {}
    completion = int(choice.usage["completion_tokens"])
    prompt = {"prompt": int(choice.usage["prompt_tokens"])} if first else {}
    receipt = choice.receipt
    if receipt is None:
        return prompt | {"uncounted": completion}
    thinking = receipt["thinking_tokens"]
    marker = receipt.get("marker_tokens", 0)
    return prompt | {"thinking": thinking, "marker": marker, "answer": completion - thinking - marker}


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
