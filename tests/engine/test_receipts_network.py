"""Receipts on their way between two machines: a worker without the API server's run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq.asyncio
from starlette.types import Receive, Scope, Send

from server.budget.receipt import EngineReceipt
from server.engine.config import RECEIPTS_VARIABLE, RUN_DIR_VARIABLE
from server.engine.receipts import PROTOCOL, EngineInfo, ReceiptPublisher
from server.engine.routes import EngineRoutes
from server.engine.supervisor import free_port

INFO = EngineInfo(
    protocol=PROTOCOL,
    processor="v1",
    family="s1",
    think_start="<|im_start|>think",
    think_end="<|im_start|>answer",
    wait_text="Wait",
    answer_prompt="\nFinal Answer:",
    enforces=("max_thinking_tokens",),
    max_model_len=2048,
    minimum_room=4,
    start_tokens=2,
    end_tokens=2,
    answer_prompt_tokens=4,
    tokenizer={},
    reserved_tokens=(1, 2),
    markers={"eos": [3]},
    checkpoint="e1",
)


async def vllm(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("only our own routes are asked")


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    address = f"tcp://127.0.0.1:{free_port()}"
    (tmp_path / "leader").mkdir()
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "leader"))
    monkeypatch.setenv(RECEIPTS_VARIABLE, address)
    yield address
    zmq.asyncio.Context.instance().destroy(linger=0)


async def test_description_and_receipts_reach_the_api_server(tmp_path: Path, address: str) -> None:
    elsewhere = tmp_path / "no-such-folder-here"
    receipts = [receipt_of(f"r{i}", output_tokens=10 + i) for i in range(100)]
    # The worker is there before the API server listens.
    with closing(ReceiptPublisher(elsewhere, INFO, replica=0, address=address)) as publisher:
        for receipt in receipts:
            publisher.publish(receipt)
        transport = httpx.ASGITransport(EngineRoutes(vllm))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            for i, receipt in enumerate(receipts):
                query = {"output_tokens": 10 + i, "wait_ms": 5000}
                answer = await client.get(f"/s1/receipts/r{i}", params=query)
                assert EngineReceipt.from_json(answer.json()) == receipt
            description = (await client.get("/s1/engine")).json()
            markers = (await client.get("/s1/markers")).json()
    assert description["family"] == "s1" and description["reserved_tokens"] == [1, 2]
    assert "markers" not in description and markers == {"eos": [3]}
    assert not elsewhere.exists()


async def test_a_second_api_server_at_the_same_port_is_refused(address: str) -> None:
    async def ask(routes: EngineRoutes) -> Any:
        transport = httpx.ASGITransport(routes)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.get("/s1/receipts/none")

    first, second = EngineRoutes(vllm), EngineRoutes(vllm)
    assert (await ask(first)).status_code == 404
    with pytest.raises(zmq.ZMQError, match="in use"):
        await ask(second)


def receipt_of(receipt_id: str, *, output_tokens: int) -> EngineReceipt:
    return EngineReceipt(
        receipt_id=receipt_id,
        effective_min=0,
        effective_max=8,
        effective_num_waits=0,
        clamped_by=(),
        output_tokens=output_tokens,
        thinking_begin=0,
        thinking_end=8,
        answer_begin=10,
        wait_positions=(),
        ended_by="model",
    )
