"""A deployment on this machine: the containers' own processes, from the chart and from compose."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.chart import one, rendered
from tests.support.commands import s1_ok
from tests.support.compose import services
from tests.support.containers import Container, Process, events
from tests.support.engines import DEMO

CI_FILE = "cpu-demo-values.yaml"
# So that two engines share two cores.
_FEW_THREADS = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
STREAMS = 8
LONG = 1200

Arguments = Callable[[list[str]], list[str]]
"""From an engine's argv to the one that is started in its place."""


@dataclass
class Deployment:
    engines: list[Process]
    gateways: list[Process]
    key: str
    admin_key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


def body(max_thinking_tokens: int, **fields: Any) -> dict[str, Any]:
    question = [{"role": "user", "content": "How many r in raspberry?"}]
    return {"model": DEMO.name, "messages": question, "max_thinking_tokens": max_thinking_tokens, **fields}


def ask(gateway: Process, headers: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=request, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


@contextmanager
def deployed(folder: Path, *, engine: Arguments = lambda argv: argv) -> Iterator[Deployment]:
    """Two engines and two gateways, one of each from the chart and from compose, ready.

    Args:
        engine: what runs as an engine, if not vLLM.
    """
    keys = folder / "keys"
    keys.mkdir()
    key = s1_ok("keys", "create", "ann", "--file", keys / "keys.json").strip()
    admin_key = s1_ok("keys", "create", "prometheus", "--admin", "--file", keys / "keys.json").strip()
    chart = {kind: one(rendered(CI_FILE), kind)["spec"] for kind in ("StatefulSet", "Deployment")}
    assert chart["StatefulSet"]["replicas"] == chart["Deployment"]["replicas"] == 2
    compose = services("cpu", {"GRAFANA_PASSWORD": "test-only", "S1_DRAIN_TIMEOUT_S": "100"})
    compose["engine-cpu"]["environment"] |= _FEW_THREADS
    engines = [
        Container.of_pod(chart["StatefulSet"]["template"]["spec"], "engine"),
        Container.of_service(compose["engine-cpu"], port=8001),
    ]
    gateways = [
        Container.of_pod(chart["Deployment"]["template"]["spec"], "gateway"),
        Container.of_service(compose["gateway"], port=8000),
    ]
    with ExitStack() as stack:

        def start(container: Container, name: str, urls: tuple[str, ...] = ()) -> Process:
            cache = folder / f"{name}-cache"
            cache.mkdir()
            volumes = {"keys": keys, "cache": cache}
            started = (lambda argv: argv) if urls else engine
            log = folder / f"{name}.log"
            process = Process(container, log, volumes=volumes, engine_urls=urls, started=started)
            stack.callback(process.kill)
            return process

        running = [start(container, f"engine-{i}") for i, container in enumerate(engines)]
        urls = tuple(engine.url for engine in running)
        fronts = [start(container, f"gateway-{i}", urls) for i, container in enumerate(gateways)]
        for process in (*running, *fronts):
            process.await_probe(process.container.ready)
            assert process.passes(process.container.alive)
        for front in fronts:
            _await_both_engines(front, admin_key)
        yield Deployment(running, fronts, key, admin_key)


def _await_both_engines(gateway: Process, admin_key: str) -> None:
    """One ready engine makes a gateway ready; the tests want both."""

    def both() -> bool:
        return all(engine["state"] == "ready" for engine in engines_of(gateway, admin_key))

    for _ in range(600):
        if both():
            return
        threading.Event().wait(0.2)
    raise AssertionError(engines_of(gateway, admin_key))


def engines_of(gateway: Process, admin_key: str) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {admin_key}"}
    described: list[dict[str, Any]] = httpx.get(f"{gateway.url}/ready", headers=headers).json()["engines"]
    return described


@dataclass
class Streamed:
    """Streams that have all begun, and what becomes of them."""

    begun: threading.Semaphore
    results: list[concurrent.futures.Future[dict[str, Any]]]

    def await_all_begun(self) -> None:
        for _ in self.results:
            assert self.begun.acquire(timeout=120)


def stream_long_answers(
    pool: concurrent.futures.Executor, gateway: Process, headers: dict[str, str], count: int
) -> Streamed:
    """`count` streams that think exactly `LONG` tokens."""
    begun = threading.Semaphore(0)

    def one_stream(i: int) -> dict[str, Any]:
        request = body(LONG, min_thinking_tokens=LONG, seed=i, stream=True)
        url, receipt = f"{gateway.url}/v1/chat/completions", None
        with httpx.stream("POST", url, json=request, headers=headers, timeout=120) as response:
            assert response.status_code == 200, response.read()
            for number, event in enumerate(events(response)):
                assert "error" not in event, event
                if number == 1:
                    begun.release()
                for choice in event["choices"]:
                    receipt = choice.get("thinking_budget", receipt)
        assert receipt is not None
        return receipt

    return Streamed(begun, [pool.submit(one_stream, i) for i in range(count)])
