"""What the containers would run, run before stand-ins for engines: gateways, keys, hooks, `helm test`."""

from __future__ import annotations

import concurrent.futures
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from server.gateway.access.guard import OPEN_PATHS
from tests.support.chart import one, render, rendered, values_of
from tests.support.deployment import (
    CI_FILE,
    LONG,
    STREAMS,
    Deployment,
    ask,
    body,
    deployed,
    engines_of,
    stream_long_answers,
)
from tests.support.engines import DEMO

OF_ENGINES = (
    "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/load_lora_adapter", "/tokenize", "/load",
    "/sleep", "/s1/engine", "/s1/receipts/x", "/s1/requests", "/s1/scrape_targets", "/metrics",
)  # fmt: skip


def stand_in(argv: list[str]) -> list[str]:
    port = argv[argv.index("--port") + 1]
    arguments = ["--port", port, "--model", DEMO.name, "--itl-ms", "5"]
    return [sys.executable, "-m", "loadtest.stand_in", *arguments]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("containers"), engine=stand_in) as deployment:
        yield deployment


def test_budgets_hold_through_both_gateways(deployment: Deployment) -> None:
    for gateway in deployment.gateways:
        for engine in engines_of(gateway, deployment.admin_key):
            assert engine["enforcement"] == "native"
        for maximum in (0, 7, 64):
            choice = ask(gateway, deployment.headers, body(maximum))
            assert choice["thinking_budget"]["thinking_tokens"] <= maximum
            assert choice["message"]["content"]


def test_helm_test_passes(deployment: Deployment) -> None:
    container = one(rendered(CI_FILE), "Pod", "-test")["spec"]["containers"][0]
    told = {e["name"]: e.get("value", deployment.key) for e in container["env"]}
    told["URL"] = deployment.gateways[0].url
    variables = [f"{name}={value}" for name, value in told.items()]
    done = deployment.gateways[0].run(["env", *variables, *container["command"], *container["args"]])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["thinking_tokens"] <= 64


def test_the_request_in_the_notes_works_as_it_stands(deployment: Deployment) -> None:
    _, notes = render(values_of(CI_FILE))
    command = notes[notes.index("curl -s") :].split("\n\n")[0]
    assert "http://127.0.0.1:8000" in command and shutil.which("curl")
    here = command.replace("http://127.0.0.1:8000", deployment.gateways[0].url)
    script = f"S1_API_KEY={shlex.quote(deployment.key)}; {here}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["choices"][0]["thinking_budget"]["thinking_tokens"] <= 256


def test_without_a_key_nobody_reaches_an_engine_or_an_admin_route(deployment: Deployment) -> None:
    for gateway in deployment.gateways:
        with httpx.Client(timeout=30) as client:
            for path in OF_ENGINES:
                assert path not in OPEN_PATHS
                for variant in (path, f"/{path}", f"{path}/", f"{path}?key=x", f"/docs/%2e%2e{path}"):
                    for method, sent in (("GET", None), ("POST", body(8))):
                        answer = client.request(method, gateway.url + variant, json=sent)
                        assert answer.status_code == 401, (method, variant, answer.status_code)
            assert set(client.get(f"{gateway.url}/ready").json()) == {"ready", "draining"}


def test_an_ordinary_key_is_no_admin(deployment: Deployment) -> None:
    for gateway in deployment.gateways:
        for path in ("/metrics", "/s1/requests", "/s1/scrape_targets"):
            assert httpx.get(gateway.url + path, headers=deployment.headers).status_code == 403, path
        admin = {"authorization": f"Bearer {deployment.admin_key}"}
        assert httpx.get(f"{gateway.url}/metrics", headers=admin).status_code == 200


def test_draining_loses_no_stream(deployment: Deployment) -> None:
    """Last: one of the two gateways goes."""
    leaving, staying = deployment.gateways
    with concurrent.futures.ThreadPoolExecutor(2 * STREAMS) as pool:
        streamed = stream_long_answers(pool, leaving, deployment.headers, STREAMS)
        streamed.await_all_begun()
        stopped = pool.submit(leaving.stop)
        # Meanwhile others are served elsewhere.
        assert ask(staying, deployment.headers, body(16))["message"]["content"]
        receipts = [result.result(timeout=180) for result in streamed.results]
        assert [receipt["thinking_tokens"] for receipt in receipts] == [LONG] * STREAMS
        assert stopped.result(timeout=180) == 0, leaving.tail()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{leaving.url}/health")
