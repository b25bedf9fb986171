"""What observing costs the gateway: the same work for gateways that observe more and less, in quick turns.

    python -m loadtest.bench.observing --rounds 40 --output docs/results/observing-cost.json

Streams come at the speed of a GPU, 100 tokens a second each (`--itl-ms 10`), or as quickly as the gateway
reads (`--itl-ms 0`): an event for each token (`--granularity token`), or a dozen for a whole stream, of
which the request is then the dearest part.

One stand-in engine, one OTLP collector, and a gateway for each of

- `off`: S1_GATEWAY_OBSERVE=off,
- `metrics`: without the log's lines,
- `tracing`: metrics, and the default part of the requests traced,
- `all`: every request traced, and its line in the log.

Each turn is the same streams for one gateway. The gateway is one thread, so its capacity is what it does in
a second of CPU time: unlike wall clock time, that hardly depends on who else uses the machine, nor on what
client and engine cost. Turns are short, so that a change of the machine's mood hits all gateways of a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import aiohttp
import orjson
import typer

from loadtest import stand_in
from loadtest.bench.processes import Server, cpu_seconds, gateway
from loadtest.client.compare import Ratio
from loadtest.client.provenance import provenance
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script

_ANSWER_TOKENS = 32
_ON = {"S1_GATEWAY_OBSERVE": "on", "S1_GATEWAY_LOG_REQUESTS": "off"}


def variants(otlp_url: str) -> dict[str, dict[str, str]]:
    """The gateways' settings, the one without anything first."""
    traced = {"S1_GATEWAY_OTLP_ENDPOINT": otlp_url}
    return {
        "off": {"S1_GATEWAY_OBSERVE": "off"},
        "metrics": _ON,
        "tracing": _ON | traced,
        "all": traced
        | {"S1_GATEWAY_OBSERVE": "on", "S1_GATEWAY_LOG_FORMAT": "json", "S1_GATEWAY_TRACE_SAMPLE_RATIO": "1"},
    }


@dataclass(frozen=True, slots=True)
class Work:
    """Of one turn."""

    streams: int
    concurrency: int
    thinking_tokens: int
    granularity: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": "How many r in raspberry?"}],
            "max_thinking_tokens": self.thinking_tokens,
            "stream": True,
        } | ({} if self.granularity is None else {"stream_granularity": self.granularity})

    async def run(self, session: aiohttp.ClientSession, gateway: Server) -> float:
        """Returns the seconds that it took."""
        free = asyncio.Semaphore(self.concurrency)

        async def one() -> None:
            async with free, session.post(f"{gateway.url}/v1/chat/completions", json=self.body) as response:
                if response.status != 200 or b"[DONE]" not in await response.read():
                    raise RuntimeError(
                        f"{gateway.url}: status {response.status}, or a stream without its end"
                    )

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(self.streams)))
        return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Turn:
    cpu_s: float
    wall_s: float


async def measure(gateways: Mapping[str, Server], work: Work, *, rounds: int) -> dict[str, list[Turn]]:
    """Each round begins with another gateway; the first isn't counted.

    A turn's CPU time includes what the gateway did since its turn before: it counts some of what ended then
    a second later.
    """
    names = list(gateways)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    before_s: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:
        for number in range(rounds + 1):
            at = number % len(names)
            for name in names[at:] + names[:at]:
                wall_s = await work.run(session, gateways[name])
                cpu_s = cpu_seconds(gateways[name].process.pid)
                if number:
                    turns[name].append(Turn(cpu_s - before_s[name], wall_s))
                before_s[name] = cpu_s
    return turns


def compared(turns: Mapping[str, list[Turn]], work: Work) -> dict[str, Any]:
    """Each variant against `off`, round by round."""
    tokens = work.streams * (work.thinking_tokens + _ANSWER_TOKENS)
    told: dict[str, Any] = {}
    for name, own in turns.items():
        told[name] = {
            "tokens_per_cpu_s": round(median(tokens / turn.cpu_s for turn in own)),
            "best_tokens_per_cpu_s": round(tokens / _best(own)),
            "tokens_per_s": round(median(tokens / turn.wall_s for turn in own)),
        }
        if name == "off":
            continue
        told[name]["best_tokens_per_cpu_s_to_off"] = round(_best(turns["off"]) / _best(own), 4)
        pairs = list(zip(own, turns["off"], strict=True))
        for figure, field in (("tokens_per_cpu_s", "cpu_s"), ("tokens_per_s", "wall_s")):
            ratio = Ratio.of([getattr(off, field) / getattr(on, field) for on, off in pairs])
            told[name][f"{figure}_to_off"] = ratio.as_json()
    return told


def _best(turns: list[Turn]) -> float:
    """Mean CPU time of the tenth of the turns that other processes disturbed least."""
    fastest = sorted(turn.cpu_s for turn in turns)[: max(1, len(turns) // 10)]
    return sum(fastest) / len(fastest)


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Takes spans and forgets them; yields its URL."""

    class Taking(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()


def main(
    rounds: Annotated[int, typer.Option(min=3)] = 40,
    streams: Annotated[int, typer.Option(min=1, help="Of one turn.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1)] = 64,
    thinking_tokens: Annotated[int, typer.Option(min=1, help="Of a stream, before 32 of answer.")] = 224,
    itl_ms: Annotated[float, typer.Option(min=0, help="Of a stream, between two tokens.")] = 10,
    granularity: Annotated[str | None, typer.Option(help="token: an event for each.")] = None,
    output: Path | None = None,
) -> None:
    """Measure, print, and write what observing costs."""
    work = Work(streams, concurrency, thinking_tokens, granularity)
    script = Script(thinking=2 * thinking_tokens, answer=_ANSWER_TOKENS)
    with contextlib.ExitStack() as stack:
        (engine_url,) = stack.enter_context(stand_in.running(Options(script, itl_s=itl_ms / 1000)))
        settings = variants(stack.enter_context(collector()))
        gateways = {
            name: stack.enter_context(gateway([engine_url], env=own)) for name, own in settings.items()
        }
        turns = asyncio.run(measure(gateways, work, rounds=rounds))
    command = f"python -m loadtest.bench.observing {' '.join(sys.argv[1:])}".strip()
    found = {"provenance": provenance(command), "compared": compared(turns, work)}
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
