"""``s1 evaluate demo``: every method on the demo checkpoint, through the real engine, as one report."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from training.evaluate.results_cli import report
from training.evaluate.sweep_cli import (
    Concurrency,
    Overwrite,
    chosen_sweep,
    endpoint,
    load_benchmarks,
    tell_errors,
)

if TYPE_CHECKING:
    from training.curate.progress import Progress
    from training.evaluate.parts import Part
    from training.evaluate.points import Sweep
    from training.evaluate.samples import Sample

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
POLICY, REWARD = "tiny-reasoner", "tiny-prm"
STEP_BOUNDARY = "\\n"
"""The demo checkpoint's steps are lines; `s1 serve` reads the two characters as a newline."""

Out = Annotated[Path, typer.Option(file_okay=False, help="Folder for logs, replies, samples and report.")]
SweepFile = Annotated[str, typer.Option("--sweep", help="demo, alternatives, reward, or a YAML file.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")]


def demo(
    out: Out = Path("runs/demo-scaling"),
    sweep: SweepFile = "demo",
    limit: Limit = None,
    concurrency: Concurrency = 16,
    overwrite: Overwrite = False,
) -> None:
    """Serve the demo checkpoint and its reward model, measure every method, draw the report.

    Stopped and started again, it asks only what is missing.
    """
    from training.curate.progress import Progress
    from training.curate.running import one_line_errors
    from training.evaluate.parts import recorded_part, recorded_parts, seconds_of
    from training.train import TrainStopped

    progress = Progress()
    _end_on_sigterm_as_on_ctrl_c()
    with one_line_errors(progress, out):
        chosen = chosen_sweep(sweep, None, {}, None, limit)
        try:
            with recorded_part(out) as part:
                samples = _measure(chosen, out, concurrency, progress, part, overwrite=overwrite)
                report(out)
        except TrainStopped as error:
            progress.errors.print(f"[bold red]s1:[/bold red] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(1) from error
    parts = recorded_parts(out)
    progress.console.print(f"{seconds_of(parts):,.0f} s, engines' starts included, in {len(parts)} part(s)")
    if tell_errors(samples, out, progress):
        raise typer.Exit(1)


def _end_on_sigterm_as_on_ctrl_c() -> None:
    """Both engines are stopped, and what was answered is kept; asyncio ends its tasks on SIGINT only."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


def _measure(
    sweep: Sweep, out: Path, concurrency: int, progress: Progress, part: Part, *, overwrite: bool
) -> list[Sample]:
    """Raises what `run_sweep` raises; TrainStopped: an engine ended, or was not ready in time."""
    from training.chain.served import rewarded, served
    from training.endpoints.client import Patience
    from training.evaluate.folder import require_same_settings
    from training.evaluate.methods.registry import methods
    from training.evaluate.run import Plan, require_fit, run_sweep, settings_of
    from training.evaluate.sweep import Model

    benchmarks = load_benchmarks(sweep, None, "", progress)
    # Before the engines start, which takes longer than to refuse.
    require_fit(sweep, benchmarks, methods(), max_tokens=None)
    settings = settings_of(sweep, benchmarks, methods(), POLICY, max_tokens=None)
    require_same_settings(settings, out, overwrite=overwrite)
    with rewarded(CHECKPOINTS / REWARD, out / "reward.log") as reward_url:
        options = ("--reward-url", reward_url, "--step-boundary", STEP_BOUNDARY)
        with served(
            CHECKPOINTS / POLICY, POLICY, out / "serve.log", options=options, shares_cores=True
        ) as url:
            plan = Plan(
                sweep=sweep,
                benchmarks=benchmarks,
                model=Model(endpoint(url, POLICY, None), concurrency),
                methods=methods(),
                patience=Patience(),
                command=shlex.join(["s1", *sys.argv[1:]]),
                overwrite=overwrite,
                # Every start serves it at another port.
                moved=True,
            )
            return run_sweep(plan, out, progress.errors, part)
