"""The load generator: what it asks is seeded, what it counts is exact, and lateness is never hidden."""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
from rich.console import Console

from loadtest import cli
from loadtest.client.arrivals import ArrivalsError, Planned, planned
from loadtest.client.asking import Dialect
from loadtest.client.compare import Ratio, student_t
from loadtest.client.counting import Counts, Markers, Seen, count, receipt_differs, violation
from loadtest.client.draws import Draw, DrawError
from loadtest.client.fleet import Fleet, Load, fleet
from loadtest.client.plots import line_plot
from loadtest.client.record import Record
from loadtest.client.session import Plan, SessionError, run_session
from loadtest.client.slo import Slo, SloError, is_good
from loadtest.client.workload import Workload, WorkloadError, built_in, read_workload
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script

MARKERS = Markers(start=(1, 2), end=(1, 3))


@pytest.fixture(scope="module")
def workers() -> Iterator[Fleet]:
    with fleet(2) as started:
        yield started


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(Options(Script(thinking=20, answer=8))) as urls:
        yield urls[0]


def quiet() -> Console:
    return Console(quiet=True)


@pytest.mark.parametrize("given", ["fixed:7", "7", 7])
def test_fixed_lengths(given: object) -> None:
    assert Draw.read(given)(random.Random(0)) == 7


def test_lognormal_lengths_keep_their_median_and_limits() -> None:
    draw, rng = Draw.read("lognormal:100:0.5:20:400"), random.Random(0)
    drawn = sorted(draw(rng) for _ in range(2000))
    assert 90 <= drawn[1000] <= 110
    assert drawn[0] >= 20
    assert drawn[-1] <= 400


@pytest.mark.parametrize(
    "given", ["", "gauss:3:4", "fixed:-1", "uniform:5:2", "lognormal:0:1", "fixed:nan", None]
)
def test_a_length_that_cannot_be_read_is_refused(given: object) -> None:
    with pytest.raises(DrawError, match="Given"):
        Draw.read(given)


def test_requests_do_not_depend_on_who_asks_them() -> None:
    mixed = read_workload("mixed")
    forwards = [mixed.request(i, seed=3, overrides={}) for i in range(50)]
    backwards = [mixed.request(i, seed=3, overrides={}) for i in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [mixed.request(i, seed=4, overrides={}) for i in range(50)]
    assert {asked.kind.name for asked in forwards} == {"chat", "think", "long"}
    for asked in forwards:
        assert asked.budget.get("min_thinking_tokens", 0) <= asked.budget["max_thinking_tokens"]


@pytest.mark.parametrize("name", built_in())
def test_built_in_workloads_can_be_read(name: str) -> None:
    assert read_workload(name).classes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: []", "classes"),
        ("classes: [{nme: x}]", "nme"),
        ("classes: [{prompt_words: -4}]", "-4"),
        ("classes: [{}, {weight: 2}]", "names of their own, none of them `all`"),
        ("classes: [{name: a}, {name: a}]", "names of their own"),
        ("classes: [{name: a, extra: {n: 2}}]", "`n` in extra must be 1.*Given: {'n': 2}"),
        ("classes: [{name: a, extra: {parallel: {width: 2}}}]", "`parallel` in extra"),
        ("classes: [{name: a, extra: {stream: true}}]", "`stream` in extra"),
    ],
)
def test_a_workload_with_a_mistake_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "load.yaml"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=said):
        read_workload(str(path))


def test_gamma_arrivals_are_burstier_than_poisson_at_the_same_rate() -> None:
    def variation(arrivals: str) -> float:
        times = [p.at_s for p in planned(arrivals, rate=50, duration_s=100, seed=1)]
        assert 4500 < len(times) < 5500
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        return pstdev(gaps) / mean(gaps)

    assert variation("constant") < 0.01
    assert 0.9 < variation("poisson") < 1.1
    assert variation("gamma:0.25") > 1.7


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 2, "class": "long"}\n{"at_s": 1, "max_thinking_tokens": 7}\n{"at_s": 9}\n')
    plan = planned(f"trace:{path}", rate=None, duration_s=5, seed=0)
    assert plan == [Planned(0, 1.0, {"max_thinking_tokens": 7}), Planned(1, 2.0, {"class": "long"})]
    asked = read_workload("mixed").request(0, seed=0, overrides=plan[0].overrides)
    assert asked.budget["max_thinking_tokens"] == 7
    path.write_text('{"at_s": 2, "clas": "long"}\n')
    with pytest.raises(ArrivalsError, match="clas"):
        planned(f"trace:{path}", rate=None, duration_s=5, seed=0)


@pytest.mark.parametrize("arrivals", ["gamma:0", "gamma", "burst", "poisson:2"])
def test_unknown_arrivals_are_refused(arrivals: str) -> None:
    with pytest.raises(ArrivalsError, match="Given"):
        planned(arrivals, rate=1, duration_s=1, seed=0)


