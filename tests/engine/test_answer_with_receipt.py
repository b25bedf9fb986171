"""A receipt along with its answer: what an engine's routes add to vLLM's own answers, and when they don't."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq.asyncio
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.budget.receipt import EngineReceipt
from server.engine.config import RUN_DIR_VARIABLE
from server.engine.receipts import ReceiptPublisher
from server.engine.routes import EngineRoutes
from tests.engine.test_receipts_network import INFO, receipt_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
QUOTING = 'she said "completion_tokens": 99'
WHOLE = {"choices": [{"message": {"content": QUOTING}}], "usage": USAGE}
EVENTS = [
    {"choices": [{"delta": {"content": QUOTING}}]},
    {"choices": [], "usage": USAGE},
]
DONE = "data: [DONE]\n\n"


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReceiptPublisher]:
    """A worker's."""
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path))
    with closing(ReceiptPublisher(tmp_path, INFO, replica=0)) as publisher:
        yield publisher
    zmq.asyncio.Context.instance().destroy(linger=0)


def answering(response: Response) -> EngineRoutes:
    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, send)

    return EngineRoutes(vllm)


class Parts:
    """For as many answers as are asked for."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[str]:
        for part in self._parts:
            yield part


def streaming(parts: Sequence[str]) -> Response:
    return StreamingResponse(Parts(parts), media_type="text/event-stream")


async def ask(app: ASGIApp, receipt_id: str | None = "r") -> httpx.Response:
    headers = {} if receipt_id is None else {"x-s1-receipt": receipt_id}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        return await client.post("/v1/chat/completions", headers=headers)


async def until_heard(app: ASGIApp, publisher: ReceiptPublisher) -> None:
    """The subscription takes a moment, and what is published before it is nobody's."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        for _ in range(500):
            publisher.publish(receipt_of("first", output_tokens=1))
            if (await client.get("/s1/receipts/first", params={"wait_ms": 20})).status_code == 200:
                return
    raise AssertionError("no receipt arrives")


def events_of(response: httpx.Response) -> list[Any]:
    data = [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


async def test_a_whole_answer_has_the_receipt_as_its_last_field(publisher: ReceiptPublisher) -> None:
    app = answering(JSONResponse(WHOLE, headers={"x-other": "kept"}))
    await until_heard(app, publisher)
    publisher.publish(receipt_of("r", output_tokens=12))
    response = await ask(app)
    answer = response.json()
    assert EngineReceipt.from_json(answer.pop("s1_receipt")) == receipt_of("r", output_tokens=12)
    assert answer == WHOLE
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["x-other"] == "kept"


async def test_a_stream_has_it_as_the_event_before_done(publisher: ReceiptPublisher) -> None:
    app = answering(streaming([*(f"data: {json.dumps(event)}\n\n" for event in EVENTS), DONE]))
    await until_heard(app, publisher)
    publisher.publish(receipt_of("r", output_tokens=13))
    *told, receipt, done = events_of(await ask(app))
    assert told == EVENTS and done == "[DONE]"
    assert EngineReceipt.from_json(receipt["s1_receipt"]) == receipt_of("r", output_tokens=13)


async def test_an_answer_waits_for_its_receipt(publisher: ReceiptPublisher) -> None:
    app = answering(JSONResponse(WHOLE))
    await until_heard(app, publisher)
    # As of a preemption: it doesn't cover what was delivered.
    publisher.publish(receipt_of("r", output_tokens=11))
    asking = asyncio.create_task(ask(app))
    await asyncio.sleep(0.05)
    assert not asking.done()
    publisher.publish(receipt_of("r", output_tokens=12))
    assert (await asking).json()["s1_receipt"]["output_tokens"] == 12


@pytest.mark.parametrize("response", [JSONResponse(WHOLE), streaming([json.dumps(WHOLE), DONE])])
async def test_an_answer_without_its_receipt_goes_out_as_it_is(
    publisher: ReceiptPublisher, response: Response
) -> None:
    app = answering(response)
    await until_heard(app, publisher)
    publisher.publish(receipt_of("r", output_tokens=11))
    assert "s1_receipt" not in (await ask(app)).text


@pytest.mark.parametrize(
    "response",
    [
        JSONResponse({"error": {"message": QUOTING}, "usage": USAGE}, status_code=400),
        PlainTextResponse(json.dumps(WHOLE)),
        JSONResponse({"choices": [{"message": {"content": QUOTING}}]}),
        streaming([f"data: {json.dumps(EVENTS[0])}\n\n", DONE]),
        streaming([f"data: {json.dumps(event)}\n\n" for event in EVENTS]),
    ],
    ids=["error", "no JSON", "no usage", "stream without usage", "stream without its end"],
)
async def test_other_answers_are_left_alone(publisher: ReceiptPublisher, response: Response) -> None:
    app = answering(response)
    await until_heard(app, publisher)
    publisher.publish(receipt_of("r", output_tokens=99))
    asked, plain = await ask(app), await ask(app, None)
    assert (asked.status_code, asked.content) == (plain.status_code, plain.content)
    assert "s1_receipt" not in asked.text


async def test_who_does_not_ask_gets_none(publisher: ReceiptPublisher) -> None:
    app = answering(JSONResponse(WHOLE))
    await until_heard(app, publisher)
    publisher.publish(receipt_of("r", output_tokens=12))
    assert (await ask(app, None)).json() == WHOLE


async def test_a_receipt_whose_answer_was_lost_can_be_asked_for(publisher: ReceiptPublisher) -> None:
    app = answering(JSONResponse(WHOLE))
    await until_heard(app, publisher)
    publisher.publish(receipt_of("r", output_tokens=12))
    given = (await ask(app)).json()["s1_receipt"]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        again = await client.get("/s1/receipts/r", params={"output_tokens": 12})
    assert again.json() == given


async def test_an_engine_without_a_run_directory_answers_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    assert (await ask(answering(JSONResponse(WHOLE)))).json() == WHOLE
