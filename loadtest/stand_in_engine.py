"""What a stand-in engine is and knows: its options, its counts, and every route but chat."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from loadtest import stand_in_script as script
from loadtest.stand_in_script import Output, Script
from loadtest.stand_in_wire import CREATED, receipt, refusal

FAULTS = {
    "refuse": "answers 503",
    "die": "cuts the connection in the middle of the stream",
    "stall": "says nothing more in the middle of the stream",
    "end_early": "ends the stream without finish, usage and [DONE]",
    "garbage": "sends what is not JSON",
    "error": "sends an error event",
    "no_receipt": "has no receipt",
}
ENFORCED = ("max_thinking_tokens", "min_thinking_tokens", "num_waits", "answer_reserve_tokens")
_KEPT_RECEIPTS = 65_536
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Options:
    script: Script = field(default_factory=Script)
    model: str = "stand-in"
    ttft_s: float = 0.0
    itl_s: float = 0.0
    """Between two tokens of a stream; 0 is as fast as the client reads."""
    stream_interval: int = 1
    """Tokens of a chunk; a request may ask for more, as with vLLM."""
    kv_cache_tokens: int | None = None
    faults: Mapping[str, float] = field(default_factory=dict)
    """Part of the requests that have a fault, by kind."""
    seed: int = 0


@dataclass(slots=True)
class Engine:
    """What all connections share."""

    options: Options
    receipts: OrderedDict[str, Mapping[str, Any]] = field(default_factory=OrderedDict)
    requests: int = 0
    running: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    random: random.Random = field(default_factory=random.Random)

    def fault(self, receipt_id: str) -> str | None:
        """The kind that this request has; probes have none."""
        if receipt_id.startswith("probe-"):
            return None
        drawn = self.random.random()
        for kind, part in self.options.faults.items():
            if drawn < part:
                return kind
            drawn -= part
        return None

    def account(self, output: Output, delivered: int, *, fault: str | None) -> None:
        self.generation_tokens += delivered
        recorded = receipt(output, delivered)
        if recorded is None or fault == "no_receipt":
            return
        self.receipts[recorded["receipt_id"]] = recorded
        while len(self.receipts) > _KEPT_RECEIPTS:
            self.receipts.popitem(last=False)


def answer(engine: Engine, path: str, query: str, body: bytes) -> tuple[str, str, bytes]:
    """Everything but chat: status, content type and body."""
    if path == "/health":
        return "200 OK", "text/plain", b""
    if path == "/metrics":
        return "200 OK", "text/plain; version=0.0.4", _metrics(engine).encode()
    found: object = None
    if path == "/v1/models":
        found = {"object": "list", "data": [_card(engine.options)]}
    elif path == "/s1/engine":
        found = _description(engine.options)
    elif path == "/tokenize":
        found = _tokenized(orjson.loads(body), engine.options)
    elif path.startswith("/s1/receipts/"):
        asked = int(parse_qs(query).get("output_tokens", ["0"])[0])
        recorded = engine.receipts.pop(path.removeprefix("/s1/receipts/"), None)
        found = recorded if recorded is not None and recorded["output_tokens"] >= asked else None
    if found is None:
        return "404 Not Found", "application/json", refusal("Not Found", code=404)
    return "200 OK", "application/json", orjson.dumps(found)


def _card(options: Options) -> dict[str, Any]:
    return {
        "id": options.model,
        "object": "model",
        "created": CREATED,
        "owned_by": "vllm",
        "max_model_len": options.script.max_model_len,
    }


def _description(options: Options) -> dict[str, Any]:
    return {
        "protocol": 1,
        "processor": "stand-in",
        "family": "s1",
        "think_start": script.THINK_START,
        "think_end": script.THINK_END,
        "wait_text": script.WAIT,
        "answer_prompt": script.ANSWER_PROMPT,
        "enforces": list(ENFORCED),
        "max_model_len": options.script.max_model_len,
        "minimum_room": script.MINIMUM_ROOM,
    }


def _tokenized(body: Mapping[str, Any], options: Options) -> dict[str, Any]:
    known = {
        script.THINK_START: script.THINK_START_IDS,
        script.THINK_END: script.THINK_END_IDS,
        script.ANSWER_PROMPT: script.ANSWER_PROMPT_IDS,
        script.WAIT: (script.WAIT_ID,),
    }
    text = str(body.get("prompt", ""))
    tokens = list(known.get(text, [script.THINKING_ID] * (len(text) // BYTES_PER_TOKEN + 1)))
    return {"tokens": tokens, "count": len(tokens), "max_model_len": options.script.max_model_len}


def _metrics(engine: Engine) -> str:
    label = f'{{engine="0",model_name="{engine.options.model}"}}'
    lines = [
        f"vllm:num_requests_running{label} {engine.running}",
        f"vllm:prompt_tokens_total{label} {engine.prompt_tokens}",
        f"vllm:generation_tokens_total{label} {engine.generation_tokens}",
        f"stand_in:requests_total{label} {engine.requests}",
        f"stand_in:cancelled_total{label} {engine.cancelled}",
    ]
    if engine.options.kv_cache_tokens is not None:
        blocks = engine.options.kv_cache_tokens // 16
        lines.append(f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{blocks}"}} 1.0')
    return "".join(f"{line}\n" for line in lines)
