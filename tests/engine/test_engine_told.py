"""The engine's route that ends a thinking: what it hands to the workers, and what it makes of their words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import zmq.asyncio
from starlette.applications import Starlette
from starlette.middleware import Middleware

from server.engine.config import RUN_DIR_VARIABLE
from server.engine.ended_by import EndedBy
from server.engine.routes import EngineRoutes
from server.engine.worker_control import QUALIFIED_NAME, WorkerControl, may_be_told


@dataclass
class Core:
    """vLLM's client of its engine cores: one list of workers' words per data-parallel replica."""

    words: list[list[bool | None]] = field(default_factory=lambda: [[True]])
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def call_utility_all_async(self, *arguments: Any) -> list[list[bool | None]]:
        self.calls.append(arguments)
        return self.words


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, Core]]:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path))
    app, core = Starlette(middleware=[Middleware(EngineRoutes)]), Core()
    app.state.engine_client = SimpleNamespace(engine_core=core)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        yield client, core
    zmq.asyncio.Context.instance().destroy(linger=0)


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ([[True]], "thinking"),
        ([[False, False]], "answering"),
        ([[None], [None, True]], "thinking"),
        ([[None], [False]], "answering"),
        ([[False, None]], "absent"),
        ([[None], [None]], "absent"),
    ],
)
async def test_the_last_worker_of_a_replica_knows(
    engine: tuple[Any, Core], words: list[list[bool | None]], state: str
) -> None:
    client, core = engine
    core.words = words
    response = await client.post("/s1/end_thinking/r1?ended_by=time")
    assert (response.status_code, response.json()) == (200, {"state": state})
    # No time limit: see there.
    assert core.calls == [("collective_rpc", "s1_end_thinking", None, ("r1", "time"), None)]


@pytest.mark.parametrize("query", ["", "?ended_by=", "?ended_by=loop"])
async def test_other_words_are_refused(engine: tuple[Any, Core], query: str) -> None:
    client, core = engine
    assert (await client.post(f"/s1/end_thinking/r1{query}")).status_code == 400
    assert (await client.get("/s1/end_thinking/r1?ended_by=time")).status_code == 404
    assert core.calls == []


class Processor:
    def __init__(self) -> None:
        self.told: list[tuple[str, EndedBy]] = []

    def end_thinking(self, receipt_id: str, ended_by: EndedBy) -> bool | None:
        self.told.append((receipt_id, ended_by))
        return True


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_a_worker_finds_the_processor_of_either_runner(runner: str) -> None:
    processor, control = Processor(), WorkerControl()
    processors = [object(), processor]
    control.model_runner = (
        SimpleNamespace(
            input_batch=SimpleNamespace(logitsprocs=SimpleNamespace(non_argmax_invariant=processors))
        )
        if runner == "v1"
        else SimpleNamespace(sampler=SimpleNamespace(logits_processors=processors))
    )
    assert control.s1_end_thinking("r1", "request") is True
    assert processor.told == [("r1", EndedBy.REQUEST)]


def test_a_stage_that_samples_nothing_knows_nothing() -> None:
    control = WorkerControl()
    control.model_runner = SimpleNamespace(sampler=None)
    assert control.s1_end_thinking("r1", "request") is None


@pytest.mark.parametrize(
    ("extension", "backend", "stages", "told"),
    [
        (QUALIFIED_NAME, "mp", 2, True),
        (QUALIFIED_NAME, "ray", 1, True),
        (QUALIFIED_NAME, "ray", 2, False),
        ("", "mp", 1, False),
        ("another.Extension", "mp", 1, False),
    ],
)
def test_which_engines_may_be_told(extension: str, backend: str, stages: int, told: bool) -> None:
    config = SimpleNamespace(
        worker_extension_cls=extension,
        distributed_executor_backend=backend,
        pipeline_parallel_size=stages,
    )
    assert may_be_told(config) is told
