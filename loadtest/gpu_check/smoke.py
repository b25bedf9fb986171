"""A server as users start it, on each of vLLM's runners: it starts, honours a budget, and receipts arrive."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from pathlib import Path
from typing import Any

import httpx

from loadtest.gpu_check.configurations import SMALL_CACHE_BYTES, arguments
from loadtest.gpu_check.machine import Gpu, engine_bytes, engines_at_once, find_gpu, weight_bytes
from loadtest.gpu_check.options import Options
from loadtest.gpu_check.result import PartResult
from server.engine.launch import EngineOptions, command
from server.engine.selection import Runner
from server.engine.supervisor import EngineStartError, EngineSupervisor

_MAX_THINKING_TOKENS = 12
_RECEIPT_WAIT_MS = 5000
_POLL_S = 0.25


class SmokeError(RuntimeError):
    """The server did not do what it should; the message says what."""


def run(options: Options, result: PartResult, *, deadline: float, logs: Path) -> None:
    gpu = find_gpu() if options.device == "cuda" else None
    runners: tuple[Runner, ...] = ("v1",) if gpu is None else ("v2", "v1")
    one = engine_bytes(weight_bytes(Path(options.model), "auto"), SMALL_CACHE_BYTES)
    gate = asyncio.Semaphore(max(1, engines_at_once(one, gpu, most=len(runners))))

    async def check(runner: Runner) -> None:
        async with gate:
            engine = _engine_options(options, gpu, runner)
            result.commands.append(
                f"S1_ENGINE_RUNNER={runner} " + shlex.join(command(engine, host="127.0.0.1", port=0))
            )
            try:
                limit_s = deadline - time.monotonic()
                detail = await asyncio.wait_for(_serve_once(engine, logs / f"smoke-{runner}.log"), limit_s)
                result.check(f"smoke {runner}", True, detail)
            except (SmokeError, EngineStartError, TimeoutError, httpx.HTTPError) as error:
                result.check(f"smoke {runner}", False, f"{type(error).__name__}: {error}")

    async def check_all() -> None:
        await asyncio.gather(*(check(runner) for runner in runners))

    asyncio.run(check_all())


def _engine_options(options: Options, gpu: Gpu | None, runner: Runner) -> EngineOptions:
    weights = weight_bytes(Path(options.model), "auto")
    extra: list[str] = ["--served-model-name", "checked"]
    for name, value in arguments(options, gpu, weights=weights, cache=SMALL_CACHE_BYTES).items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            extra.append(flag)
        else:
            extra += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return EngineOptions(model=options.model, max_model_len=1024, runner=runner, extra_args=tuple(extra))


async def _serve_once(engine: EngineOptions, log: Path) -> str:
    """Start a server, ask once, and end it."""
    failed: asyncio.Future[EngineStartError] = asyncio.get_running_loop().create_future()
    supervisor = EngineSupervisor(engine, log_path=log, on_give_up=failed.set_result)
    async with supervisor.running(), httpx.AsyncClient(base_url=supervisor.url, timeout=60) as client:
        began = time.monotonic()
        while not await _is_ready(client):
            if failed.done():
                raise failed.result()
            await asyncio.sleep(_POLL_S)
        ready_s = time.monotonic() - began
        thinking = await _ask(client, engine.runner)
        return f"ready in {ready_s:.0f} s; {thinking} of at most {_MAX_THINKING_TOKENS} thinking tokens"


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _ask(client: httpx.AsyncClient, runner: Runner) -> int:
    """One budgeted request and its receipt; returns the thinking tokens it shows."""
    info = (await client.get("/s1/engine")).json()
    _demand(info.get("processor") == runner, f"the engine names the processor {info.get('processor')}")
    body = {
        "model": "checked",
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "max_completion_tokens": 100,
        "vllm_xargs": {"max_thinking_tokens": _MAX_THINKING_TOKENS, "num_waits": 50, "receipt_id": "smoke"},
    }
    response = await client.post("/v1/chat/completions", json=body)
    _demand(response.status_code == httpx.codes.OK, response.text)
    completion = response.json()
    tokens = completion["usage"]["completion_tokens"]
    path = f"/s1/receipts/smoke?output_tokens={tokens}&wait_ms={_RECEIPT_WAIT_MS}"
    answered = await client.get(path)
    _demand(answered.status_code == httpx.codes.OK, f"no receipt: {answered.text}")
    receipt: dict[str, Any] = answered.json()
    thinking: int = receipt["thinking_end"] - receipt["thinking_begin"]
    _demand(thinking == _MAX_THINKING_TOKENS, f"{thinking} thinking tokens; 50 waits leave no fewer")
    _demand(receipt["ended_by"] == "max_thinking_tokens", f"thinking ended by {receipt['ended_by']}")
    _demand(bool(completion["choices"][0]["message"]["content"]), "the answer is empty")
    return thinking


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SmokeError(otherwise)