def test_thinking_is_counted_from_token_ids() -> None:
    usage = {"completion_tokens": 99, "completion_tokens_details": {"reasoning_tokens": 98}}
    found = count([5, 5, 1, 5, 1, 3, 9], usage, MARKERS, seen=Seen())
    assert found == Counts(4, 7, "token ids", markers=2)
    assert count([1, 2, 5, 1, 3, 9], usage, MARKERS, seen=Seen()).thinking == 1
    assert count([5, 5], usage, MARKERS, seen=Seen()).thinking == 2
    assert count([], usage, MARKERS, seen=Seen()) == Counts(98, 99, "usage")
    bare = count([5, 5], usage, MARKERS, seen=Seen(answer=2, updates=2))
    assert (bare.thinking, bare.source) == (0, "token ids")
    assert count([5, 5], usage, MARKERS, seen=Seen(thinking=2, updates=2)).thinking == 2
    both = count([5, 5], usage, MARKERS, seen=Seen(thinking=1, answer=1, updates=2))
    assert both == Counts(98, 99, "usage")
    assert count([5], None, Markers(), seen=Seen(thinking=3, updates=4)) == Counts(3, 4, "updates")


def test_budget_violations() -> None:
    def broken(thinking: int, receipt: dict[str, Any] | None = None, finish: str = "stop") -> str | None:
        budget = {"max_thinking_tokens": 8, "min_thinking_tokens": 4}
        counts = Counts(thinking, 20, "token ids")
        return violation(counts, budget, finish_reason=finish, receipt=receipt)

    assert broken(8) is None
    assert broken(9) == "max_thinking_tokens"
    assert broken(4) is None
    assert broken(3) == "min_thinking_tokens"
    assert broken(3, finish="length") is None
    assert broken(3, {"effective": {"min": 3}}) is None
    assert broken(9, {"effective": {"min": 3, "max": 20}}) == "max_thinking_tokens"


def test_a_receipt_is_held_to_the_token_ids() -> None:
    counts, usage = Counts(4, 7, "token ids"), {"completion_tokens": 7}
    good = {"thinking_tokens": 4, "marker_tokens": 2, "answer_tokens": 1}
    assert receipt_differs(counts, good, usage) is None
    assert receipt_differs(counts, good | {"thinking_tokens": 5}, usage) == "thinking_tokens"
    assert receipt_differs(counts, good | {"answer_tokens": 2}, usage) == "sum"
    assert receipt_differs(counts, good, {"completion_tokens": 8}) == "completion_tokens"
    details = {"completion_tokens_details": {"reasoning_tokens": 3}}
    assert receipt_differs(counts, good, usage | details) == "reasoning_tokens"


def test_goodput_counts_from_the_intended_start() -> None:
    record = Record(0, intended=1.0, started=3.0, first_thinking=3.1, first_answer=3.5, ended=4.0)
    assert is_good(record, [Slo.read("ttft_ms=2200")])
    assert not is_good(record, [Slo.read("ttft_ms=2000")])
    assert not is_good(replace(record, empty=True), [])
    assert not is_good(replace(record, violation="max_thinking_tokens"), [])
    with pytest.raises(SloError):
        Slo.read("latency=3")


def test_a_ratio_has_an_interval_around_its_median() -> None:
    ratio = Ratio.of([1.9, 2.0, 2.1, 2.0, 2.2])
    assert ratio.low <= ratio.median == 2.0 <= ratio.high
    assert Ratio.of([2.0] * 5).low == 2.0
    for rounds in (5, 100):
        outliers = Ratio.of([2.0] * (rounds - 2) + [0.01] * 2)
        assert outliers.low <= outliers.median == 2.0 <= outliers.high


@pytest.mark.parametrize("rounds", [2, 3, 5, 9, 15, 40])
def test_an_interval_holds_the_ratio_as_often_as_it_says(rounds: int) -> None:
    rng, comparisons = random.Random(rounds), 4000
    found = [Ratio.of([rng.lognormvariate(0.1, 0.2) for _ in range(rounds)]) for _ in range(comparisons)]
    held = sum(ratio.low <= math.exp(0.1) <= ratio.high for ratio in found) / comparisons
    # Three standard deviations of such a count. Between two of many rounds it is a little wider than it says.
    assert -1 < (held - 0.95) / (3 * (0.95 * 0.05 / comparisons) ** 0.5) < (1 if rounds < 20 else 2)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (10, 2.2281), (11, 2.2010), (39, 2.0227)])
def test_quantiles_are_students(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=2e-4)


