"""Debian's Prometheus scrapes gateway and engine: sums are the receipts', panels have data."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.engine.supervisor import free_port
from tests.gateway.serving import gateway
from tests.gateway.test_observe_metrics import CHAT
from tests.gateway.with_keys import KeysForTests
from tests.support.engines import Running

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
ASK = {"messages": [{"role": "user", "content": "How many r in raspberry?"}], "max_completion_tokens": 400}
SCRIPT: list[dict[str, Any]] = [
    {"max_thinking_tokens": 40, "num_waits": 1},
    {"max_thinking_tokens": 60, "num_waits": 2, "stream": True},
    {"max_thinking_tokens": 20, "n": 2, "stream": True},
    {"min_thinking_tokens": 80, "max_thinking_tokens": 120, "stream": True},
    # Its answers are short: without this there would be no rate.
    {"max_thinking_tokens": 20, "min_tokens": 60, "stream": True},
    {"max_thinking_tokens": 1000},
    {},
]
# Not in the sums: a branch that can't change the vote is left, and nobody waits for its receipt.
VOTE = {"max_thinking_tokens": 30, "parallel": {"method": "majority_vote", "width": 2}}


@dataclass
class Prometheus:
    client: httpx.AsyncClient

    async def query(self, expression: str) -> list[dict[str, Any]]:
        response = await self.client.get("/api/v1/query", params={"query": expression})
        assert response.status_code == 200, f"{expression}: {response.text}"
        found: list[dict[str, Any]] = response.json()["data"]["result"]
        return found

    async def value(self, expression: str) -> float | None:
        found = await self.query(expression)
        return float(found[0]["value"][1]) if found else None

    async def comes_to(self, expression: str, expected: float) -> None:
        """Scrapes come every half second."""
        for _ in range(120):
            value = await self.value(expression)
            if value == expected:
                return
            await asyncio.sleep(0.25)
        raise AssertionError(f"{expression} is {value}, not {expected}")


@asynccontextmanager
async def scraping(gateway_url: str, key: str, directory: Path) -> AsyncIterator[Prometheus]:
    """The committed configuration, with this gateway's address and an admin key."""
    configuration = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "*.yml")]
    ours, engines = configuration["scrape_configs"]
    # Prometheus 2.42 forgets the default type where it discovers targets over HTTP.
    authorization = {"authorization": {"type": "Bearer", "credentials": key}}
    ours["static_configs"][0]["targets"] = [gateway_url.removeprefix("http://")]
    ours |= authorization
    discovery = engines["http_sd_configs"][0]
    discovery |= authorization | {
        "url": discovery["url"].replace("http://127.0.0.1:8000", gateway_url),
        "refresh_interval": "1s",
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    binary = shutil.which("prometheus")
    assert binary is not None, "prometheus is missing: scripts/install.sh dev installs Debian's"
    address = f"127.0.0.1:{free_port()}"
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is left to run
            [
                binary,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
            prometheus = Prometheus(client)
            await _until_ready(client, process)
            await prometheus.comes_to("count(up == 1)", 2)
            yield prometheus
    finally:
        process.terminate()
        process.wait(30)


async def _until_ready(client: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    for _ in range(120):
        assert process.poll() is None, "prometheus has ended"
        try:
            if (await client.get("/-/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.25)
    raise AssertionError("prometheus is not ready")


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Receipts and usage of an answer, whole or streamed."""
    if fields.get("stream"):
        fields["stream_options"] = {"include_usage": True}
    response = await client.post(CHAT, json=ASK | fields)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        answer: dict[str, Any] = response.json()
        return answer
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(event) for event in events]
    ended = [c for chunk in chunks for c in chunk["choices"] if c.get("finish_reason")]
    return {"choices": ended, "usage": chunks[-1]["usage"]}


async def test_prometheus_agrees_with_the_receipts(served: Running, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    ann = keys.add("ann", quotas={"thinking_tokens_per_day": 100_000})
    bob = keys.add("bob", quotas={"thinking_tokens_per_day": 10})
    keys.add("root", admin=True)
    async with gateway(
        served.engine_url, keys_file=keys.path, admission="on", receipt_wait_ms=5000
    ) as client:
        client.headers.update(ann)
        client.timeout = httpx.Timeout(120)
        url = str(client.base_url)
        async with scraping(url, keys.secrets["root"], tmp_path) as prometheus:
            await prometheus.comes_to("sum(s1_tokens_total) or sum(s1_empty_answers_total)", 0)
            made = await prometheus.value('sum({__name__="vllm:generation_tokens_total"})')
            assert made is not None
            answers: list[dict[str, Any]] = []
            # Twice: a counter that begins with its first event shows no rate before the second.
            for _ in range(2):
                answers += [await ask(client, **fields) for fields in SCRIPT]
                assert answers[-3]["choices"][0]["thinking_budget"]["answer_tokens"] > 30
                refused = await client.post(CHAT, json=ASK | {"max_thinking_tokens": 40}, headers=bob)
                assert refused.status_code == 429
                await _check_sums(prometheus, answers, made)
            for votes in (1, 2):
                await ask(client, **VOTE)
                await prometheus.comes_to("sum(s1_parallel_branches_sum)", 2 * votes)
            await _check_panels(prometheus)
            alerts = (await prometheus.client.get("/api/v1/alerts")).json()["data"]["alerts"]
            assert [alert["labels"] for alert in alerts if alert["state"] == "firing"] == []


async def _check_sums(prometheus: Prometheus, answers: list[dict[str, Any]], made_before: float) -> None:
    receipts = [choice["thinking_budget"] for answer in answers for choice in answer["choices"]]
    budgeted = [receipt for receipt in receipts if receipt["effective"] is not None]
    completion = sum(answer["usage"]["completion_tokens"] for answer in answers)
    thinking = sum(receipt["thinking_tokens"] for receipt in receipts)
    sums = {
        's1_tokens_total{kind="thinking"}': thinking,
        's1_tokens_total{kind=~"thinking|marker|answer"}': completion,
        's1_tokens_total{kind="prompt"}': sum(answer["usage"]["prompt_tokens"] for answer in answers),
        "s1_thinking_used_tokens_sum": thinking,
        "s1_thinking_used_tokens_count": len(receipts),
        "s1_thinking_effective_tokens_sum": sum(r["effective"]["max"] for r in budgeted),
        "s1_answer_tokens_sum": sum(r["answer_tokens"] for r in budgeted),
        "s1_waits_injected_total": sum(r["waits"] for r in receipts),
        "s1_empty_answers_total": 0,
        's1_thinking_ended_total{ended_by="max_thinking_tokens"}': len(
            [r for r in receipts if r["ended_by"] == "max_thinking_tokens"]
        ),
        's1_requests_total{outcome="ok"}': len(answers),
        's1_quota_used_tokens_total{kind="thinking"}': thinking,
        's1_quota_refusals_total{reason="request_too_large"}': len(answers) // len(SCRIPT),
        # What the engine itself says that it has made.
        '{__name__="vllm:generation_tokens_total"}': made_before + completion,
    }
    for expression, expected in sums.items():
        await prometheus.comes_to(f"sum({expression})", expected)


async def _check_panels(prometheus: Prometheus) -> None:
    panels = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    empty = [
        f"{panel['title']}: {expression}"
        for panel in panels
        for target in panel.get("targets", ())
        if not await _has_data(prometheus, expression := _filled_in(target["expr"]))
    ]
    assert len(panels) > 30
    assert empty == []


def _filled_in(expression: str) -> str:
    """As Grafana would with all models and engines."""
    for name, value in (("$__rate_interval", "2m"), ("$__range", "10m"), ("$model", ".*"), ("$engine", ".*")):
        expression = expression.replace(name, value)
    return expression


async def _has_data(prometheus: Prometheus, expression: str) -> bool:
    return any(math.isfinite(float(found["value"][1])) for found in await prometheus.query(expression))
