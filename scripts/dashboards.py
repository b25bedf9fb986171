"""Write Grafana's dashboards to deploy/grafana: `python scripts/dashboards.py`. Nobody edits them by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "deploy" / "grafana"
_WIDTH, _HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_MODEL = 'model=~"$model"'
_ENGINE = 'engine=~"$engine"'


@dataclass(frozen=True)
class Panel:
    title: str
    meaning: str
    unit: str
    queries: dict[str, str]
    """Legend → PromQL."""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    maximum: float | None = None
    exemplars: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: list[Panel] = field(default_factory=list)


def quantiles(metric: str, *, by: str = "", labels: str = _MODEL) -> dict[str, str]:
    """The median, the 95th and the 99th percentile of a histogram."""
    legend = f"{{{{{by}}}}} " if by else ""
    groups = f"le, {by}" if by else "le"
    return {
        f"{legend}p{round(q * 100)}": (
            f"histogram_quantile({q}, sum by ({groups})"
            f" (rate({metric}_bucket{{{labels}}}[$__rate_interval])))"
        )
        for q in (0.5, 0.95, 0.99)
    }


def rate(metric: str, by: str, labels: str = _MODEL) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def vllm(name: str, over: str = "") -> str:
    """A metric of vLLM's, whose names no query can have as they are."""
    return f'{{__name__="vllm:{name}", {_ENGINE}}}{over}'


def vllm_rate(name: str, by: str = "engine") -> str:
    return f"sum by ({by}) (rate({vllm(name, '[$__rate_interval]')}))"


def _answered_in_time() -> str:
    """Part of the streams that had their first answer token in time, of those of which it is known."""
    first, left = "s1_time_to_first_answer_token_seconds", "s1_unanswered_stream_duration_seconds"

    def within(metric: str) -> str:
        return f'sum by (model) (rate({metric}_bucket{{le="30.0", {_MODEL}}}[$__rate_interval]))'

    known = f"({rate(f'{first}_count', 'model')} + {rate(f'{left}_count', 'model')} - {within(left)})"
    return f"{within(first)} / {known}"


def mean(metric: str, labels: str = _MODEL) -> str:
    return (
        f"sum(rate({metric}_sum{{{labels}}}[$__rate_interval]))"
        f" / sum(rate({metric}_count{{{labels}}}[$__rate_interval]))"
    )


SERVICE = [
    Row("Now", [
        Panel("Requests under way", "By how far they are.", "short",
              {"{{phase}}": f"sum by (phase) (s1_requests_in_flight{{{_MODEL}}}) or vector(0)"},
              stacked=True),
        Panel("Engines ready", "Of all the gateways know.", "short",
              {"ready": 'count(max by (engine) (s1_engine_state{state="ready"}) == 1) or vector(0)',
               "known": 'count(max by (engine) (s1_engine_state{state="ready"}))'}, kind="stat", width=4),
        Panel("Empty answers", "Under a thinking budget. Must be 0.", "short",
              {"empty": f"sum(increase(s1_empty_answers_total{{{_MODEL}}}[$__range]))"},
              kind="stat", width=4),
        Panel("Waiting for room in an engine", "The gateway's admission queue.", "short",
              {"{{model}}": f"sum by (model) (s1_queue_depth_requests{{{_MODEL}}}) or vector(0)"}),
    ]),
    Row("Requests", [
        Panel("Requests by outcome", "invalid is the client's mistake, quota its key's limit. "
              "Requests that name no model are among those of all.", "reqps",
              {"{{outcome}}": rate("s1_requests_total", "outcome")}, stacked=True),
        Panel("Requests by API", "", "reqps", {"{{api}}": rate("s1_requests_total", "api")}, stacked=True),
        Panel("Duration", "From a request's arrival to its last byte.", "s",
              quantiles("s1_request_duration_seconds"), exemplars=True),
    ]),
    Row("Latency", [
        Panel("Time to the first thinking token", "Of streams.", "s",
              quantiles("s1_time_to_first_thinking_token_seconds"), exemplars=True),
        Panel("Time to the first answer token", "Of streams.", "s",
              quantiles("s1_time_to_first_answer_token_seconds"), exemplars=True),
        Panel("Answered within 30 s", "The objective is 99 %. Streams that gave up later than that count.",
              "percentunit", {"{{model}}": _answered_in_time()}, maximum=1),
        Panel("Queue time", "From an understood request to an engine for it.", "s",
              quantiles("s1_queue_time_seconds"), exemplars=True),
        Panel("Between two events of a stream", "By default they have several tokens each.", "s",
              quantiles("s1_inter_token_latency_seconds", by="phase")),
        Panel("Token rate of a stream", "Median.", "short", {
            "thinking": quantiles("s1_thinking_rate_tokens_per_second")["p50"],
            "answer": quantiles("s1_answer_rate_tokens_per_second")["p50"]}),
    ]),
    Row("Quotas", [
        Panel("Refused by quota", "Of all models.", "reqps",
              {"{{reason}}": "sum by (reason) (rate(s1_quota_refusals_total[$__rate_interval]))"}),
        Panel("Reserved and used", "Tokens that requests reserved at worst, and what was used. "
              "Of all models.", "short", {
            "reserved {{kind}}": "sum by (kind) (rate(s1_quota_reserved_tokens_total[$__rate_interval]))",
            "used {{kind}}": "sum by (kind) (rate(s1_quota_used_tokens_total[$__rate_interval]))"}),
        Panel("Requests refused", "The client's mistake, its key, its quota, or no room.", "reqps",
              {"{{outcome}}": rate("s1_requests_total", "outcome", f'outcome!~"ok|disconnected", {_MODEL}')}),
    ]),
]  # fmt: skip

