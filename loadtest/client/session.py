"""One call of `s1 loadtest`: what was asked for, checked, run, told and written."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.client.arrivals import ArrivalsError, read_trace
from loadtest.client.compare import Side, compare, ratios
from loadtest.client.discover import DiscoveryError, Found, discover
from loadtest.client.engine_counts import EngineCountsError, read_counts
from loadtest.client.find_max import Trial, find_max, highest
from loadtest.client.fleet import Fleet, Load, Progress, Run, RunFailed, fleet
from loadtest.client.page import page
from loadtest.client.provenance import provenance
from loadtest.client.result import result
from loadtest.client.slo import Slo, SloError
from loadtest.client.workload import BudgetFields, Workload, WorkloadError, read_workload
from server.budget.families import FAMILIES

_Tell = Callable[[Progress], None]
_TRACE = "trace:"
_DURATION_S = 30.0


class SessionError(RuntimeError):
    """What the person who called it has to know."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of `s1 loadtest`, as they were given."""

    url: str
    command: str
    workload: str = "short"
    rate: float | None = None
    arrivals: str = "poisson"
    concurrency: int = 0
    duration_s: float | None = None
    """Default: 30, and with a trace as long as that is."""
    warmup_s: float = 0
    compare: str | None = None
    rounds: int = 5
    find_max: bool = False
    slos: tuple[str, ...] = ()
    good_part: float = 0.99
    precision: float = 0.1
    budget_fields: str = "ours"
    model: str | None = None
    model_b: str | None = None
    family: str | None = None
    api_key: str | None = None
    engine_metrics: tuple[str, ...] = ()
    processes: int | None = None
    timeout_s: float = 600
    seed: int = 0
    output: Path | None = None

    def check(self) -> None:
        """
        Raises:
            SessionError: an option is out of its range, or contradicts another.
        """
        traced = self.arrivals.startswith(_TRACE)
        for option in ("rate", "duration_s", "warmup_s", "timeout_s"):
            value = getattr(self, option)
            if value is not None and not (0 <= value < math.inf):
                raise SessionError(f"--{option.replace('_', '-')} must be a number from 0. Given: {value}")
        if traced and (self.rate or self.find_max):
            raise SessionError(
                f"--arrivals trace:… has its own rate: no --rate, no --find-max. Given: {self.arrivals}"
            )
        if self.concurrency and self.arrivals != "poisson":
            raise SessionError(f"--arrivals goes without --concurrency. Given: {self.arrivals}")
        loops = bool(self.rate or traced) + bool(self.concurrency)
        if loops != 1 and not (self.find_max and not self.concurrency):
            raise SessionError("give either --rate (or --arrivals trace:FILE) or --concurrency")
        if self.find_max and (self.concurrency or self.compare or not self.slos):
            raise SessionError("--find-max needs --slo and an open loop, and goes without --compare")
        if self.budget_fields not in get_args(BudgetFields):
            known = ", ".join(get_args(BudgetFields))
            raise SessionError(f"--budget-fields is one of {known}. Given: {self.budget_fields}")
        if self.family is not None and self.family not in FAMILIES:
            raise SessionError(f"--family is one of {', '.join(FAMILIES)}. Given: {self.family}")
        if self.engine_metrics and (self.warmup_s or self.compare or self.find_max):
            raise SessionError("--engine-metrics counts one whole run: no --warmup-s, --compare, --find-max")
        if self.output is not None:
            _check_output(self.output)


