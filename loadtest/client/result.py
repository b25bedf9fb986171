"""The result of a load test as JSON, and in a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.client.compare import Ratio
from loadtest.client.find_max import Trial, about_trials, highest
from loadtest.client.fleet import Load, Run
from loadtest.client.slo import Slo
from loadtest.client.summary import summarize

_MOST_TOKENS_APART = 0.01
_MOST_DRAIN = 0.1
"""Part of the window from which a report says that answers were waited for after it."""


def result(
    runs: Mapping[str, Sequence[Run]],
    *,
    provenance: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
    load: Load,
    slos: Sequence[Slo],
    ratios: Mapping[str, Ratio] | None = None,
    trials: Sequence[Trial] = (),
    engines_counted: Mapping[str, float] | None = None,
    stopped: bool = False,
) -> dict[str, Any]:
    """
    Args:
        runs: by what the figures are to be called; of several runs, the median one by tokens per second.
        stopped: somebody stopped the measurement before its end.
    """
    found: dict[str, Any] = {
        "provenance": dict(provenance),
        "target": dict(targets[0]),
        "load": _load(load),
        "slos": [f"{slo.measure}={slo.most:g}" for slo in slos],
    }
    if len(targets) > 1:
        found["target_b"] = dict(targets[1])
    middle = {name: _middle(several, slos) for name, several in runs.items()}
    found["figures"] = {name: summarize(run, slos) for name, run in middle.items()}
    found["client"] = {name: run.client for name, run in middle.items()}
    if ratios is not None:
        found["ratios"] = {name: ratio.as_json() for name, ratio in ratios.items()}
    if trials:
        best = highest(trials)
        found["highest_rate"] = None if best.trial is None else best.trial.rate
        found["highest_rate_is_at_least"] = best.at_least
        found["trials"] = [_trial(trial) for trial in trials]
    if engines_counted is not None:
        found["engines_counted"] = _agreement(found["figures"], engines_counted)
    every = [run for several in runs.values() for run in several]
    found["warnings"] = about_trials(trials, slos) if trials else _client_limits(every)
    found["warnings"] += _warnings(found)
    if stopped:
        found["interrupted"] = True
        left = sum(run.left_open or 0 for run in every)
        found["warnings"].insert(
            0, f"Interrupted: this is what came until then. {left} open requests left out."
        )
    return found


def _middle(runs: Sequence[Run], slos: Sequence[Slo]) -> Run:
    ordered = sorted(runs, key=lambda run: sum(r.tokens_in_window for r in run.records) / run.window_s)
    return ordered[len(ordered) // 2]


def _load(load: Load) -> dict[str, Any]:
    shape = {"concurrency": load.concurrency} if load.concurrency else {"rate": load.rate}
    return {
        "loop": "closed" if load.concurrency else f"open, {load.arrivals}",
        **shape,
        "duration_s": load.duration_s,
        "warmup_s": load.warmup_s,
        "seed": load.seed,
        "workload": load.workload.model_dump(mode="json", exclude_none=True),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "rate": trial.rate,
        "good_part": round(trial.good_part, 4),
        "held": None if trial.verdict == "unknown" else trial.verdict == "held",
        "latency_growth": None if trial.growth is None else round(trial.growth, 4),
        "client_limits": trial.run.client_limits,
    }


def _agreement(figures: Mapping[str, Any], engines: Mapping[str, float]) -> dict[str, Any]:
    """The engines' counts beside ours; only whole if nobody else used them."""
    tokens = next(iter(figures.values()))["all"]["tokens"]
    own = {"prompt": tokens["prompt"], "generation": tokens["completion"]}
    return {
        kind: {
            "engines": engines[kind],
            "client": own[kind],
            "apart": round(abs(own[kind] - engines[kind]) / engines[kind], 5) if engines[kind] else None,
        }
        for kind in own
    }


def _client_limits(runs: Sequence[Run]) -> list[str]:
    return sorted({f"The client was the limit: {limit}." for run in runs for limit in run.client_limits})


def _warnings(found: Mapping[str, Any]) -> list[str]:
    warnings = []
    for name, classes in found["figures"].items():
        whole = classes["all"]
        if whole["drain_s"] > _MOST_DRAIN * whole["window_s"]:
            warnings.append(
                f"{name}: the last answer ended {whole['drain_s']:.1f} s after the {whole['window_s']:g} s "
                "in which rates are counted; latencies include it."
            )
        if whole["budget_violations"]:
            warnings.append(f"{name}: budgets were broken: {whole['budget_violations']}.")
        sources = set(whole["counted_from"]) - {"token ids"}
        if sources:
            warnings.append(
                f"{name}: tokens of some answers were counted from {', '.join(sorted(sources))}, "
                "not from token ids."
            )
    for kind, both in found.get("engines_counted", {}).items():
        if both["apart"] is not None and both["apart"] > _MOST_TOKENS_APART:
            warnings.append(
                f"The engines counted {both['engines']:g} {kind} tokens, the client {both['client']}."
            )
    return warnings
