"""Calls to models: wire forms, cache, retries; a bad request is not a bad endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from tests.support.fake_models import (
    Fault,
    anthropic_reply,
    fake_models,
    gemini_reply,
    openai_reply,
    prompt_of,
)
from training.endpoints.cache import CallCache, request_key
from training.endpoints.client import Caller, Endpoint, Patience, _retry_after_s, calling, for_all
from training.endpoints.errors import CacheError, EndpointError, EndpointRefuses, RequestRefused
from training.endpoints.wire import WIRES, Reply, Sampling

SAMPLING = Sampling(max_tokens=4096, temperature=0.5)


@asynccontextmanager
async def caller(folder: Path, *, retry_for_s: float = 20) -> AsyncIterator[Caller]:
    with CallCache(folder / "calls.jsonl") as cache:
        async with calling(cache, Patience(retry_for_s, 20), concurrency=4) as asking:
            yield asking


async def test_openai_form(tmp_path: Path) -> None:
    with fake_models(lambda body: openai_reply("4", "2+2", tokens=17)) as models:
        async with caller(tmp_path) as asking:
            endpoint = Endpoint("qwen", f"{models.url}/v1/", api_key="secret")
            extra = {"max_thinking_tokens": 64}
            reply = await asking.ask(endpoint, "What is 2+2?", Sampling(4096, 0.5, 7, extra))
    assert reply == Reply("4", "2+2", 17, 90, "stop")
    assert models.paths == ["/v1/chat/completions"]
    assert models.headers[0]["authorization"] == "Bearer secret"
    assert models.requests == [
        {
            "model": "qwen",
            "messages": [{"role": "user", "content": "What is 2+2?"}],
            "max_completion_tokens": 4096,
            "temperature": 0.5,
            "seed": 7,
            "max_thinking_tokens": 64,
        }
    ]


def test_older_and_other_openai_forms() -> None:
    wire = WIRES["openai-max-tokens"]
    assert wire.body("m", "q", Sampling(5)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 5,
    }
    message = {"content": "4", "reasoning_content": "2+2"}
    assert wire.reply({"choices": [{"message": message}]}) == Reply("4", "2+2")
    assert wire.headers(None) == {}


async def test_anthropic_form(tmp_path: Path) -> None:
    with fake_models(lambda body: anthropic_reply("4", "2+2")) as models:
        async with caller(tmp_path) as asking:
            endpoint = Endpoint("claude", f"{models.url}/v1", "anthropic", "secret")
            reply = await asking.ask(endpoint, "What is 2+2?", SAMPLING)
    assert reply == Reply("4", "2+2", None, 340, "end_turn")
    assert models.paths == ["/v1/messages"]
    assert models.headers[0]["x-api-key"] == "secret"
    assert models.headers[0]["anthropic-version"] == "2023-06-01"
    assert models.requests == [
        {
            "model": "claude",
            "max_tokens": 4096,
            "messages": [{"role": "user", "content": "What is 2+2?"}],
            "thinking": {"type": "enabled", "budget_tokens": 3072},
        }
    ]


def test_anthropic_without_room_for_thinking_or_with_the_users_own() -> None:
    body = WIRES["anthropic"].body
    assert "thinking" not in body("c", "q", Sampling(1500, 0.5))
    assert body("c", "q", Sampling(1500, 0.5))["temperature"] == 0.5
    own = {"thinking": {"type": "adaptive"}}
    assert body("c", "q", Sampling(9000, extra=own))["thinking"] == {"type": "adaptive"}


async def test_gemini_form(tmp_path: Path) -> None:
    with fake_models(lambda body: gemini_reply("4", "2+2")) as models:
        async with caller(tmp_path) as asking:
            endpoint = Endpoint("gemini-x", f"{models.url}/v1beta", "gemini", "secret")
            reply = await asking.ask(endpoint, "What is 2+2?", SAMPLING)
    assert reply == Reply("4", "2+2", 300, 20, "STOP")
    assert models.paths == ["/v1beta/models/gemini-x:generateContent"]
    assert models.headers[0]["x-goog-api-key"] == "secret"
    assert models.requests == [
        {
            "contents": [{"role": "user", "parts": [{"text": "What is 2+2?"}]}],
            "generationConfig": {
                "maxOutputTokens": 4096,
                "thinkingConfig": {"includeThoughts": True},
                "temperature": 0.5,
            },
        }
    ]


async def test_a_blocked_prompt_is_a_matter_of_that_prompt(tmp_path: Path) -> None:
    with fake_models(lambda body: {"promptFeedback": {"blockReason": "SAFETY"}}) as models:
        async with caller(tmp_path) as asking:
            endpoint = Endpoint("g", models.url, "gemini")
            with pytest.raises(RequestRefused, match="SAFETY"):
                await asking.ask(endpoint, "q", SAMPLING)
            assert len(asking.cache) == 0


async def test_nothing_is_asked_twice_even_of_a_server_that_moved(tmp_path: Path) -> None:
    prompts = [f"q{number}" for number in range(20)]
    answers: dict[str, str] = {}

    async def ask_all(asking: Caller, endpoint: Endpoint) -> None:
        async def work(prompt: str) -> None:
            answers[prompt] = (await asking.ask(endpoint, prompt, SAMPLING)).answer

        await for_all(prompts, work, concurrency=4)

    for _ in range(2):
        with fake_models(lambda body: openai_reply(prompt_of(body).upper())) as models:
            async with caller(tmp_path) as asking:
                await ask_all(asking, Endpoint("m", models.url))
        assert answers == {prompt: prompt.upper() for prompt in prompts}
    assert models.num_requests == 0 and asking.num_cached == 20 and asking.num_sent == 0


def test_what_makes_two_requests_different() -> None:
    key = request_key("openai", "p", {"a": 1, "b": 2}, 0)
    assert key == request_key("openai", "p", {"b": 2, "a": 1}, 0)
    others = {
        request_key("gemini", "p", {"a": 1, "b": 2}, 0),
        request_key("openai", "x", {"a": 1, "b": 2}, 0),
        request_key("openai", "p", {"a": 1, "b": 3}, 0),
        request_key("openai", "p", {"a": 1, "b": 2}, 1),
    }
    assert len(others | {key}) == 5


async def test_passing_faults_are_retried(tmp_path: Path) -> None:
    with fake_models(lambda body: openai_reply("4")) as models:
        models.faults = [Fault(503), Fault(0), Fault(429, {"Retry-After": "0"})]
        async with caller(tmp_path) as asking:
            assert (await asking.ask(Endpoint("m", models.url), "q", SAMPLING)).answer == "4"
    assert models.num_requests == 4


async def test_retry_after_beyond_our_patience_stops_at_once(tmp_path: Path) -> None:
    with fake_models(lambda body: openai_reply("4")) as models:
        models.faults = [Fault(429, {"Retry-After": "3600"}, "slow down")]
        async with caller(tmp_path) as asking:
            with pytest.raises(EndpointError, match=r"m at http.* answers HTTP 429 \(slow down\)"):
                await asking.ask(Endpoint("m", models.url), "q", SAMPLING)
    assert models.num_requests == 1


def test_retry_after_in_seconds_and_as_a_date() -> None:
    def wait(value: str) -> float:
        return _retry_after_s(httpx.Response(429, headers={"Retry-After": value}), default_s=1.5)

    assert wait("7") == 7
    assert wait("-3") == 0
    assert 55 < wait(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert wait("soon") == 1.5


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(401), "answers HTTP 401"),
        (Fault(404), "answers HTTP 404"),
        (Fault(200, body="<html>"), "answers, but not JSON: <html>"),
        (Fault(200, body='{"object": "list"}'), "answers, but not as the openai API does"),
    ],
)
async def test_an_unusable_endpoint_stops_at_once(tmp_path: Path, fault: Fault, message: str) -> None:
    with fake_models(lambda body: openai_reply("4")) as models:
        models.faults = [fault]
        async with caller(tmp_path) as asking:
            with pytest.raises(EndpointRefuses, match=message):
                await asking.ask(Endpoint("m", models.url), "q", SAMPLING)
            assert len(asking.cache) == 0
    assert models.num_requests == 1


async def test_no_server_and_no_url(tmp_path: Path) -> None:
    with fake_models(lambda body: openai_reply("4")) as models:
        gone = models.url
    async with caller(tmp_path, retry_for_s=0.1) as asking:
        with pytest.raises(EndpointError, match=r"does not answer \(.+\)"):
            await asking.ask(Endpoint("m", gone), "q", SAMPLING)
        for text in ("http://host:port/v1", "127.0.0.1:8000/v1", "localhost/v1"):
            with pytest.raises(EndpointRefuses, match="is not a URL"):
                await asking.ask(Endpoint("m", text), "q", SAMPLING)


async def test_one_refused_request_is_recorded_many_from_the_start_stop(tmp_path: Path) -> None:
    with fake_models(lambda body: openai_reply("4")) as models:
        endpoint = Endpoint("m", models.url)
        models.fault_of = lambda body: Fault(400) if prompt_of(body).startswith("bad") else None
        async with caller(tmp_path) as asking:
            await asking.ask(endpoint, "good", SAMPLING)
            for number in range(15):
                with pytest.raises(RequestRefused, match="HTTP 400"):
                    await asking.ask(endpoint, f"bad {number}", SAMPLING)
        async with caller(tmp_path) as asking:
            for number in range(9):
                with pytest.raises(RequestRefused):
                    await asking.ask(endpoint, f"bad {number}", SAMPLING)
            with pytest.raises(EndpointRefuses, match="so it did for all of 10 questions"):
                await asking.ask(endpoint, "bad 10", SAMPLING)


async def test_what_is_no_character_is_replaced_in_replies(tmp_path: Path) -> None:
    """Half a surrogate pair, which JSON can hold and no file or request can."""
    with fake_models(lambda _: openai_reply("4 \ud800 \U0001f600", "\udfff?", tokens=1)) as models:
        async with caller(tmp_path) as asking:
            first = await asking.ask(Endpoint("m", models.url), "2+2?", SAMPLING)
        async with caller(tmp_path) as asking:
            again = await asking.ask(Endpoint("m", models.url), "2+2?", SAMPLING)
    assert first == again and models.num_requests == 1
    assert (first.answer, first.thinking) == ("4 \ufffd \U0001f600", "\ufffd?")


@pytest.mark.parametrize("body", ["[" * 100_000, "[" * 900 + "]" * 900, "9" * 5000])
async def test_json_that_python_can_not_hold_is_no_answer(tmp_path: Path, body: str) -> None:
    with fake_models(lambda _: {}) as models:
        models.faults = [Fault(200, body=body)]
        async with caller(tmp_path) as asking:
            with pytest.raises(EndpointRefuses, match="answers, but not JSON"):
                await asking.ask(Endpoint("m", models.url), "2+2?", SAMPLING)


def test_a_torn_last_line_is_cut_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with CallCache(path) as cache:
        cache.put("a", "m", {"x": 1})
        cache.put("b", "m", {"x": 2})
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with CallCache(path) as cache:
        assert cache.get("a") == {"x": 1} and cache.get("b") is None
        cache.put("b", "m", {"x": 2})
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named_and_the_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"key": "a", "reply": 1}\nrubbish\n{"key": "b", "reply": 2}\n')
    before = path.read_bytes()
    with pytest.raises(CacheError, match=r"calls\.jsonl, line 2 is not a call"):
        CallCache(path)
    assert path.read_bytes() == before


def test_a_cache_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with CallCache(path), pytest.raises(CacheError, match="is the same command running already"):
        CallCache(path)
    with CallCache(path):
        pass


def test_replies_are_kept_as_they_came(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with CallCache(path) as cache:
        cache.put("a", "m", openai_reply("é"))
    assert json.loads(path.read_text()) == {"key": "a", "model": "m", "reply": openai_reply("é")}