THINKING = [
    Row("Budgets", [
        Panel("What ended the thinking", "", "percentunit", {
            "{{ended_by}}": f"sum by (ended_by) (rate(s1_thinking_ended_total{{{_MODEL}}}[$__rate_interval]))"
            f" / scalar(sum(rate(s1_thinking_ended_total{{{_MODEL}}}[$__rate_interval])))"},
            stacked=True, maximum=1),
        Panel("What lowered budgets", "A choice may have been clamped by several.", "short",
              {"{{clamped_by}}": rate("s1_thinking_clamped_total", "clamped_by")}),
        Panel("Utilisation", "Part of the enforced maximum that was used.", "percentunit",
              quantiles("s1_thinking_utilisation_ratio"), maximum=1, exemplars=True),
        Panel("Requested, enforced, used", "Mean thinking tokens of a choice.", "short", {
            "requested maximum": mean("s1_thinking_requested_tokens"),
            "enforced maximum": mean("s1_thinking_effective_tokens"),
            "used": mean("s1_thinking_used_tokens")}, width=12),
        Panel("Used thinking tokens", "", "short", quantiles("s1_thinking_used_tokens"), width=12,
              exemplars=True),
    ]),
    Row("Waits", [
        Panel("Waits injected", "", "short", {"{{model}}": rate("s1_waits_injected_total", "model")}),
        Panel("Ends of thinking that were refused", "Because of num_waits, or of the minimum.", "short",
              {"{{reason}}": rate("s1_end_attempts_refused_total", "reason")}),
        Panel("Answers that were empty", "Must be 0.", "short",
              {"{{model}}": rate("s1_empty_answers_total", "model")}),
    ]),
    Row("Tokens", [
        Panel("Tokens", "As usage and receipts count them.", "short",
              {"{{kind}}": rate("s1_tokens_total", "kind")}, width=12, stacked=True),
        Panel("Branches", "Of a request with parallel scaling, on average.", "short", {
            "{{method}}":
            f"{rate('s1_parallel_branches_sum', 'method')} / {rate('s1_parallel_branches_count', 'method')}"},
            width=12),
        Panel("Cut short", "Tokens of streams that never got a receipt.", "short",
              {"{{kind}}": rate("s1_cut_short_tokens_total", "kind")}, width=12),
        Panel("Answer tokens", "Of a choice with a budget.", "short", quantiles("s1_answer_tokens"),
              width=12),
    ]),
]  # fmt: skip

