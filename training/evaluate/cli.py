"""``s1 evaluate``: accuracy against thinking tokens."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from training.evaluate.demo import demo
from training.evaluate.results_cli import recommend, report
from training.evaluate.sweep_cli import check, run

app = typer.Typer(
    name="evaluate",
    help="Accuracy against thinking tokens: benchmarks, sweeps, reports, recommendations.",
    add_completion=False,
)
app.command()(run)
app.command()(report)
app.command()(recommend)
app.command()(check)
app.command()(demo)

Url = Annotated[str | None, typer.Option(help="An OpenAI-compatible API, such as http://127.0.0.1:8000/v1.")]
ModelName = Annotated[str | None, typer.Option(help="Model to ask; the first the server lists if absent.")]
ApiKey = Annotated[str | None, typer.Option(envvar="S1_API_KEY", help="Bearer token to send.")]
Local = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Ask this checkpoint folder."),
]
Limit = Annotated[int, typer.Option(min=1, help="How many of the held-out questions to ask.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
JsonFile = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the results here.")]
Card = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Rewrite the curve of this model card.")
]
FigureFile = Annotated[
    Path | None, typer.Option("--figure", dir_okay=False, help="Draw the curve here (.svg, .png).")
]
CheckBars = Annotated[bool, typer.Option("--check-bars", help="Exit 1 and name every bar that is missed.")]


@app.callback(invoke_without_command=True)
def evaluate(
    context: typer.Context,
    url: Url = None,
    model: ModelName = None,
    api_key: ApiKey = None,
    local: Local = None,
    limit: Limit = 400,
    concurrency: Concurrency = 16,
    json_file: JsonFile = None,
    update_card: Card = None,
    figure: FigureFile = None,
    check_bars: CheckBars = False,
) -> None:
    """Without a command: measure the demo checkpoint's curve on its held-out questions, greedily."""
    if context.invoked_subcommand is not None:
        _refuse_options_before(context, context.invoked_subcommand)
        return
    from training.evaluate.demo_curve import report as reports
    from training.evaluate.demo_curve.bars import failed_bars
    from training.evaluate.demo_curve.client import ServerError
    from training.evaluate.demo_curve.measure import measure_local, measure_served
    from training.evaluate.suite import held_out_questions

    console, errors = Console(), Console(stderr=True)
    if (url is None) == (local is None):
        errors.print("Nothing to ask: start a server (`make serve`) and pass its --url, or pass --local DIR.")
        raise typer.Exit(2)
    questions = held_out_questions(limit)
    limit_option = "" if limit == 400 else f" --limit {limit}"
    try:
        if local is not None:
            command = f"s1 evaluate --local {local}{limit_option}"
            measurement = asyncio.run(measure_local(local, questions, console, command))
        else:
            command = f"s1 evaluate --url {url}{limit_option}"
            measurement = asyncio.run(
                measure_served(str(url), model, api_key, concurrency, questions, console, command)
            )
    except ServerError as error:
        errors.print(f"{escape(str(error))}\nStart a server with `make serve`, or pass its --url.")
        raise typer.Exit(2) from error
    reports.print_tables(console, measurement.curves)
    for message in measurement.errors[:5]:
        errors.print(f"error: {escape(message)}")
    if json_file is not None:
        results = reports.as_json(measurement.curves, measurement.provenance)
        json_file.write_text(json.dumps(results, indent=2) + "\n")
    if update_card is not None:
        reports.update_card(update_card, measurement.curves, measurement.provenance)
    if figure is not None:
        from training.evaluate.demo_curve.figure import draw

        draw(measurement.curves, figure)
    if check_bars:
        _report_bars(failed_bars(measurement.curves), console, errors)


def _refuse_options_before(context: typer.Context, command: str) -> None:
    """Options before a command's name would be taken and ignored."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            Console(stderr=True).print(f"s1: {option} must follow `{command}`, if {command} has it")
            raise typer.Exit(2)


def _report_bars(failed: list[str], console: Console, errors: Console) -> None:
    if failed:
        for sentence in failed:
            errors.print(f"bar missed: {sentence}", markup=False)
        raise typer.Exit(1)
    console.print("all bars reached")
