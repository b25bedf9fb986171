"""Forms in which servers have been seen to answer: which answers are whole, and which failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from loadtest.client.discover import DiscoveryError, Found, discover
from tests.loadtest.scripted import DONE, USAGE, delta, event, record_of

_ENDED = delta(finish="stop")


async def whole(**fields: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {"choices": [choice | fields], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    return await record_of(orjson.dumps(body), stream=False)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([delta("a"), delta(finish="abort"), DONE], "finish reason abort"),
        ([delta("a"), delta(finish="error"), DONE], "finish reason error"),
        ([event({"object": "error", "message": "out of memory", "code": 500}), DONE], "error event"),
        ([event({"error": {"message": "out of memory"}}), DONE], "error event"),
        ([event({"choices": [{"index": 0, "error": {"message": "upstream"}}]}), DONE], "error event"),
        ([delta("a"), USAGE, DONE], "no finish reason"),
        ([delta("a")], "no [DONE]"),
        ([b"data: {not json\n\n", DONE], "not JSON"),
        ([event({"choices": 5}), _ENDED, DONE], "not a chat completion"),
        ([event([1]), _ENDED, DONE], "not a chat completion"),
    ],
)
async def test_a_stream_that_failed_is_an_error(parts: list[bytes], error: str) -> None:
    assert (await record_of(*parts)).error == error


@pytest.mark.parametrize(
    "parts",
    [
        [event({"error": None, "choices": [{"delta": {"content": "a"}}]}), _ENDED, USAGE, DONE],
        [delta("a"), _ENDED, USAGE],
        [delta("a"), _ENDED, USAGE, b"data: [DONE]"],
        [delta("a").replace(b"data: ", b"data:"), _ENDED, USAGE, DONE],
        [delta("a").replace(b'"delta"', b'\ndata: "delta"'), _ENDED, USAGE, DONE],
        [part.replace(b"\n", b"\r\n") for part in (b": hello\n\n", delta("a"), _ENDED, USAGE, DONE)],
        [b"event: message\nid: 1\n" + delta("a"), _ENDED, USAGE, DONE],
    ],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_a_stream_that_is_whole_is_no_error(parts: list[bytes], cut: bool) -> None:
    """Whether its parts come as events or byte by byte."""
    body = b"".join(parts)
    record = await record_of(*([body[i : i + 1] for i in range(len(body))] if cut else parts))
    assert (record.error, record.empty, record.completion_tokens) == (None, False, 2)


async def test_a_body_may_end_with_the_connection() -> None:
    record = await record_of(delta("a"), _ENDED, USAGE, DONE, length=False)
    assert (record.error, record.empty) == (None, False)
    record = await record_of(delta("a"), length=False)
    assert record.error == "no [DONE]"


async def test_a_body_that_is_shorter_than_told_is_cut() -> None:
    head = "200 OK\r\ntransfer-encoding: chunked\r\n"
    record = await record_of(b"5\r\ndata:", head=head, length=False)
    assert record.error == "cut"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, None),
        ({"error": None}, None),
        ({"error": {"message": "upstream"}}, "error event"),
        ({"finish_reason": "abort"}, "finish reason abort"),
        ({"finish_reason": None}, "no finish reason"),
        ({"message": None}, "not a chat completion"),
        ({"message": {"content": 5}, "thinking_budget": 7, "token_ids": 3}, "not a chat completion"),
    ],
)
async def test_a_whole_answer(fields: dict[str, Any], error: str | None) -> None:
    assert (await whole(**fields)).error == error


@pytest.mark.parametrize(
    "thinking",
    [
        {"reasoning": "hm"},
        {"reasoning_content": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
    ],
)
async def test_thinking_is_not_taken_for_an_answer(thinking: dict[str, Any]) -> None:
    record = await record_of(delta(**thinking), _ENDED, USAGE, DONE)
    assert (record.first_thinking is not None, record.first_answer, record.empty) == (True, None, True)
    assert (await whole(message={"content": None, **thinking})).empty
    answer = delta([{"type": "text", "text": "4"}])
    record = await record_of(delta(**thinking), answer, _ENDED, USAGE, DONE)
    assert record.first_answer is not None and not record.empty


async def test_an_answer_that_never_thought_breaks_no_maximum() -> None:
    """As vLLM answers with `enable_thinking: false`: token ids, no end marker, and content alone."""
    stream = [delta("a", token_ids=[50]), delta("b", token_ids=[51, 52]), _ENDED, USAGE, DONE]
    record = await record_of(*stream, max_thinking_tokens=0)
    assert (record.violation, record.thinking_tokens, record.answer_tokens) == (None, 0, 3)
    stream[0] = delta(reasoning="a", token_ids=[50, 1, 3])
    assert (await record_of(*stream, max_thinking_tokens=0)).violation == "max_thinking_tokens"


@asynccontextmanager
async def picky(refused: str | None = None, *, key: str | None = None) -> AsyncIterator[str]:
    """A server that refuses a field, or takes a key."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                asked = orjson.loads(await reader.readexactly(length) or b"{}")
                status, told = "200 OK", {"data": [{"id": "m"}], "choices": []}
                if key is not None and f"Bearer {key}".encode() not in head:
                    status, told = "401 Unauthorized", {"error": {"message": "a key is needed"}}
                elif refused in asked:
                    status, told = "400 Bad Request", {"error": {"message": f"Unsupported: {refused}"}}
                raw = orjson.dumps(told)
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def found(url: str, key: str | None = None) -> Found:
    return await asyncio.to_thread(
        discover, url, model=None, fields="ours", key=key, family=None, timeout_s=20
    )


async def test_a_server_may_refuse_fields_that_the_load_does_not_need() -> None:
    for refused in ("max_tokens", "return_token_ids"):
        async with picky(refused) as url:
            assert (await found(url)).dialect.model == "m"
    async with picky("messages") as url:
        with pytest.raises(DiscoveryError, match="gives 400: Unsupported: messages$"):
            await found(url)


async def test_a_server_that_takes_a_key_is_told_with_the_option_that_gives_one() -> None:
    async with picky(key="sk-1") as url:
        with pytest.raises(DiscoveryError, match="a key is needed .*--api-key, or S1_API_KEY"):
            await found(url)
        assert (await found(url, "sk-1")).dialect.model == "m"


async def test_the_servers_own_words_are_kept_with_an_error() -> None:
    refused = orjson.dumps({"error": {"message": "`max_completion_tokens` must be <= 2048.\nGiven: 4096"}})
    record = await record_of(refused, head="400 Bad Request\r\n")
    assert (record.error, record.message) == (
        "HTTP 400",
        "`max_completion_tokens` must be <= 2048. Given: 4096",
    )
    record = await record_of(b"<html>" + b"x" * 5000, head="502 Bad Gateway\r\n")
    assert record.message is not None and len(record.message) == 200
