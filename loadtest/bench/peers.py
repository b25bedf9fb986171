"""The gateway against its peers before the stand-in engine: LiteLLM's proxy and vllm-router (Rust)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.measure import (
    MODEL,
    Sample,
    Subject,
    as_json,
    interleaved,
    middle,
    ratio,
    shown,
    workload,
)
from loadtest.bench.processes import BenchError, Server, gateway, server
from loadtest.bench.report import Page
from loadtest.bench.venvs import FOLDER, program, version
from loadtest.client.fleet import Load, fleet
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script
from server.engine.supervisor import free_port

_CLIENTS = 16
_THINKING, _ANSWER = 40, 22
"""With the end marker 64 tokens, of which 62 have text."""
_TOKEN = {"stream_granularity": "token"}
OURS, OURS_TOKEN, DIRECT, ROUTER, LITELLM = (
    "s1-server",
    "s1-server, token by token",
    "direct",
    "vllm-router",
    "LiteLLM",
)


@contextlib.contextmanager
def litellm(engine_url: str, folder: Path) -> Iterator[Server]:
    """LiteLLM's proxy with one worker, as `litellm --config` starts it."""
    command = program("litellm[proxy]", "litellm", folder=folder)
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(
            f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
            f"      api_base: {engine_url}/v1\n      api_key: none\n"
        )
        argv = [str(command), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        # Without keys, as the others: it listens on this machine alone.
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        with server("litellm", argv, port=port, ready_path="/health/liveliness", env=env) as started:
            yield started


@contextlib.contextmanager
def vllm_router(engine_url: str, folder: Path) -> Iterator[Server]:
    command = program("vllm-router", "vllm-router", folder=folder)
    port = free_port()
    argv = [str(command), "--worker-urls", engine_url, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--prometheus-port", str(free_port())]
    with server("vllm-router", argv, port=port, ready_path="/health") as started:
        yield started


def main(
    rounds: Annotated[int, typer.Option(min=3)] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of one run.")] = 5,
    venvs: Annotated[Path, typer.Option(help="Where the peers are installed.")] = FOLDER,
    results: Path = Path("docs/results"),
) -> None:
    page = Page.begin("peers", "The gateway and its peers before a stand-in engine")
    with contextlib.ExitStack() as stack:
        script = Script(thinking=_THINKING, answer=_ANSWER)
        url = stack.enter_context(running(Options(script)))[0]
        own = stack.enter_context(gateway([url]))
        subjects = [
            Subject(DIRECT, url),
            Subject(OURS, own.url, own),
            Subject(OURS_TOKEN, own.url, own, _TOKEN),
        ]
        missing = []
        for name, start in ((ROUTER, vllm_router), (LITELLM, litellm)):
            try:
                peer = stack.enter_context(start(url, venvs))
            except BenchError as error:
                missing.append(f"{name} is missing: {error}")
                continue
            subjects.append(Subject(name, peer.url, peer))
        workers = stack.enter_context(fleet(os.cpu_count() or 1))
        load = Load(workload(), duration_s=seconds, concurrency=_CLIENTS)
        streams = interleaved(workers, subjects, load, rounds=rounds)
        whole = Load(workload(stream=False), duration_s=seconds, concurrency=_CLIENTS)
        plain = [subject for subject in subjects if subject.name != OURS_TOKEN]
        requests = interleaved(workers, plain, whole, rounds=rounds)
        low = Load(workload(stream=False), duration_s=seconds, arrivals="poisson", rate=5)
        quiet = interleaved(workers, plain, low, rounds=rounds)
    page.say(
        f"All before one stand-in engine that answers at once, {_CLIENTS} clients in a closed loop without "
        f"think time, {rounds} interleaved rounds of {seconds:g} s, one process each, default settings. "
        f"A stream has {_THINKING + 2 + _ANSWER} tokens; vLLM sends one event for each that has text. "
        "Figures are medians; a ratio's interval (95 %) is Student's t of the rounds' log ratios.",
        _versions(subjects, venvs),
        *missing,
        "## Streams",
    )
    _table(page, streams, ratios=("tokens_per_s", "updates_per_s"))
    page.say("## Whole answers")
    _table(page, requests, ratios=("requests_per_s",))
    page.say("## Whole answers at 5 requests a second: what each adds", "Poisson arrivals.")
    _added(page, quiet)
    page.data = {"streams": as_json(streams), "whole": as_json(requests), "quiet": as_json(quiet)}
    typer.echo(page.write(results))


def _versions(subjects: list[Subject], venvs: Path) -> str:
    names = {subject.name for subject in subjects}
    told = [
        f"{name} {version(package, package, folder=venvs)}"
        for name, package in ((ROUTER, "vllm-router"), (LITELLM, "litellm"))
        if name in names
    ]
    return "Peers: " + (", ".join(told) or "none") + "."


def _table(page: Page, found: dict[str, list[Sample]], *, ratios: tuple[str, ...]) -> None:
    others = [name for name in found if name not in (OURS, OURS_TOKEN)]
    columns = [
        "requests_per_s",
        "updates_per_s",
        "tokens_per_s",
        "first_token_p50_ms",
        "end_to_end_p50_ms",
        "cpu_us_per_request",
        "cpu_us_per_update",
        "cpu_us_per_token",
        "memory_mb",
        "errors",
    ]
    head = ["server", *(name.replace("_", " ") for name in columns)]
    page.table(head, [[name, *(middle(samples, c) for c in columns)] for name, samples in found.items()])
    rows = [
        [own, f"{name}: {figure.replace('_', ' ')}", shown(ratio(found[own], found[name], figure))]
        for own in (OURS, OURS_TOKEN)
        if own in found
        for name in others
        for figure in ratios
    ]
    page.table(["server", "over", "ratio"], rows)


def _added(page: Page, found: dict[str, list[Sample]]) -> None:
    direct = middle(found[DIRECT], "end_to_end_p50_ms") or 0.0
    rows = [
        [name, own, own - direct]
        for name, samples in found.items()
        if (own := middle(samples, "end_to_end_p50_ms")) is not None
    ]
    page.table(["server", "end to end p50, ms", "added, ms"], rows)


if __name__ == "__main__":
    typer.run(main)
