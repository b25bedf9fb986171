"""Small servers that speak the OpenAI, Anthropic and Gemini wire forms; faults are queued by the tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass
class Fault:
    """What is answered once instead of a reply; status 0 closes the connection."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "made to fail"}}'


@dataclass
class FakeModels:
    """`reply` makes the JSON of a 200 from the request's body; `requests` is what arrived."""

    reply: Callable[[Json], Json]
    url: str = ""
    requests: list[Json] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    fault_of: Callable[[Json], Fault | None] = lambda _: None
    checkpoint: str | None = None
    """What GET /models/{model} says, as our server does; None: 404."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_requests(self) -> int:
        return len(self.requests)

    def next_fault(self, body: Json) -> Fault | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.fault_of(body)


def handler_of(models: FakeModels) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with models.lock:
                models.requests.append(body)
                models.paths.append(self.path)
                models.headers.append({name.lower(): value for name, value in self.headers.items()})
            fault = models.next_fault(body)
            if fault is None:
                self._send(200, {}, json.dumps(models.reply(body)))
            elif fault.status == 0:
                self.close_connection = True
            else:
                self._send(fault.status, fault.headers, fault.body)

        def do_GET(self) -> None:
            if models.checkpoint is None:
                self._send(404, {}, "{}")
            else:
                self._send(200, {}, json.dumps({"thinking": {"checkpoint": models.checkpoint}}))

        def _send(self, status: int, headers: dict[str, str], text: str) -> None:
            content = text.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def fake_models(reply: Callable[[Json], Json], *, port: int = 0) -> Iterator[FakeModels]:
    models = FakeModels(reply)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler_of(models))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    models.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield models
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def prompt_of(body: Json) -> str:
    text: str = body["messages"][0]["content"]
    return text


def openai_reply(answer: str, thinking: str | None = None, *, tokens: int | None = None) -> Json:
    """As vLLM answers with a reasoning parser."""
    message: Json = {"role": "assistant", "content": answer, "reasoning": thinking, "tool_calls": []}
    usage: Json = {"prompt_tokens": 5, "completion_tokens": 90, "total_tokens": 95}
    if tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}


def anthropic_reply(answer: str, thinking: str) -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": thinking, "signature": "EqQB"},
            {"type": "redacted_thinking", "data": "EmwK"},
            {"type": "text", "text": answer},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 340},
    }


def gemini_reply(answer: str, thinking: str) -> Json:
    parts = [{"text": thinking, "thought": True}, {"text": answer}]
    return {
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": 8,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 300,
            "totalTokenCount": 328,
        },
        "modelVersion": "gemini",
    }
