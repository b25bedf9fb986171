"""A choice's receipt together with its answer, for whoever asks for it: a request less for every choice.

A request with the header `x-s1-receipt: RECEIPT_ID` has the receipt in its answer: as the last field,
`s1_receipt`, of a whole completion, or as an event of its own, `{"s1_receipt": …}`, before a stream's [DONE].
An answer that says nothing of its tokens, or whose receipt doesn't come in time, goes out as it is; the
receipt is to be had at its route then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import Message, Scope, Send

HEADER = b"x-s1-receipt"
FIELD = "s1_receipt"
_DONE = b"data: [DONE]\n\n"
_IN_TIME_S = 0.25
"""The sampler tells of a choice at the step after its last, and an answer shouldn't wait for more."""
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
"""In JSON nothing but a key can match: a quotation mark within a text is escaped."""

Take = Callable[[str, int, float], Awaitable[Mapping[str, Any] | None]]
"""The receipt with this id once it covers so many tokens, or None after so many seconds."""


def wanted_receipt(scope: Scope) -> str | None:
    """The id of the receipt that a request wants with its answer."""
    for name, value in scope["headers"]:
        if name == HEADER:
            return str(value, "latin-1")
    return None


class SendWithReceipt:
    """What an application sends, with the receipt added."""

    def __init__(self, send: Send, receipt_id: str, take: Take) -> None:
        self._send = send
        self._receipt_id = receipt_id
        self._take = take
        self._start: Message | None = None
        """Of a whole answer, held back because its length will change."""
        self._parts: list[bytes] = []
        self._before = b""
        """What a stream has sent last: its usage, when [DONE] comes."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if _is_whole(message):
                self._start = message
                return
        elif self._start is not None:
            await self._whole(self._start, message)
            return
        elif message["type"] == "http.response.body":
            message = await self._streamed(message)
        await self._send(message)

    async def _whole(self, start: Message, message: Message) -> None:
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._parts)
        receipt = await self._receipt(body)
        if receipt is not None:
            body = b'%b,"%b":%b}' % (body.rstrip()[:-1], FIELD.encode(), receipt)
            others = [field for field in start["headers"] if field[0].lower() != b"content-length"]
            start = {**start, "headers": [*others, (b"content-length", b"%d" % len(body))]}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    async def _streamed(self, message: Message) -> Message:
        body = message.get("body", b"")
        if body.endswith(_DONE):
            receipt = await self._receipt(self._before + body)
            if receipt is not None:
                added = b'data: {"%b":%b}\n\n' % (FIELD.encode(), receipt)
                return {**message, "body": body[: -len(_DONE)] + added + _DONE}
        self._before = body
        return message

    async def _receipt(self, said: bytes) -> bytes | None:
        """As JSON; None if what was said has no usage, or in vain."""
        counts = _COMPLETION_TOKENS.findall(said)
        if not counts:
            return None
        receipt = await self._take(self._receipt_id, int(counts[-1]), _IN_TIME_S)
        return None if receipt is None else json.dumps(receipt, separators=(",", ":")).encode()


def _is_whole(start: Message) -> bool:
    """Whether a JSON object follows that may be added to."""
    if start["status"] != 200:
        return False
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return bool(kinds) and kinds[-1].startswith(b"application/json")