def test_a_run_agrees_with_the_engine_and_writes_its_report(url: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    plan = Plan(
        url=url,
        command="s1 loadtest",
        concurrency=8,
        duration_s=0.5,
        engine_metrics=(url,),
        output=output,
        budget_fields="none",
        processes=2,
    )
    found = run_session(plan, quiet())
    figures = found["figures"]["run"]["all"]
    assert figures["errors"] == {}
    assert figures["counted_from"] == {"token ids": figures["requests"]}
    assert figures["tokens"]["thinking"] == 20 * figures["requests"]
    assert figures["tokens"]["completion"] == (20 + 2 + 8) * figures["requests"]
    for both in found["engines_counted"].values():
        assert both["client"] == both["engines"] > 0
    written = json.loads(output.read_text())
    assert written["figures"] == found["figures"]
    html = output.with_suffix(".html").read_text()
    assert html.count("<table") == html.count('<div class="scroll"><table') > 0
    assert 'name="viewport"' in html
    assert "<svg" in html
    assert "http://www" not in html
    assert "<script" not in html


def test_a_plots_title_lies_above_all_lines() -> None:
    drawn = line_plot({"run": [(0.0, 5.0), (1.0, 5.0)]}, x="s", y="tokens")
    title = re.search(r'<text x="[0-9.]+" y="([0-9.]+)"[^>]*>tokens<', drawn)
    line = re.search(r'<polyline points="[0-9.]+,([0-9.]+) ', drawn)
    assert title and line and float(title[1]) + 8 <= float(line[1])


def test_a_server_that_ignores_budgets_is_caught(url: str) -> None:
    plan = Plan(url=url, command="", concurrency=4, duration_s=0.3, processes=1, workload="short")
    kind = read_workload("short").classes[0]
    assert kind.max_thinking_tokens is not None
    with running(Options(Script(thinking=40))) as urls:
        found = run_session(replace(plan, url=urls[0]), quiet())
    figures = found["figures"]["run"]["all"]
    assert figures["budget_violations"] == {"max_thinking_tokens": figures["requests"]}
    assert figures["goodput_per_s"] == 0
    assert any("budgets were broken" in warning for warning in found["warnings"])


def test_errors_are_told_by_kind(workers: Fleet) -> None:
    faults = {"refuse": 0.3, "die": 0.3, "end_early": 0.2, "error": 0.2}
    load = Load(read_workload("short"), duration_s=0.3, concurrency=8)
    with running(Options(faults=faults)) as urls:
        run = workers.run(urls[0], dialect(), load)
    kinds = {record.error for record in run.records}
    assert {"HTTP 503", "no [DONE]", "error event"} < kinds
    assert kinds & {"cut", "ConnectionResetError"}
    assert None not in kinds


def test_requests_that_start_late_are_late_from_their_intended_start(workers: Fleet) -> None:
    """Against a server that answers one request after another the queue shows in every latency."""
    load = Load(read_workload("short"), duration_s=0.5, arrivals="constant", rate=100)
    with running(Options(ttft_s=0.2)) as urls:
        run = workers.run(urls[0], dialect(), load)
    assert len(run.records) == 49
    first = run.records[0].intended
    assert all(abs(r.intended - first - i * 0.01) < 0.0021 for i, r in enumerate(run.records))
    assert all(record.started >= record.intended for record in run.records)
    assert all(record.first is not None and record.first - record.intended >= 0.19 for record in run.records)
    assert sum(found.get_total_count() for found in run.gaps.values()) == sum(
        r.updates - 1 for r in run.records
    )


def test_a_warm_up_is_asked_but_not_counted(workers: Fleet, url: str) -> None:
    load = Load(read_workload("short"), duration_s=0.5, warmup_s=0.245, arrivals="constant", rate=100)
    before = time.monotonic()
    run = workers.run(url, dialect(), load)
    assert len(run.records) == 25
    assert run.began_s >= before + 0.245


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--rate"),
        ({"rate": 1.0, "concurrency": 2}, "--rate"),
        ({"find_max": True}, "--slo"),
        ({"rate": 1.0, "budget_fields": "mine"}, "--budget-fields"),
        ({"rate": 1.0, "warmup_s": 30.0}, "--warmup-s"),
        ({"rate": 1.0, "family": "x"}, "--family"),
        ({"rate": 1.0, "slos": ("speed=3",)}, "--slo"),
        ({"rate": 1.0, "workload": "none-such"}, "none-such"),
        ({"rate": 1.0, "url": "ftp://x"}, "http"),
        ({"rate": 1.0, "arrivals": "trace:x.jsonl"}, "trace:x.jsonl"),
        ({"find_max": True, "slos": ("ttft=1",), "arrivals": "trace:x.jsonl"}, "--find-max"),
        ({"concurrency": 2, "arrivals": "constant"}, "--concurrency. Given: constant"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SessionError, match=said):
        run_session(Plan(**{"url": "http://127.0.0.1:9", "command": "", **options}), quiet())


@pytest.mark.parametrize("given", [["--api-key", "sk-secret"], ["--api-key=sk-secret"]])
def test_a_key_is_in_no_result(monkeypatch: pytest.MonkeyPatch, given: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["loadtest", "http://x", *given, "--rate", "4"])
    command = cli._command()
    assert "sk-secret" not in command
    assert command.startswith("s1 http://x --api-key") and command.endswith("--rate 4")


def dialect() -> Dialect:
    return Dialect("stand-in", "ours", True, Markers(start=(1, 2), end=(1, 3)), None, 30)


def test_a_workload_of_one_class_is_enough() -> None:
    workload = Workload.model_validate({"classes": [{"name": "x", "extra": {"temperature": 0}}]})
    body = workload.request(0, seed=0, overrides={}).body("m", fields="ours", with_ids=True)
    assert (body["temperature"], body["return_token_ids"], body["stream"]) == (0, True, True)
    assert "max_thinking_tokens" not in body
