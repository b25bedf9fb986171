"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtest.client.fleet import Run
from loadtest.client.plots import Points, line_plot

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
body{color:#222;background:#fff}
h1,h2,.warn{overflow-wrap:anywhere}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}code,pre{font-size:.85rem}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}pre{background:#f5f5f5;padding:.8rem}pre,.scroll{overflow-x:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1rem}
svg text{font-size:11px}.axis{stroke:#999;fill:none}.warn{background:#fdecea;padding:.5rem .9rem}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}.warn{background:#4a2320}
td,th{border-color:#444}}
"""
_LATENCIES = {
    "time_to_first_token_ms": "time to first token",
    "time_to_first_thinking_ms": "time to first thinking token",
    "time_to_first_answer_ms": "time to first answer token",
    "between_updates_ms": "between updates",
    "end_to_end_ms": "end to end",
}
_UNIT = 1000
_BINS = 60


def page(result: Mapping[str, Any], runs: Sequence[tuple[str, Run]]) -> str:
    """
    Args:
        result: what the JSON file holds.
        runs: to draw over time, each with its name.
    """
    parts = [f"<h1>Load test of {escape(str(result['target']['url']))}</h1>", _warnings(result)]
    if "ratios" in result:
        parts.append(_ratios(result))
    if "trials" in result:
        parts.append(_trials(result))
    for name, classes in result["figures"].items():
        parts += [f"<h2>{escape(name)}</h2>", _counts(classes), *_messages(classes), _latencies(classes)]
    parts += ["<h2>Distributions</h2>", '<div class="plots">', *_distributions(result), "</div>"]
    parts += ["<h2>Over time</h2>", '<div class="plots">', *_over_time(runs), "</div>"]
    shown = {name: result[name] for name in ("provenance", "target", "load", "client") if name in result}
    parts += ["<h2>Where this comes from</h2>", f"<pre>{escape(json.dumps(shown, indent=1))}</pre>"]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>s1 loadtest</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _warnings(result: Mapping[str, Any]) -> str:
    return "".join(f'<p class="warn">{escape(text)}</p>' for text in result["warnings"])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def row(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(_shown(cell))}</{tag}>" for cell in cells) + "</tr>"

    table = f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
    return f'<div class="scroll">{table}</div>'


def _shown(cell: object) -> str:
    if cell is None or cell == {}:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.3f}".rstrip("0").rstrip(".")
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, Mapping):
        return ", ".join(f"{name}: {value}" for name, value in cell.items())
    return str(cell)


def _counts(classes: Mapping[str, Any]) -> str:
    head = [
        "class",
        "requests",
        "per s",
        "good per s",
        "good part",
        "thinking tok/s",
        "tok/s",
        "updates/s",
        "errors",
        "budget violations",
        "empty answers",
        "receipts",
    ]
    rows = [
        [
            name,
            found["requests"],
            found["requests_per_s"],
            found["goodput_per_s"],
            found["good_part"],
            found["tokens"]["thinking_per_s"],
            found["tokens"]["completion_per_s"],
            found["updates_per_s"],
            found["errors"],
            found["budget_violations"],
            found["empty_answers"],
            found["receipts"],
        ]
        for name, found in classes.items()
    ]
    return _table(head, rows)


def _messages(classes: Mapping[str, Any]) -> list[str]:
    messages = classes["all"]["error_messages"]
    return [_table(["error", "what was said of the first"], list(messages.items()))] if messages else []


def _latencies(classes: Mapping[str, Any]) -> str:
    columns = ["count", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"]
    rows = [
        [f"{name}: {text}", *(found[key].get(column) for column in columns)]
        for name, found in classes.items()
        for key, text in _LATENCIES.items()
        if found[key]["count"]
    ]
    return _table(["milliseconds", *columns], rows)


def _ratios(result: Mapping[str, Any]) -> str:
    rows = [
        [name, ratio["median"], f"{ratio['interval'][0]:.3f} to {ratio['interval'][1]:.3f}"]
        for name, ratio in result["ratios"].items()
    ]
    title = f"<h2>A ({escape(result['target']['url'])}) over B ({escape(result['target_b']['url'])})</h2>"
    return title + _table(
        ["figure", "median of the rounds' ratios", "95 % t interval of the log ratios"], rows
    )


def _trials(result: Mapping[str, Any]) -> str:
    rows = [
        [
            trial["rate"],
            trial["good_part"],
            "unknown" if trial["held"] is None else trial["held"],
            trial["latency_growth"],
            "; ".join(trial["client_limits"]),
        ]
        for trial in result["trials"]
    ]
    found = result["highest_rate"]
    at_least = "at least " if result["highest_rate_is_at_least"] and found is not None else ""
    title = f"<h2>Highest rate within the service levels: {at_least}{_shown(found)} requests per second</h2>"
    return title + _table(["rate", "good part", "held", "latency growth, s/s", "the client"], rows)


def _distributions(result: Mapping[str, Any]) -> list[str]:
    plots = []
    for key, text in _LATENCIES.items():
        series = {
            name if kind == "all" else f"{name} {kind}": _cumulative(found[key])
            for name, classes in result["figures"].items()
            for kind, found in classes.items()
        }
        if any(series.values()):
            plots.append(line_plot(series, x="ms (log)", y=f"{text}: part within", log_x=True))
    return plots


def _cumulative(shown: Mapping[str, Any]) -> Points:
    if not shown["count"]:
        return []
    found = HdrHistogram.decode(shown["hdr"])
    percentiles = [*range(1, 100), 99.5, 99.9, 100]
    return [(found.get_value_at_percentile(p) / _UNIT, p / 100) for p in percentiles]


def _over_time(runs: Sequence[tuple[str, Run]]) -> list[str]:
    tokens, first, errors = {}, {}, {}
    for name, run in runs:
        width = max(run.window_s / _BINS, 1e-3)
        bins: dict[int, list[Any]] = {}
        for record in run.records:
            bins.setdefault(int((record.intended - run.began_s) / width), []).append(record)
        tokens[name] = [
            (b * width, sum(r.completion_tokens for r in found) / width) for b, found in sorted(bins.items())
        ]
        errors[name] = [
            (b * width, float(sum(r.error is not None for r in found))) for b, found in sorted(bins.items())
        ]
        firsts = {
            b: [(r.first - r.intended) * 1000 for r in found if r.first] for b, found in sorted(bins.items())
        }
        first[name] = [(b * width, sum(v) / len(v)) for b, v in firsts.items() if v]
    return [
        line_plot(tokens, x="s, by intended start", y="tokens asked for per second"),
        line_plot(first, x="s, by intended start", y="mean time to first token, ms"),
        line_plot(errors, x="s, by intended start", y="errors"),
    ]
