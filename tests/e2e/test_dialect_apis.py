"""Messages and Responses by their own SDKs: each way to say a budget, natively enforced and in rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.support.dialects import Request, of_messages, of_responses
from tests.support.engines import Running, gateway_only

pytestmark = pytest.mark.engine

QUESTION = "How many r in raspberry?"
# So that 80 % of 1280 completion tokens leave room for the answer.
POLICY = "server: {default: {answer_reserve_tokens: 64}}"
CASES = [
    pytest.param(16, 160, "minimal", id="a tight maximum"),
    pytest.param(1024, 1280, "high", id="a wide maximum"),
]


@dataclass
class Front:
    claude: Anthropic
    openai: OpenAI
    url: str
    model: str


@pytest.fixture(scope="module", params=["native", "rounds"])
def front(
    request: pytest.FixtureRequest, served: Running, stock: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("apis")
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    engine_url = served.engine_url if request.param == "native" else stock.url
    with (
        gateway_only(directory, engine_url, policy=policy) as gateway,
        Anthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=240) as claude,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=240) as openai,
    ):
        (engine,) = gateway.get("/ready")["engines"]
        assert engine["enforcement"] == request.param
        yield Front(claude, openai, gateway.url, served.model)


@dataclass
class Seen:
    """What a client was given."""

    kinds: list[str]
    thinking: str
    text: str
    receipt: dict[str, Any]
    thinking_tokens: int
    output_tokens: int


def by_claude(front: Front, room: int, fields: dict[str, Any], *, stream: bool) -> Seen:
    own = {name: fields[name] for name in ("thinking", "output_config") if name in fields}
    ours = {name: value for name, value in fields.items() if name not in own}
    asked: Any = {
        "model": front.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": room,
        "extra_body": ours | {"num_waits": 1, "temperature": 0},
        **own,
    }
    if stream:
        with front.claude.messages.stream(**asked) as events:
            seen: list[Any] = list(events)
            message: Any = events.get_final_message()
        receipt = next(event for event in seen if event.type == "message_delta").thinking_budget
        started = next(event for event in seen if event.type == "message_start").message.usage
        usage = message.usage
        assert started.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0) > 0
    else:
        message = front.claude.messages.create(**asked)
        receipt = message.thinking_budget
    blocks = {block.type: getattr(block, block.type) for block in message.content}
    return Seen(
        [block.type for block in message.content],
        blocks.get("thinking", ""),
        blocks.get("text", ""),
        receipt,
        message.usage.output_tokens_details.thinking_tokens,
        message.usage.output_tokens,
    )


def by_responses(front: Front, room: int, fields: dict[str, Any], *, stream: bool) -> Seen:
    own = {name: fields[name] for name in ("reasoning",) if name in fields}
    ours = {name: value for name, value in fields.items() if name not in own}
    asked: Any = {
        "model": front.model,
        "input": QUESTION,
        "max_output_tokens": room,
        "extra_body": ours | {"num_waits": 1, "temperature": 0},
        **own,
    }
    if stream:
        with front.openai.responses.stream(**asked) as events:
            for _ in events:
                pass
            response: Any = events.get_final_response()
    else:
        response = front.openai.responses.create(**asked)
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content]
    return Seen(
        [item.type for item in response.output],
        "".join(thoughts),
        response.output_text,
        response.thinking_budget,
        response.usage.output_tokens_details.reasoning_tokens,
        response.usage.output_tokens,
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("tokens", "room", "effort"), CASES)
def test_the_same_budget_in_both_apis(
    front: Front, tokens: int, room: int, effort: str, stream: bool
) -> None:
    seen: list[tuple[Request, Seen]] = []
    for forms, ask in ((of_messages, by_claude), (of_responses, by_responses)):
        for asked in forms(tokens, effort=effort):
            seen.append((asked, ask(front, room, asked.fields, stream=stream)))
    first = seen[0][1]
    assert first.text
    for asked, got in seen:
        assert got.kinds in (["thinking", "text"], ["reasoning", "message"])
        assert got.receipt["effective"] == {"min": 0, "max": tokens, "num_waits": 1}, asked
        assert got.receipt["requested"] == {"max_thinking_tokens": tokens, "num_waits": 1}, asked
        assert got.receipt.get("requested_as", {}).get("max_thinking_tokens") == asked.named
        assert got.receipt["thinking_tokens"] == got.thinking_tokens <= tokens
        parts = ("thinking_tokens", "marker_tokens", "answer_tokens")
        assert sum(got.receipt[name] for name in parts) == got.output_tokens
        assert (got.thinking, got.text) == (first.thinking, first.text), asked
    assert (first.receipt["ended_by"] == "max_thinking_tokens") == (tokens == 16)


def test_forms_that_disagree_never_reach_the_engine(front: Front) -> None:
    message = {"model": front.model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1300}
    response = {"model": front.model, "input": QUESTION, "max_output_tokens": 1300}
    for path, base, forms in (
        ("/v1/messages", message, of_messages),
        ("/v1/responses", response, of_responses),
    ):
        pairs = 0
        for one in forms(1024, effort="high"):
            for other in forms(1200, effort="low"):
                if one.fields.keys() & other.fields.keys():
                    continue
                if (one.fields | other.fields).keys() <= {"thinking", "output_config"}:
                    continue  # Anthropic's own forms have their own precedence
                answer = httpx.post(front.url + path, json={**base, **one.fields, **other.fields}, timeout=60)
                assert answer.status_code == 400, (one, other)
                told = answer.json()["error"]["message"]
                assert "disagree" in told
                for said in (one, other):
                    assert any(f"`{name}" in told for name in said.fields), (told, said)
                pairs += 1
        assert pairs
