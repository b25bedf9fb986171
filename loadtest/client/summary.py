"""From records to the figures of a run: per class, and of all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loadtest.client.fleet import Run
from loadtest.client.record import Record
from loadtest.client.slo import MEASURES, Slo, is_good
from loadtest.client.worker import LONGEST_US, histogram

PERCENTILES = (50, 90, 95, 99, 99.9)
_UNITS_PER_MS = 1000


def summarize(run: Run, slos: Sequence[Slo]) -> dict[str, Any]:
    """All classes together under `all`, then each by its name."""
    kinds = run.load.workload.classes
    found = {"all": _figures(run, run.records, _added(run.gaps.values()), slos)}
    if len(kinds) > 1:
        for number, kind in enumerate(kinds):
            own = [record for record in run.records if record.kind == number]
            found[kind.name] = _figures(run, own, run.gaps.get(number, histogram()), slos)
    return found


def _figures(run: Run, records: Sequence[Record], gaps: Any, slos: Sequence[Slo]) -> dict[str, Any]:
    whole = [record for record in records if record.error is None]
    seconds = run.measured_s
    return {
        "requests": len(records),
        "succeeded": len(whole),
        "requests_per_s": round(len(whole) / seconds, 3),
        "goodput_per_s": round(sum(is_good(record, slos) for record in records) / seconds, 3),
        "good_part": _part(sum(is_good(record, slos) for record in records), len(records)),
        "errors": dict(Counter(record.error for record in records if record.error)),
        "budget_violations": dict(Counter(r.violation for r in whole if r.violation)),
        "empty_answers": sum(record.empty for record in whole),
        "receipts": dict(Counter(r.receipt for r in whole if r.receipt)),
        "counted_from": dict(Counter(r.counted_from for r in whole)),
        "tokens": _tokens(whole, seconds),
        "updates_per_s": round(sum(record.updates for record in records) / seconds, 1),
        "time_to_first_token_ms": _percentiles(_of(whole, MEASURES["ttft_ms"])),
        "time_to_first_thinking_ms": _percentiles(_of(whole, _first_thinking_ms)),
        "time_to_first_answer_ms": _percentiles(_of(whole, MEASURES["first_answer_ms"])),
        "end_to_end_ms": _percentiles(_of(whole, MEASURES["e2e_ms"])),
        "between_updates_ms": _shown(gaps),
        "thinking_tokens_per_s_of_a_stream": _percentiles(_of(whole, _thinking_rate), unit=1000),
        "answer_tokens_per_s_of_a_stream": _percentiles(_of(whole, _answer_rate), unit=1000),
    }


def _tokens(whole: Sequence[Record], seconds: float) -> dict[str, Any]:
    thinking = sum(record.thinking_tokens for record in whole)
    completion = sum(record.completion_tokens for record in whole)
    return {
        "prompt": sum(record.prompt_tokens for record in whole),
        "thinking": thinking,
        "answer": completion - thinking,
        "completion": completion,
        "completion_per_s": round(completion / seconds, 1),
        "thinking_per_s": round(thinking / seconds, 1),
    }


def _of(records: Iterable[Record], measure: Callable[[Record], float | None]) -> list[float]:
    return [value for record in records if (value := measure(record)) is not None]


def _first_thinking_ms(record: Record) -> float | None:
    return None if record.first_thinking is None else (record.first_thinking - record.intended) * 1000


def _thinking_rate(record: Record) -> float | None:
    if record.first_thinking is None or record.first_answer is None:
        return None
    return _rate(record.thinking_tokens - 1, record.first_answer - record.first_thinking)


def _answer_rate(record: Record) -> float | None:
    if record.first_answer is None:
        return None
    return _rate(record.answer_tokens - 1, record.ended - record.first_answer)


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def _percentiles(values: Sequence[float], *, unit: int = _UNITS_PER_MS) -> dict[str, Any]:
    found = histogram()
    for value in values:
        found.record_value(min(LONGEST_US, max(1, round(value * unit))))
    return _shown(found, unit=unit)


def _shown(found: Any, *, unit: int = _UNITS_PER_MS) -> dict[str, Any]:
    """Percentiles to three digits, and the whole histogram in HDR's own encoding (of unit⁻¹)."""
    count = int(found.get_total_count())
    if not count:
        return {"count": 0}
    shown: dict[str, Any] = {"count": count, "mean": round(found.get_mean_value() / unit, 4)}
    for percentile in PERCENTILES:
        shown[f"p{percentile:g}"] = round(found.get_value_at_percentile(percentile) / unit, 4)
    shown["max"] = round(found.get_max_value() / unit, 4)
    shown["hdr"] = found.encode().decode()
    return shown


def _added(histograms: Iterable[Any]) -> Any:
    total = histogram()
    for one in histograms:
        total.add(one)
    return total


def _part(some: int, all: int) -> float | None:
    return round(some / all, 5) if all else None