ENGINES = [
    Row("As the gateway sees them", [
        Panel("State", "1: ready.", "short",
              {"{{engine}}": f'max by (engine) (s1_engine_state{{state="ready", {_ENGINE}}})'}, maximum=1),
        Panel("Enforcement", "How thinking budgets are enforced: 1 for what holds.", "short", {
            "{{engine}} {{enforcement}}":
            f"max by (engine, enforcement) (s1_engine_enforcement{{{_ENGINE}}}) == 1"}, maximum=1),
        Panel("Generations under way", "", "short",
              {"{{engine}}": f"sum by (engine) (s1_engine_outstanding_generations{{{_ENGINE}}})"}),
        Panel("Parts of streams", "0 while streams are open: it is stuck.", "short",
              {"{{engine}}": rate("s1_engine_stream_parts_total", "engine", _ENGINE)}),
        Panel("Errors", "", "short",
              {"{{engine}} {{kind}}": rate("s1_engine_errors_total", "engine, kind", _ENGINE)}),
        Panel("Retries and reconnects", "", "short", {
            "{{engine}} retries": rate("s1_engine_retries_total", "engine", _ENGINE),
            "{{engine}} reconnects": rate("s1_engine_reconnects_total", "engine", _ENGINE)}),
        Panel("KV cache: committed at worst", "Part of what it holds; over 1 if everybody used all.",
              "percentunit", {"{{engine}}": (
                  f"sum by (engine) (s1_engine_committed_tokens{{{_ENGINE}}})"
                  f" / max by (engine) (s1_engine_kv_cache_tokens{{{_ENGINE}}})")}, width=12),
        Panel("Open streams", "", "short",
              {"{{engine}}": f"sum by (engine) (s1_engine_open_streams{{{_ENGINE}}})"}, width=12),
    ]),
    Row("vLLM's own", [
        Panel("Requests", "", "short", {
            "{{engine}} running": f"sum by (engine) ({vllm('num_requests_running')})",
            "{{engine}} waiting": f"sum by (engine) ({vllm('num_requests_waiting')})"}),
        Panel("KV cache in use", "", "percentunit",
              {"{{engine}}": f"max by (engine) ({vllm('kv_cache_usage_perc')})"}, maximum=1),
        Panel("Tokens", "", "short", {
            "{{engine}} generated": vllm_rate("generation_tokens_total"),
            "{{engine}} prompt": vllm_rate("prompt_tokens_total")}),
        Panel("Time to first token", "Inside the engine.", "s", {
            f"{{{{engine}}}} p{round(q * 100)}":
            f"histogram_quantile({q}, {vllm_rate('time_to_first_token_seconds_bucket', 'le, engine')})"
            for q in (0.5, 0.95)}),
        Panel("Preemptions", "", "short", {"{{engine}}": vllm_rate("num_preemptions_total")}),
        Panel("Prefix cache hits", "Part of the prompt tokens that were looked up.", "percentunit", {
            "{{engine}}":
            f"{vllm_rate('prefix_cache_hits_total')} / {vllm_rate('prefix_cache_queries_total')}"},
            maximum=1),
    ]),
]  # fmt: skip

DASHBOARDS = {
    "s1-service": ("s1: service", SERVICE),
    "s1-thinking": ("s1: thinking", THINKING),
    "s1-engines": ("s1: engines", ENGINES),
}


def dashboard(uid: str, title: str, rows: list[Row]) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "tags": ["s1-server"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["s1-server"], "title": "s1-server", "asDropdown": False}],
        "templating": {"list": _variables(rows)},
        "panels": list(_panels(rows)),
    }


def _variables(rows: list[Row]) -> list[dict[str, Any]]:
    """The source, and what the queries ask for."""
    asked = " ".join(query for row in rows for panel in row.panels for query in panel.queries.values())
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    ]
    for name, metric in (("model", "s1_tokens_total"), ("engine", "s1_engine_state")):
        if f"${name}" not in asked:
            continue
        query = f"label_values({metric}, {name})"
        variables.append({
            "name": name, "label": name, "type": "query", "datasource": _SOURCE, "refresh": 2,
            "definition": query, "query": {"query": query, "refId": name}, "sort": 1,
            "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        })  # fmt: skip
    return variables


def _panels(rows: list[Row]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        at = {"h": 1, "w": _WIDTH, "x": 0, "y": y}
        made.append({"id": len(made) + 1, "type": "row", "title": row.title, "gridPos": at, "panels": []})
        y, x = y + 1, 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                y, x = y + _HEIGHT, 0
            made.append(_panel(panel, id=len(made) + 1, x=x, y=y))
            x += panel.width
        y += _HEIGHT
    return made


def _panel(panel: Panel, *, id: int, x: int, y: int) -> dict[str, Any]:
    custom = {"fillOpacity": 20 if panel.stacked else 5, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal"}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["custom"] = custom
    legend = {"legend": {"displayMode": "list", "placement": "bottom"}}
    return {
        "id": id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": legend if panel.kind == "timeseries" else {},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend,
             "exemplar": panel.exemplars}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }  # fmt: skip


def written() -> dict[str, str]:
    """File names and contents."""
    return {
        f"{uid}.json": json.dumps(dashboard(uid, title, rows), indent=1, ensure_ascii=False) + "\n"
        for uid, (title, rows) in DASHBOARDS.items()
    }


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in written().items():
        (OUT / name).write_text(text)
        sys.stdout.write(f"{OUT / name}\n")


if __name__ == "__main__":
    main()
