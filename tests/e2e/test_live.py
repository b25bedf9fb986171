"""Live control on real engines: with the plugin, and in rounds before stock vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.budget.markers import MarkerIds
from tests.e2e.test_budgets import count
from tests.support.engines import Running, sse_events

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "How many r in raspberry?"}]
# The model would never stop thinking before its maximum.
LONG = {"max_thinking_tokens": 1700, "num_waits": 1000, "temperature": 0, "return_token_ids": True}


@pytest.fixture(params=["served", "rounds"])
def running(request: pytest.FixtureRequest) -> Running:
    found: Running = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=120) as client:
        yield client


class Told:
    """A streamed completion that is told to answer after some tokens."""

    def __init__(
        self, http: httpx.Client, body: dict[str, Any], *, after_tokens: int, form: str, path: str = CHAT
    ) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.status = 0
        with http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            for event in sse_events(response.iter_lines()):
                self.chunks.append(event)
                if not self.status and len(self.token_ids) >= after_tokens:
                    self.status = self._tell(http, event["id"], form)

    def _tell(self, http: httpx.Client, id: str, form: str) -> int:
        self.id = id
        if form == "llama.cpp":
            return http.post(f"{CHAT}/control", json={"id": id, "action": "reasoning_end"}).status_code
        return http.post(f"{CHAT}/{id}/answer_now").status_code

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def token_ids(self) -> list[int]:
        return [token for choice in self.choices for token in choice.get("token_ids") or ()]

    @property
    def content(self) -> str:
        return "".join(choice["delta"].get("content") or "" for choice in self.choices)

    @property
    def receipt(self) -> dict[str, Any]:
        (found,) = [c["thinking_budget"] for c in self.choices if c.get("thinking_budget")]
        return dict(found)


def whole(http: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    response = http.post(CHAT, json={"model": model, "messages": QUESTION, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("form", ["answer_now", "llama.cpp"])
def test_an_answer_now(http: httpx.Client, running: Running, ids: MarkerIds, form: str) -> None:
    body = {"model": running.model, "messages": QUESTION, **LONG, "stream_options": {"include_usage": True}}
    told = Told(http, body, after_tokens=20, form=form)
    for _ in range(4):
        if told.status == 200 and told.receipt["ended_by"] == "request":
            break
        # An engine that has the machine for itself may be through before a crowded client is heard.
        told = Told(http, body, after_tokens=20, form=form)
    assert told.status == 200
    assert told.receipt["ended_by"] == "request"
    assert 20 <= told.receipt["thinking_tokens"] < 1700
    assert told.content.strip()
    counted = count(told.token_ids, ids)
    assert counted.prompted
    kinds = (counted.thinking, counted.markers, counted.answer)
    assert kinds == tuple(told.receipt[f"{kind}_tokens"] for kind in ("thinking", "marker", "answer"))
    usage = told.chunks[-1]["usage"]
    assert usage["completion_tokens"] == sum(kinds)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == counted.thinking
    if told.token_ids[counted.thinking - 1] == ids.newline:
        # What was told to end here is what has its maximum here.
        same = whole(http, running.model, **{**LONG, "max_thinking_tokens": counted.thinking})
        assert told.token_ids == same["choices"][0]["token_ids"]
    again = http.post(f"{CHAT}/{told.id}/answer_now")
    assert again.status_code in (404, 409)


def test_a_time_limit(http: httpx.Client, running: Running) -> None:
    answer = whole(http, running.model, **LONG, max_thinking_ms=50)
    (choice,) = answer["choices"]
    assert choice["thinking_budget"]["ended_by"] == "time"
    assert choice["thinking_budget"]["thinking_tokens"] < 1000
    assert choice["message"]["content"].strip()


def test_a_time_limit_is_a_budget_of_its_own(http: httpx.Client, running: Running) -> None:
    answer = whole(http, running.model, max_thinking_ms=60_000, temperature=0)
    receipt = answer["choices"][0]["thinking_budget"]
    assert receipt["requested"] == {"max_thinking_ms": 60_000}
    assert receipt["ended_by"] == "model"


def test_nobody_of_this_name(http: httpx.Client) -> None:
    response = http.post(f"{CHAT}/chatcmpl-nobody/answer_now")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "completion_not_found")


def test_thinking_more(http: httpx.Client, running: Running, ids: MarkerIds) -> None:
    first = whole(http, running.model, max_thinking_tokens=300, temperature=0, return_token_ids=True)
    earlier = first["choices"][0]["thinking_budget"]
    asked = {"num_waits": 2, "max_thinking_tokens": 200, "return_token_ids": True}
    response = http.post(f"{CHAT}/{first['id']}/think_more", json=asked)
    assert response.status_code == 200, response.text
    second = response.json()
    (choice,) = second["choices"]
    thought = first["choices"][0]["token_ids"][: earlier["thinking_tokens"]]
    assert second["prompt_token_ids"] == [*first["prompt_token_ids"], *thought]
    receipt = choice["thinking_budget"]
    assert receipt["waits"] == 2
    assert receipt["continues"] == {
        "id": first["id"],
        "thinking_tokens": earlier["thinking_tokens"],
        "waits": 0,
    }
    assert tuple(choice["token_ids"][: len(ids.wait)]) == ids.wait
    assert choice["message"]["reasoning"].startswith("Wait")
    assert choice["message"]["content"].strip()
    counted = count(choice["token_ids"], ids)
    assert counted.thinking == receipt["thinking_tokens"] <= 200
    assert second["usage"]["completion_tokens"] == counted.thinking + counted.markers + counted.answer
    # The same as one request with two waits more: the model ended its thinking where the first one did.
    if earlier["ended_by"] == "model":
        at_once = whole(
            http,
            running.model,
            max_thinking_tokens=earlier["thinking_tokens"] + 200,
            num_waits=2,
            temperature=0,
            return_token_ids=True,
        )
        assert at_once["choices"][0]["token_ids"] == [*thought, *choice["token_ids"]]


def test_thinking_more_and_answering_now(http: httpx.Client, running: Running) -> None:
    """A continuation is a completion like others: it streams, and can be told to end."""
    first = whole(http, running.model, max_thinking_tokens=100, temperature=0)
    body = {"num_waits": 1000, "max_thinking_tokens": 1200, "return_token_ids": True}
    told = Told(http, body, after_tokens=20, form="answer_now", path=f"{CHAT}/{first['id']}/think_more")
    assert told.status == 200
    assert told.receipt["ended_by"] == "request"
    assert told.receipt["thinking_tokens"] < 1000
    assert told.receipt["waits"] >= 1
    assert told.content.strip()
