"""`s1 loadtest`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

_INTERRUPTED = 130
"""What shells make of SIGINT."""


def loadtest(
    url: Annotated[str, typer.Argument(help="The server's base URL, with or without /v1.")],
    workload: Annotated[
        str, typer.Option(help="A built-in workload (short, mixed) or a YAML file of request classes.")
    ] = "short",
    rate: Annotated[
        float | None,
        typer.Option(help="Open loop: requests per second on average. First rate of --find-max."),
    ] = None,
    arrivals: Annotated[
        str,
        typer.Option(help="Open loop: poisson, constant, gamma:SHAPE (below 1 is burstier) or trace:FILE."),
    ] = "poisson",
    concurrency: Annotated[
        int, typer.Option(min=0, help="Closed loop: so many requests at a time. 0: open loop.")
    ] = 0,
    duration_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Of each run. Default: 30, and with a trace as long as that is."),
    ] = None,
    warmup_s: Annotated[float, typer.Option(min=0, help="At the beginning; not counted.")] = 0,
    compare: Annotated[
        str | None, typer.Option(metavar="URL_B", help="Measure both in turns; ratios are of URL to URL_B.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Of --compare.")] = 5,
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Search the highest rate within the service levels.")
    ] = False,
    slo: Annotated[
        list[str] | None,
        typer.Option(help="ttft_ms=N, first_answer_ms=N, e2e_ms=N or gap_ms=N; may be repeated."),
    ] = None,
    good_part: Annotated[
        float, typer.Option(min=0, max=1, help="Of --find-max: part of the requests that must be good.")
    ] = 0.99,
    precision: Annotated[float, typer.Option(min=0.01, max=1, help="Of --find-max.")] = 0.1,
    budget_fields: Annotated[
        str, typer.Option(help="How budgets are said: ours, vllm (thinking_token_budget) or none.")
    ] = "ours",
    model: Annotated[str | None, typer.Option(help="Default: the first the server names.")] = None,
    model_b: Annotated[str | None, typer.Option(help="Of URL_B, if it is another.")] = None,
    family: Annotated[
        str | None,
        typer.Option(help="Of the model, so that thinking is counted from token ids where nobody says it."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=["S1_API_KEY", "S1_LOADTEST_API_KEY"], help="Of servers that take keys."),
    ] = None,
    engine_metrics: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of an engine whose own token counts to compare with; repeatable."),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Of the client. Default: one a core.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Of one request.")] = 600,
    seed: int = 0,
    output: Annotated[
        Path | None, typer.Option(help="Where the JSON goes; an HTML page is put beside it.")
    ] = None,
) -> None:
    """Load a server and report what its users would have seen, thinking and answers apart."""
    # The client's parts are imported here: `s1 serve` needs none of them.
    from loadtest.client.session import Plan, SessionError, run_session

    plan = Plan(
        url=url,
        workload=workload,
        rate=rate,
        arrivals=arrivals,
        concurrency=concurrency,
        duration_s=duration_s,
        warmup_s=warmup_s,
        compare=compare,
        rounds=rounds,
        find_max=find_max,
        slos=tuple(slo or ()),
        good_part=good_part,
        precision=precision,
        budget_fields=budget_fields,
        model=model,
        model_b=model_b,
        family=family,
        api_key=api_key,
        engine_metrics=tuple(engine_metrics or ()),
        processes=processes,
        timeout_s=timeout_s,
        seed=seed,
        output=output,
        command=_command(),
    )
    console = Console(stderr=True)
    try:
        found = run_session(plan, console)
    except SessionError as error:
        _fail(console, str(error))
    if found.get("interrupted"):
        raise typer.Exit(_INTERRUPTED)


def _command() -> str:
    """As it was typed, without what is secret."""
    shown, hide = [], False
    for argument in sys.argv[1:]:
        name, given, _ = argument.partition("=")
        if name == "--api-key" and given:
            argument = "--api-key=…"
        shown.append("…" if hide else argument)
        hide = argument == "--api-key"
    return " ".join(["s1", *shown])


def _fail(console: Console, message: str) -> NoReturn:
    console.print(f"[bold red]s1 loadtest:[/bold red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(2)