def _check_output(output: Path) -> None:
    """
    Raises:
        SessionError: what is measured could not be written there.
    """
    if output.suffix == ".html":
        raise SessionError(
            f"--output names the JSON; the page goes beside it, with .html for its ending. Given: {output}"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for path in (output, output.with_suffix(".html")):
            existed = path.exists()
            with path.open("ab"):
                pass
            if not existed:
                path.unlink()
    except (OSError, ValueError) as error:
        raise SessionError(f"--output can't be written: {error}") from None


def run_session(plan: Plan, console: Console) -> dict[str, Any]:
    """The result, as its JSON file holds it.

    Raises:
        SessionError
    """
    plan.check()
    try:
        load, slos = _load(plan, console), [Slo.read(given) for given in plan.slos]
        sides = [_discover(plan, plan.url, plan.model)]
        if plan.compare is not None:
            sides.append(_discover(plan, plan.compare, plan.model_b or plan.model))
        found, runs = _measure(plan, console, load, slos, sides)
    except (
        ArrivalsError,
        DiscoveryError,
        EngineCountsError,
        RunFailed,
        SloError,
        WorkloadError,
    ) as error:
        raise SessionError(str(error)) from None
    _tell(console, found)
    if plan.output is not None:
        try:
            plan.output.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
            plan.output.with_suffix(".html").write_text(page(found, runs))
        except OSError as error:
            raise SessionError(f"--output can't be written: {error}") from None
        console.print(f"[dim]{plan.output} and {plan.output.with_suffix('.html')}[/dim]", soft_wrap=True)
    return found


def _load(plan: Plan, console: Console) -> Load:
    workload = read_workload(plan.workload)
    duration_s = _DURATION_S if plan.duration_s is None else plan.duration_s
    if plan.arrivals.startswith(_TRACE):
        duration_s = _check_trace(plan, workload, console)
    if plan.warmup_s >= duration_s:
        raise SessionError(
            f"--warmup-s must be less than --duration-s ({duration_s:g}). Given: {plan.warmup_s:g}"
        )
    return Load(
        workload=workload,
        duration_s=duration_s,
        warmup_s=plan.warmup_s,
        arrivals=plan.arrivals,
        rate=plan.rate,
        concurrency=plan.concurrency,
        seed=plan.seed,
    )


def _check_trace(plan: Plan, workload: Workload, console: Console) -> float:
    """How long to replay it, in seconds.

    Raises:
        ArrivalsError, SessionError, WorkloadError
    """
    entries = read_trace(Path(plan.arrivals.removeprefix(_TRACE)))
    if not entries:
        raise SessionError(f"the trace has no request. Given: {plan.arrivals}")
    for index, (_, overrides) in enumerate(entries):
        workload.request(index, seed=plan.seed, overrides=overrides)
    if plan.duration_s is None:
        return math.floor(entries[-1][0]) + 1.0
    late = sum(at_s >= plan.duration_s for at_s, _ in entries)
    if late:
        console.print(
            f"[yellow]{late} of the trace's {len(entries)} requests come after --duration-s "
            f"({plan.duration_s:g}) and are left out.[/yellow]",
            soft_wrap=True,
        )
    return plan.duration_s


def _discover(plan: Plan, url: str, model: str | None) -> Found:
    return discover(
        url,
        model=model,
        fields=cast(BudgetFields, plan.budget_fields),
        key=plan.api_key,
        family=plan.family,
        timeout_s=plan.timeout_s,
    )


def _measure(
    plan: Plan, console: Console, load: Load, slos: list[Slo], sides: list[Found]
) -> tuple[dict[str, Any], list[tuple[str, Run]]]:
    a = sides[0]
    extras: dict[str, Any] = {}
    origin = provenance(plan.command)
    with (
        fleet(plan.processes or os.cpu_count() or 1) as workers,
        _stopped_by_ctrl_c(workers) as stopped,
        _progress(console) as tell,
    ):
        if plan.compare is not None:
            pairs = compare(
                workers,
                Side(plan.url, a.dialect),
                Side(plan.compare, sides[1].dialect),
                load,
                rounds=plan.rounds,
                on_progress=tell,
            )
            if not pairs:
                raise RunFailed("stopped before both servers were measured once")
            runs = {"A": [pair[0] for pair in pairs], "B": [pair[1] for pair in pairs]}
            extras["ratios"] = ratios(pairs, slos)
        elif plan.find_max:
            trials = _search(plan, console, workers, a, load, slos, tell)
            shown = highest(trials).trial or trials[0]
            runs = {f"{shown.rate:g} requests per second": [shown.run]}
            extras["trials"] = trials
        else:
            before = read_counts(plan.engine_metrics) if plan.engine_metrics else None
            runs = {"run": [workers.run(plan.url, a.dialect, load, on_progress=tell)]}
            if before is not None:
                after = read_counts(plan.engine_metrics)
                extras["engines_counted"] = {kind: after[kind] - before[kind] for kind in after}
    said = [side.said for side in sides]
    found = result(
        runs, provenance=origin, targets=said, load=load, slos=slos, stopped=stopped.is_set(), **extras
    )
    return found, [(name, several[0]) for name, several in runs.items()]


def _search(
    plan: Plan, console: Console, workers: Fleet, a: Found, load: Load, slos: list[Slo], tell: _Tell
) -> list[Trial]:
    def say(trial: Trial) -> None:
        why = ""
        if trial.run.client_limits:
            why = ", but the client was the limit: this says nothing about the server"
        elif trial.growth is not None:
            why = f", but latencies grew by {trial.growth:.2f} s a second"
        console.print(f"{trial.rate:g} requests per second: {trial.good_part:.2%} good{why}")

    return find_max(
        workers,
        plan.url,
        a.dialect,
        load,
        slos=slos,
        good_part=plan.good_part,
        precision=plan.precision,
        on_trial=say,
        on_progress=tell,
    )


@contextlib.contextmanager
def _stopped_by_ctrl_c(workers: Fleet) -> Iterator[threading.Event]:
    """The first Ctrl-C ends the run, and what was measured is told; a second one is as ever.

    Yields what is set then.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.set()
        workers.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[_Tell]:
    with console.status("starting…") as status:

        def tell(progress: Progress) -> None:
            status.update(
                f"{progress.elapsed_s:.0f} s: {progress.done:,} answered, {progress.open:,} open, "
                f"{progress.errors:,} errors, {progress.tokens:,} tokens"
            )

        yield tell


def _tell(console: Console, found: dict[str, Any]) -> None:
    table = Table("", "requests/s", "good/s", "tok/s", "ttft p50/p99 ms", "first answer p50/p99 ms", "errors")
    for name, classes in found["figures"].items():
        for kind, figures in classes.items():
            table.add_row(
                name if kind == "all" else f"  {kind}",
                f"{figures['requests_per_s']:,.1f}",
                f"{figures['goodput_per_s']:,.1f}",
                f"{figures['tokens']['completion_per_s']:,.0f}",
                _pair(figures["time_to_first_token_ms"]),
                _pair(figures["time_to_first_answer_ms"]),
                str(sum(figures["errors"].values())),
            )
    console.print(table)
    for kind, message in _first_messages(found).items():
        console.print(f"{escape(kind)}: {escape(message)}", soft_wrap=True)
    for name, ratio in found.get("ratios", {}).items():
        low, high = ratio["interval"]
        console.print(f"A/B {name}: {ratio['median']:.3f} ({low:.3f} to {high:.3f})")
    if "trials" in found:
        at_least = "at least " if found["highest_rate_is_at_least"] and found["highest_rate"] else ""
        console.print(f"highest rate within the service levels: {at_least}{found['highest_rate']}")
    for text in found["warnings"]:
        console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)


def _first_messages(found: dict[str, Any]) -> dict[str, str]:
    """By kind of error, what a server said of the first one."""
    messages: dict[str, str] = {}
    for classes in found["figures"].values():
        messages = classes["all"]["error_messages"] | messages
    return messages


def _pair(shown: dict[str, Any]) -> str:
    return f"{shown['p50']:.1f} / {shown['p99']:.1f}" if shown["count"] else "–"
