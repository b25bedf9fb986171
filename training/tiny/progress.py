"""What a training loop shows."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.tiny.loop import OnStep

_SMOOTHING = 0.98


@contextmanager
def progress_line(console: Console, name: str, total: int | None) -> Iterator[OnStep]:
    """One line: stage, steps, smoothed loss, time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, loss=float("nan"))
        smooth: float | None = None

        def on_step(step: int, loss: float, of: int) -> None:
            nonlocal smooth
            smooth = loss if smooth is None else _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
            progress.update(task, completed=step, total=of, loss=smooth)

        yield on_step
