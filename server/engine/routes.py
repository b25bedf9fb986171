"""Routes that our plugin adds to vLLM's API server, as ASGI middleware (`--middleware`).

- `GET /s1/engine`: what this engine enforces (`EngineInfo`).
- `GET /s1/markers`: its model's markers as token ids (`MarkerIds.to_json`).
- `GET /s1/receipts/{id}?output_tokens=N&wait_ms=M`: the receipt of a choice, once it covers N tokens.
- `POST /s1/end_thinking/{id}?ended_by=request|time`: leave the thinking of the choice with this receipt id
  after its next token. The answer's `state` is `thinking`, `answering`, or `absent`: then it is told as soon
  as it is scheduled, if it ever is.

A request to vLLM's own routes with the header `x-s1-receipt` has its receipt in the answer
(`server.engine.answer_with_receipt`).

They live on the engine's own port, so that a gateway needs nothing but its URL, on this machine or not.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import zmq.asyncio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.engine.answer_with_receipt import SendWithReceipt, wanted_receipt
from server.engine.config import receipts_address, replicas, run_dir
from server.engine.receipts import MARKERS, read_info, receive, subscribe

_KEPT = 65_536
"""Receipts kept for collection; each is collected within milliseconds of its choice's end."""
_KEPT_COLLECTED = 1_024
"""Of those that were collected: an answer may be lost on its way, and whoever lost it asks again."""
_MAX_WAIT_MS = 10_000
_WORDS = ("request", "time")
_END_THINKING = "/s1/end_thinking/"


class ReceiptStore:
    """The latest receipt of each choice, filled from the workers' sockets."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._receipts: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._collected: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._awaited: dict[str, list[asyncio.Event]] = {}
        """By receipt id: who waits for it. Hundreds of choices may end at once, and each wakes its own."""
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin reading, once a loop runs. Later calls do nothing."""
        if self._reader is None:
            socket = subscribe(
                zmq.asyncio.Context.instance(),
                self._directory,
                replicas=replicas(),
                address=receipts_address(),
            )
            self._reader = asyncio.create_task(self._read(socket))

    async def take(self, receipt_id: str, output_tokens: int, wait_s: float) -> dict[str, Any] | None:
        """The receipt once it covers `output_tokens`; None if it does not in `wait_s` seconds."""
        if (receipt := self._covering(receipt_id, output_tokens)) is None:
            try:
                async with asyncio.timeout(wait_s):
                    while (receipt := self._covering(receipt_id, output_tokens)) is None:
                        await self._arrival(receipt_id)
            except TimeoutError:
                return None
        self._collect(receipt_id, receipt)
        return receipt

    def _covering(self, receipt_id: str, output_tokens: int) -> dict[str, Any] | None:
        receipt = self._receipts.get(receipt_id) or self._collected.get(receipt_id)
        return receipt if receipt is not None and receipt["output_tokens"] >= output_tokens else None

    def _collect(self, receipt_id: str, receipt: dict[str, Any]) -> None:
        self._receipts.pop(receipt_id, None)
        self._collected[receipt_id] = receipt
        while len(self._collected) > _KEPT_COLLECTED:
            self._collected.popitem(last=False)

    async def _arrival(self, receipt_id: str) -> None:
        arrived = asyncio.Event()
        waiting = self._awaited.setdefault(receipt_id, [])
        waiting.append(arrived)
        try:
            await arrived.wait()
        finally:
            waiting.remove(arrived)
            if not waiting:
                self._awaited.pop(receipt_id, None)

    def has_ended_thinking(self, receipt_id: str) -> bool:
        """Whether the choice has left the batch after its thinking."""
        receipt = self._receipts.get(receipt_id) or self._collected.get(receipt_id) or {}
        return receipt.get("thinking_end") is not None

    async def _read(self, socket: Any) -> None:
        while True:
            receipt = await receive(socket, self._directory)
            if receipt is None:
                continue
            self._receipts[receipt["receipt_id"]] = receipt
            while len(self._receipts) > _KEPT:
                self._receipts.popitem(last=False)
            for arrived in self._awaited.get(receipt["receipt_id"], ()):
                arrived.set()


class EngineRoutes:
    """Answers `/s1/…` and passes everything else on to vLLM."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        directory = run_dir()
        self._directory = directory
        self._store = ReceiptStore(directory) if directory is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._store is not None:
            self._store.start()
        if scope["path"].startswith("/s1/"):
            response = await self._answer(scope)
            await response(scope, receive, send)
            return
        receipt_id = wanted_receipt(scope)
        if receipt_id is not None and self._store is not None:
            send = SendWithReceipt(send, receipt_id, self._store.take)
        await self.app(scope, receive, send)

    async def _answer(self, scope: Scope) -> JSONResponse:
        if self._store is None or self._directory is None:
            return _not_found("this engine was started without a run directory")
        path = scope["path"]
        if path == "/s1/engine":
            info = read_info(self._directory)
            return _not_started() if info is None else JSONResponse(_without_markers(info))
        if path == "/s1/markers":
            info = read_info(self._directory)
            return _not_started() if info is None else JSONResponse(info[MARKERS])
        if path.startswith("/s1/receipts/"):
            query = parse_qs(scope["query_string"].decode("latin-1"))
            receipt = await self._store.take(
                path.removeprefix("/s1/receipts/"),
                _number(query, "output_tokens", 0),
                min(_number(query, "wait_ms", 0), _MAX_WAIT_MS) / 1000,
            )
            return _not_found("no such receipt") if receipt is None else JSONResponse(receipt)
        if path.startswith(_END_THINKING) and scope["method"] == "POST":
            query = parse_qs(scope["query_string"].decode("latin-1"))
            ended_by = query.get("ended_by", [""])[0]
            if ended_by not in _WORDS:
                return _error(400, f"`ended_by` must be one of {', '.join(_WORDS)}. Given: {ended_by!r}")
            receipt_id = path.removeprefix(_END_THINKING)
            if self._store.has_ended_thinking(receipt_id):
                return JSONResponse({"state": "answering"})
            return JSONResponse({"state": await _tell_workers(scope, receipt_id, ended_by)})
        return _not_found(f"no route {path}")


async def _tell_workers(scope: Scope, receipt_id: str, ended_by: str) -> str:
    """Every worker of every data-parallel replica; only the one that has the choice knows its state."""
    core = scope["app"].state.engine_client.engine_core
    # Without a time limit: vLLM would take a reply that came too late for that of the next step.
    arguments = ("s1_end_thinking", None, (receipt_id, ended_by), None)
    replicas_said = await core.call_utility_all_async("collective_rpc", *arguments)
    # The last worker is of the stage that samples.
    said = {workers[-1] for workers in replicas_said} - {None}
    return "absent" if not said else "thinking" if True in said else "answering"


def _without_markers(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in info.items() if name != MARKERS}


def _number(query: dict[str, list[str]], name: str, default: int) -> int:
    value = query.get(name, [""])[0]
    return int(value) if value.isdecimal() else default


def _not_started() -> JSONResponse:
    return _error(503, "the worker has not started")


def _not_found(message: str) -> JSONResponse:
    return _error(404, message)


def _error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "engine_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status_code=status)
