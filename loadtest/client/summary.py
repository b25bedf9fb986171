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
    found = {"all": _figures(run, None, _added(run.gaps.values()), slos)}
    if len(kinds) > 1:
        for number, kind in enumerate(kinds):
            found[kind.name] = _figures(run, number, run.gaps.get(number, histogram()), slos)
    return found


def _figures(run: Run, kind: int | None, gaps: Any, slos: Sequence[Slo]) -> dict[str, Any]:
    """Rates are of the window; all else is of the requests meant to start in it, whenever they ended."""
    records = [record for record in run.records if kind in (None, record.kind)]
    whole = [record for record in records if record.error is None]
    early = [record for record in run.early if kind in (None, record.kind)]
    ended = [record for record in (*early, *records) if run.ended_in_window(record)]
    good = sum(is_good(record, slos) for record in records)
    return {
        "window_s": round(run.window_s, 3),
        "drain_s": round(run.drain_s, 3),
        "requests": len(records),
        "succeeded": len(whole),
        "ended_in_window": len(ended),
        "requests_per_s": round(sum(record.error is None for record in ended) / run.window_s, 3),
        "goodput_per_s": round(sum(is_good(record, slos) for record in ended) / run.window_s, 3),
        "good_part": _part(good, len(records)),
        "errors": dict(Counter(record.error for record in records if record.error)),
        "error_messages": _messages(records),
        "budget_violations": dict(Counter(r.violation for r in whole if r.violation)),
        "empty_answers": sum(record.empty for record in whole),
        "receipts": dict(Counter(r.receipt for r in whole if r.receipt)),
        "counted_from": dict(Counter(r.counted_from for r in whole)),
        "tokens": _tokens(whole) | _token_rates([*early, *records], run.window_s),
        "updates_per_s": round(sum(r.updates_in_window for r in (*early, *records)) / run.window_s, 1),
        "time_to_first_token_ms": _percentiles(_of(whole, MEASURES["ttft_ms"])),
        "time_to_first_thinking_ms": _percentiles(_of(whole, _first_thinking_ms)),
        "time_to_first_answer_ms": _percentiles(_of(whole, MEASURES["first_answer_ms"])),
        "end_to_end_ms": _percentiles(_of(whole, MEASURES["e2e_ms"])),
        "between_updates_ms": _shown(gaps),
        "thinking_tokens_per_s_of_a_stream": _percentiles(
            _of(whole, lambda record: record.thinking_tokens_per_s), unit=1000
        ),
        "answer_tokens_per_s_of_a_stream": _percentiles(
            _of(whole, lambda record: record.answer_tokens_per_s), unit=1000
        ),
    }


def _messages(records: Sequence[Record]) -> dict[str, str]:
    """The first that came with each kind of error."""
    found: dict[str, str] = {}
    for record in records:
        if record.error is not None and record.message is not None:
            found.setdefault(record.error, record.message)
    return found


def _tokens(whole: Sequence[Record]) -> dict[str, Any]:
    return {
        "prompt": sum(record.prompt_tokens for record in whole),
        "thinking": sum(record.thinking_tokens for record in whole),
        "markers": sum(record.marker_tokens for record in whole),
        "answer": sum(record.answer_tokens for record in whole),
        "completion": sum(record.completion_tokens for record in whole),
    }


def _token_rates(records: Sequence[Record], window_s: float) -> dict[str, float]:
    whole = [record for record in records if record.error is None]
    return {
        "completion_per_s": round(sum(record.tokens_in_window for record in whole) / window_s, 1),
        "thinking_per_s": round(sum(record.thinking_in_window for record in whole) / window_s, 1),
    }


def _of(records: Iterable[Record], measure: Callable[[Record], float | None]) -> list[float]:
    return [value for record in records if (value := measure(record)) is not None]


def _first_thinking_ms(record: Record) -> float | None:
    return None if record.first_thinking is None else (record.first_thinking - record.intended) * 1000


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
