"""The bytes that the stand-in engine sends: vLLM's chat completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from loadtest.stand_in_script import Output

CREATED = 1_700_000_000
DONE = b"data: [DONE]\n\n"


def head(status: str, content_type: str, length: int) -> bytes:
    return (f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n").encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def framed(event: bytes) -> bytes:
    """One part of a body in chunked transfer encoding."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def usage(output: Output) -> dict[str, Any]:
    return {
        "prompt_tokens": output.prompt,
        "total_tokens": output.prompt + output.tokens,
        "completion_tokens": output.tokens,
        "completion_tokens_details": {"reasoning_tokens": output.thinking},
    }


def whole(output: Output, *, id: str, model: str, with_ids: bool) -> bytes:
    reasoning, content = output.text(0, output.tokens)
    choice = {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": content or None,
            "refusal": None,
            "reasoning": reasoning or None,
        },
        "logprobs": None,
        "finish_reason": output.finish_reason,
        "stop_reason": None,
        "token_ids": [output.token_id(i) for i in range(output.tokens)] if with_ids else None,
    }
    return orjson.dumps(
        {
            "id": id,
            "object": "chat.completion",
            "created": CREATED,
            "model": model,
            "choices": [choice],
            "usage": usage(output),
        }
    )


class Chunks:
    """The events of one stream, in vLLM's form: the same keys in the same order."""

    def __init__(self, output: Output, *, id: str, model: str, with_ids: bool) -> None:
        self.output = output
        self._with_ids = with_ids
        common = orjson.dumps(
            {"id": id, "object": "chat.completion.chunk", "created": CREATED, "model": model}
        )
        self._before = b"data: " + common[:-1]
        self._choice = self._before + b',"choices":[{"index":0,"delta":'

    def first(self) -> bytes:
        delta = b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        return self._choice + delta

    def tokens(self, begin: int, end: int) -> bytes:
        """The event of tokens `begin` to `end`; empty where vLLM sends none: markers say nothing."""
        output = self.output
        reasoning, content = output.text(begin, end)
        last = end == output.tokens
        if not (reasoning or content or last or self._with_ids):
            return b""
        parts = []
        if reasoning:
            parts.append('"reasoning":"' + reasoning + '"')
        if content:
            parts.append('"content":"' + content + '"')
        finish = f'"{output.finish_reason}","stop_reason":null' if last else "null"
        ids = ""
        if self._with_ids:
            ids = ',"token_ids":[' + ",".join(str(output.token_id(i)) for i in range(begin, end)) + "]"
        delta = "{" + ",".join(parts) + '},"logprobs":null,"finish_reason":' + finish + ids + "}]}\n\n"
        return self._choice + delta.encode()

    def usage(self) -> bytes:
        return self._before + b',"choices":[],"usage":' + orjson.dumps(usage(self.output)) + b"}\n\n"


def receipt(output: Output, delivered: int) -> Mapping[str, Any] | None:
    """The receipt's record of `output`, as of so many tokens."""
    if output.receipt is None:
        return None
    fields = asdict(output.receipt) | {"output_tokens": delivered}
    for name in ("thinking_end", "answer_begin"):
        if fields[name] is not None and fields[name] > delivered:
            fields[name] = None
    return fields


def refusal(message: str, *, code: int, param: str | None = None) -> bytes:
    error = {"message": message, "type": "BadRequestError", "param": param, "code": code}
    return orjson.dumps({"error": error})
