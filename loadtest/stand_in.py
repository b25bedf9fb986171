"""A stand-in for an engine: vLLM's wire form with our plugin's routes, as fast as it is told to be.

It generates nothing and proves nothing about budgets: it is there to find the gateway's own limits and to
make faults. One process gives about 40,000 chunks a second; several listen on ports of their own, as several
engines do.

    python -m loadtest.stand_in --port 8001 --ttft-ms 20 --itl-ms 10
    python -m loadtest.stand_in --processes 2 --fault die=0.01 --fault stall=0.001
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Annotated, Any, cast

import httptools
import orjson
import typer
import uvloop

from loadtest.stand_in_engine import BYTES_PER_TOKEN, FAULTS, Engine, Options, answer
from loadtest.stand_in_script import Output, Script, generate
from loadtest.stand_in_wire import (
    DONE,
    STREAM_HEAD,
    Chunks,
    framed,
    head,
    receipt,
    refusal,
    whole,
)
from server.budget.spec import BudgetError


class ClientConnection(asyncio.Protocol):
    """One client connection; requests one after the other, as HTTP/1.1 without pipelining."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._target = b""
        self._request_id = ""
        self._receipt_wanted = False
        self._stream: Stream | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._body, self._target, self._request_id, self._receipt_wanted = [], b"", "", False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"x-request-id":
            self._request_id = value.decode("latin-1")
        elif name == b"x-s1-receipt":
            self._receipt_wanted = True

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        path, _, query = self._target.decode("latin-1").partition("?")
        if path == "/v1/chat/completions":
            self._chat(b"".join(self._body))
            return
        status, content_type, body = answer(self._engine, path, query, b"".join(self._body))
        self.send(head(status, content_type, len(body)) + body)

    def send(self, raw: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(raw)

    def _chat(self, raw: bytes) -> None:
        engine, options = self._engine, self._engine.options
        engine.requests += 1
        try:
            body = orjson.loads(raw)
            output = generate(body, options.script, prompt_tokens=max(1, len(raw) // BYTES_PER_TOKEN))
        except (orjson.JSONDecodeError, BudgetError) as error:
            return self._refuse("400 Bad Request", str(error), 400)
        fault = engine.fault(str((body.get("vllm_xargs") or {}).get("receipt_id", "")))
        if fault == "refuse":
            return self._refuse("503 Service Unavailable", "the stand-in refuses", 503)
        self._stream = Stream(
            self, engine, output, body, self._request_id, fault, with_receipt=self._receipt_wanted
        )
        self._stream.start()

    def _refuse(self, status: str, message: str, code: int) -> None:
        raw = refusal(message, code=code)
        self.send(head(status, "application/json", len(raw)) + raw)

    def done(self) -> None:
        self._stream = None


class Stream:
    """One chat request being answered, in steps of a chunk."""

    def __init__(
        self,
        connection: ClientConnection,
        engine: Engine,
        output: Output,
        body: Mapping[str, Any],
        request_id: str,
        fault: str | None,
        *,
        with_receipt: bool,
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._output = output
        self._fault = fault
        self._with_receipt = with_receipt
        self._fault_at = output.tokens // 2
        self._streams = body.get("stream") is True
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._interval = max(engine.options.stream_interval, int(body.get("stream_interval") or 1))
        self._id, self._model = f"chatcmpl-{request_id}", str(body.get("model"))
        self._with_ids = body.get("return_token_ids") is True
        self._chunks = Chunks(output, id=self._id, model=self._model, with_ids=self._with_ids)
        self._position = 0
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._due = 0.0

    def start(self) -> None:
        options = self._engine.options
        self._engine.running += 1
        self._engine.prompt_tokens += self._output.prompt
        wait_s = options.ttft_s + (0 if self._streams else options.itl_s * self._output.tokens)
        self._due = self._loop.time() + wait_s
        self._schedule(self._begin if self._streams else self._whole)

    def cancel(self) -> None:
        """The client has gone."""
        self._engine.cancelled += 1
        self._end(self._position)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._timer is None:
            self._schedule(self._step)

    def _schedule(self, step: Callable[[], None]) -> None:
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, step)
        else:
            self._timer = self._loop.call_soon(step)

    def _whole(self) -> None:
        raw = whole(self._output, id=self._id, model=self._model, with_ids=self._with_ids)
        if along := self._along():
            raw = raw[:-1] + b"," + along[1:]
        self._end(self._output.tokens)
        self._connection.send(head("200 OK", "application/json", len(raw)) + raw)

    def _begin(self) -> None:
        self._connection.send(STREAM_HEAD + framed(self._chunks.first()))
        self._step()

    def _step(self) -> None:
        self._timer = None
        if self._paused:
            return
        begin, total = self._position, self._output.tokens
        # vLLM sends the first token at once, whatever the interval.
        end = min(total, begin + self._interval if begin else 1)
        if self._fault is not None and end > self._fault_at and self._break():
            return
        event = self._chunks.tokens(begin, end)
        self._position = end
        if end == total:
            self._finish(event)
            return
        if event:
            self._connection.send(framed(event))
        self._due += self._engine.options.itl_s * min(self._interval, total - end)
        self._schedule(self._step)

    def _finish(self, event: bytes) -> None:
        parts = [event, self._chunks.usage() if self._with_usage else b""]
        if along := self._along():
            parts.append(b"data: " + along + b"\n\n")
        parts.append(DONE)
        self._end(self._output.tokens)
        self._connection.send(b"".join(framed(part) for part in parts if part) + b"0\r\n\r\n")

    def _along(self) -> bytes:
        """The receipt as our engine's routes send it with an answer; empty if nobody has asked for it."""
        if not self._with_receipt or self._fault == "no_receipt":
            return b""
        recorded = receipt(self._output, self._output.tokens)
        return b"" if recorded is None else orjson.dumps({"s1_receipt": recorded})

    def _break(self) -> bool:
        """Do what the fault is; True if nothing comes after it."""
        send = self._connection.send
        if self._fault == "die":
            self._connection.transport.abort()
        elif self._fault == "end_early":
            self._end(self._position)
            send(b"0\r\n\r\n")
        elif self._fault == "garbage":
            send(framed(b"data: {not json\n\n"))
        elif self._fault == "error":
            send(framed(b"data: " + refusal("EngineCore died", code=500) + b"\n\n" + DONE) + b"0\r\n\r\n")
            self._end(self._position)
        ends = self._fault in ("die", "stall", "end_early", "error")
        if self._fault in ("garbage", "error", "end_early", "die"):
            self._fault = None
        return ends

    def _end(self, delivered: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._engine.running -= 1
        self._engine.account(self._output, delivered, fault=self._fault)
        self._connection.done()


async def serve(options: Options, *, host: str, ports: Sequence[int], told: Connection) -> None:
    """Tell the URLs, and serve until SIGINT, SIGTERM or whoever is told has gone."""
    loop = asyncio.get_running_loop()
    servers = [await _listen(loop, options, host, port) for port in ports]
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    told.send([f"http://{host}:{server.sockets[0].getsockname()[1]}" for server in servers])
    # Nothing is ever sent this way: it becomes readable when the other end has gone.
    loop.add_reader(told.fileno(), stopped.set)
    await stopped.wait()
    loop.remove_reader(told.fileno())
    for server in servers:
        server.close()


async def _listen(loop: asyncio.AbstractEventLoop, options: Options, host: str, port: int) -> asyncio.Server:
    engine = Engine(options, random=random.Random(options.seed))  # noqa: S311 - reproducible, not secret
    return await loop.create_server(
        lambda: ClientConnection(engine), host, port, backlog=4096, family=socket.AF_INET
    )


def _serve_in_process(options: Options, host: str, ports: Sequence[int], told: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, host=host, ports=ports, told=told))


@contextlib.contextmanager
def running(
    options: Options, *, processes: int = 1, engines: int = 1, host: str = "127.0.0.1", port: int = 0
) -> Iterator[list[str]]:
    """Stand-ins in processes of their own, `engines` in each; yields their URLs.

    Args:
        port: the first one's, the others follow; 0: any.
    """
    context = multiprocessing.get_context("spawn")
    started: list[Any] = []
    ends: list[Connection] = []
    urls: list[str] = []
    try:
        for number in range(processes):
            here, there = context.Pipe()
            first = number * engines
            ports = [port + first + i if port else 0 for i in range(engines)]
            process = context.Process(
                target=_serve_in_process, args=(options, host, ports, there), daemon=True
            )
            process.start()
            started.append(process)
            ends.append(here)
            there.close()
            try:
                urls += here.recv()
            except EOFError:
                raise OSError(f"the stand-in could not listen on {host}, ports {ports}") from None
        yield urls
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join(10)
        for end in ends:
            end.close()


def main(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The first process's; 0: any.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Each is an engine on a port of its own.")] = 1,
    model: str = "stand-in",
    ttft_ms: Annotated[float, typer.Option(min=0)] = 0,
    itl_ms: Annotated[float, typer.Option(min=0, help="0: as fast as the client reads.")] = 0,
    stream_interval: Annotated[int, typer.Option(min=1, help="Tokens of a chunk.")] = 1,
    thinking_tokens: Annotated[int, typer.Option(min=1, help="Of its own accord.")] = 32,
    answer_tokens: Annotated[int, typer.Option(min=2)] = 16,
    kv_cache_tokens: Annotated[int | None, typer.Option(min=16)] = None,
    fault: Annotated[list[str] | None, typer.Option(help="KIND=PART of the requests; repeatable.")] = None,
    seed: int = 0,
) -> None:
    """Start stand-in engines and print their URLs, one a line, until Ctrl-C."""
    options = Options(
        script=Script(thinking=thinking_tokens, answer=answer_tokens),
        model=model,
        ttft_s=ttft_ms / 1000,
        itl_s=itl_ms / 1000,
        stream_interval=stream_interval,
        kv_cache_tokens=kv_cache_tokens,
        faults=read_faults(fault or []),
        seed=seed,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running(options, processes=processes, host=host, port=port) as urls:
        for url in urls:
            typer.echo(url)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def read_faults(given: list[str]) -> dict[str, float]:
    """
    Raises:
        typer.BadParameter: an unknown kind, or a part that isn't between 0 and 1.
    """
    faults = {}
    for text in given:
        kind, _, part = text.partition("=")
        if kind not in FAULTS:
            raise typer.BadParameter(f"--fault knows {', '.join(FAULTS)}. Given: {kind}")
        try:
            faults[kind] = float(part)
        except ValueError:
            faults[kind] = -1.0
        if not 0 <= faults[kind] <= 1:
            raise typer.BadParameter(f"--fault {kind}=PART must be from 0 to 1. Given: {part!r}")
    return faults


if __name__ == "__main__":
    typer.run(main)
