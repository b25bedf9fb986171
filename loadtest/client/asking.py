"""Ask one request and keep a record of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from loadtest.client.answer import Answer, Window
from loadtest.client.counting import Markers
from loadtest.client.forms import one_line
from loadtest.client.record import Record
from loadtest.client.wire import Client, Target, WireError
from loadtest.client.workload import Asked, BudgetFields

_ALWAYS: Window = (0.0, math.inf)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server is spoken to, as far as that differs."""

    model: str
    fields: BudgetFields
    with_ids: bool
    """Whether it takes `return_token_ids`."""
    markers: Markers
    authorization: str | None = None
    timeout_s: float = 600.0

    @property
    def headers(self) -> str:
        return f"authorization: Bearer {self.authorization}\r\n" if self.authorization else ""


async def ask(
    client: Client,
    target: Target,
    dialect: Dialect,
    asked: Asked,
    *,
    intended: float,
    on_gap: Callable[[float], None],
    window: Window = _ALWAYS,
) -> Record:
    """The record of one request, whatever becomes of it."""
    body = orjson.dumps(asked.body(dialect.model, fields=dialect.fields, with_ids=dialect.with_ids))
    raw = target.request("POST", "/v1/chat/completions", body, headers=dialect.headers)
    record = Record(asked.kind_number, intended, started=time.monotonic())
    answer = Answer(record, on_gap, asked.kind.stream, window)
    try:
        await _read(client, raw, answer, timeout_s=dialect.timeout_s)
        answer.judge(asked, fields=dialect.fields, markers=dialect.markers)
    except Exception as error:  # noqa: BLE001 - a server may send anything, and the other requests go on
        answer.fail("not a chat completion", one_line(f"{type(error).__name__}: {error}"))
    record.ended = record.ended or time.monotonic()
    return record


async def _read(client: Client, raw: bytes, answer: Answer, *, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            status = await client.send(raw, answer.read)
    except TimeoutError:
        answer.fail("timeout", f"no whole answer within {timeout_s:g} s")
    except WireError as error:
        answer.fail(str(error))
    else:
        answer.record.ended = time.monotonic()
        answer.end(status)
