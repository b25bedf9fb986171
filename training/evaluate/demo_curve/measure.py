"""Runs every setting over the suite and gathers the curves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import Progress

from training.evaluate.demo_curve.client import ServedModel, open_client, served_model
from training.evaluate.demo_curve.report import Provenance
from training.evaluate.demo_curve.results import (
    Curves,
    Outcome,
    Row,
    Setting,
    all_settings,
    make_curves,
    summarize,
)
from training.evaluate.suite import fingerprint
from training.tiny.tasks import Question
from training.versions import environment


class Model(Protocol):
    versions_of: tuple[str, ...]

    async def answer_all(
        self, questions: Sequence[Question], setting: Setting, on_answer: Callable[[], None]
    ) -> list[Outcome]: ...


@dataclass(frozen=True, slots=True)
class Measurement:
    curves: Curves
    provenance: Provenance
    errors: tuple[str, ...]


async def measure(
    model: Model, questions: list[Question], console: Console, *, command: str, source: str, name: str
) -> Measurement:
    began, started_at = time.monotonic(), datetime.now(UTC)
    rows: dict[Setting, Row] = {}
    errors: dict[str, None] = {}
    with Progress(console=console, transient=True) as progress:
        settings = all_settings()
        task = progress.add_task("questions", total=len(settings) * len(questions))
        for setting in settings:
            outcomes = await model.answer_all(questions, setting, lambda: progress.advance(task))
            rows[setting] = summarize(setting, outcomes)
            errors.update({outcome.error: None for outcome in outcomes if outcome.error})
    provenance = Provenance(
        command=command,
        source=source,
        model=name,
        suite=fingerprint(questions),
        num_questions=len(questions),
        started_at=started_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        versions=environment(model.versions_of),
    )
    return Measurement(make_curves(rows), provenance, tuple(errors))


async def measure_served(
    url: str,
    model: str | None,
    api_key: str | None,
    concurrency: int,
    questions: list[Question],
    console: Console,
    command: str,
) -> Measurement:
    """Raises ServerError where the server does not answer."""
    import asyncio

    async with open_client(url, api_key, concurrency) as http:
        listed = await served_model(http)
        served = ServedModel(http, model or listed, asyncio.Semaphore(concurrency))
        return await measure(
            served, questions, console, command=command, source=f"served at {url}", name=served.model
        )


async def measure_local(
    folder: Path, questions: list[Question], console: Console, command: str
) -> Measurement:
    from training.evaluate.demo_curve.local import LocalModel

    return await measure(
        LocalModel(folder),
        questions,
        console,
        command=command,
        source="without a server, in a plain generation loop",
        name=folder.name,
    )
