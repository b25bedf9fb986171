"""Thinking in earlier assistant messages: what reaches the engine in each mode and before each template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.budget.markers import FAMILIES
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import StandIn, Template, running

FAMILY = FAMILIES["s1"]
PATH = "/v1/chat/completions"
QUESTION, FOLLOW_UP = {"role": "user", "content": "6 * 7?"}, {"role": "user", "content": "Sure?"}
DETAIL = {"type": "reasoning.text", "text": "hm", "format": "unknown", "index": 0}


def said(**fields: Any) -> list[dict[str, Any]]:
    return [QUESTION, {"role": "assistant", "content": "42", **fields}, FOLLOW_UP]


THINKING = {
    "reasoning": said(reasoning="hm"),
    "reasoning_content": said(reasoning_content="hm"),
    "both": said(reasoning="hm", reasoning_content="hm"),
    "details": said(reasoning_details=[DETAIL]),
    "details in pieces": said(reasoning="hm", reasoning_details=[DETAIL | {"text": t} for t in "hm"]),
    "parts": said(
        content=[{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "42"}]
    ),
}
"""The same thinking in every form."""


def plain(messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> str:
    return "".join(f"{m['role']}:{m['content']};" for m in messages)


def switched(messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> str:
    thinking = kwargs.get("preserve_thinking") is True
    return "".join(f"{m.get('reasoning') if thinking else ''}{m['content']};" for m in messages)


def stripping(messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> str:
    return "".join(m["content"].split(FAMILY.think_end)[-1] for m in messages)


async def forwarded(
    tmp_path: Path, mode: str, template: Template | None, *conversations: list[dict[str, Any]], **fields: Any
) -> tuple[list[httpx.Response], StandIn]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"models: {{tiny: {{preserve_thinking: {mode}}}}}")
    bodies = [{"model": "tiny", "messages": messages, **fields} for messages in conversations]
    async with (
        running(StandIn(template=template, has_tokenize=template is not None)) as engine,
        gateway(engine.url, policy_file=policy) as client,
    ):
        return [await client.post(PATH, json=body) for body in bodies], engine


def assistant(engine: StandIn) -> dict[str, Any]:
    return engine.bodies[-1]["messages"][1]


@pytest.mark.parametrize("form", THINKING)
async def test_by_default_the_template_gets_the_thinking_as_one_field(tmp_path: Path, form: str) -> None:
    responses, engine = await forwarded(tmp_path, "template", None, THINKING[form])
    assert responses[0].status_code == 200
    content = [{"type": "text", "text": "42"}] if form == "parts" else "42"
    assert assistant(engine) == {
        "role": "assistant",
        "content": content,
        "reasoning": "hm",
        "reasoning_content": "hm",
    }
    assert "chat_template_kwargs" not in engine.bodies[-1]
    assert engine.renderings == 0


@pytest.mark.parametrize("form", THINKING)
async def test_strip_takes_it_out(tmp_path: Path, form: str) -> None:
    responses, engine = await forwarded(tmp_path, "strip", None, THINKING[form])
    assert responses[0].status_code == 200
    content = [{"type": "text", "text": "42"}] if form == "parts" else "42"
    assert assistant(engine) == {"role": "assistant", "content": content}


async def test_keep_uses_the_templates_own_switch(tmp_path: Path) -> None:
    responses, engine = await forwarded(tmp_path, "keep", switched, *THINKING.values())
    assert [response.status_code for response in responses] == [200] * len(THINKING)
    assert assistant(engine)["reasoning"] == "hm"
    assert engine.bodies[-1]["chat_template_kwargs"] == {"preserve_thinking": True, "clear_thinking": False}
    # Found out once.
    assert engine.renderings == 2


async def test_the_clients_own_word_to_the_template_stands(tmp_path: Path) -> None:
    own = {"preserve_thinking": False, "x": 1}
    _, engine = await forwarded(tmp_path, "keep", switched, THINKING["both"], chat_template_kwargs=own)
    assert engine.bodies[-1]["chat_template_kwargs"] == own | {"clear_thinking": False}


async def test_keep_writes_it_into_the_content_where_there_is_no_switch(tmp_path: Path) -> None:
    conversations = [THINKING["both"], said(reasoning="hm\n", content=None), THINKING["parts"]]
    _, engine = await forwarded(tmp_path, "keep", plain, *conversations)
    written = f"{FAMILY.think_start}\nhm\n{FAMILY.think_end}\n"
    assert [body["messages"][1] for body in engine.bodies] == [
        {"role": "assistant", "content": written + "42"},
        {"role": "assistant", "content": written},
        {"role": "assistant", "content": [{"type": "text", "text": written}, {"type": "text", "text": "42"}]},
    ]
    assert all("chat_template_kwargs" not in body for body in engine.bodies)


@pytest.mark.parametrize("template", [stripping, None], ids=["strips", "cannot be asked"])
async def test_keep_is_refused_where_the_template_drops_it(tmp_path: Path, template: Template | None) -> None:
    responses, _ = await forwarded(tmp_path, "keep", template, THINKING["reasoning_content"], said())
    assert responses[0].status_code == 400
    error = responses[0].json()["error"]
    assert error["param"] == "messages[1].reasoning_content"
    assert "preserve_thinking: keep" in error["message"]
    assert "`tiny`" in error["message"]
    # Without thinking there is nothing to keep.
    assert responses[1].status_code == 200


async def test_an_engine_too_busy_to_say_is_asked_again(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("models: {tiny: {preserve_thinking: keep}}")
    body = {"model": "tiny", "messages": THINKING["reasoning"]}
    async with (
        running(StandIn(template=switched)) as engine,
        gateway(engine.url, policy_file=policy) as client,
    ):
        engine.tokenize_status = 503
        assert (await client.post(PATH, json=body)).status_code == 503
        engine.tokenize_status = 200
        assert (await client.post(PATH, json=body)).status_code == 200


@pytest.mark.parametrize("mode", ["template", "keep", "strip"])
async def test_messages_without_thinking_pass_untouched(tmp_path: Path, mode: str) -> None:
    function = {"name": "f", "arguments": "{}"}
    messages = said(name="me", tool_calls=[{"id": "1", "type": "function", "function": function}])
    _, engine = await forwarded(tmp_path, mode, plain, messages)
    assert engine.bodies[-1]["messages"] == messages


@pytest.mark.parametrize(
    ("messages", "param", "says"),
    [
        (said(reasoning=5), "messages[1].reasoning", "must be a string. Given: 5"),
        (
            said(reasoning="a", reasoning_content="b"),
            "messages[1].reasoning_content",
            "`messages[1].reasoning` ('a')",
        ),
        ([{"role": "user", "content": "x", "reasoning": "hm"}], "messages[0].reasoning", "role 'user'"),
        (
            [{"role": "user", "content": [{"type": "thinking", "thinking": "hm"}]}],
            "messages[0].content",
            "only assistant messages",
        ),
        (said(content=[{"type": "thinking"}]), "messages[1].content", "can't read"),
        (said(content=[{"type": "redacted_thinking", "data": "x"}]), "messages[1].content", "can't read"),
        (said(reasoning_details="hm"), "messages[1].reasoning_details", "must be an array"),
        (said(reasoning_details=[{"type": []}]), "messages[1].reasoning_details", "can't read"),
        (
            said(reasoning_details=[{"type": "reasoning.summary"}]),
            "messages[1].reasoning_details",
            "can't read",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_malformed_thinking_is_refused(
    tmp_path: Path, messages: list[dict[str, Any]], param: str, says: str
) -> None:
    responses, _ = await forwarded(tmp_path, "template", None, messages)
    assert responses[0].status_code == 400
    assert responses[0].json()["error"]["param"] == param
    assert says in responses[0].json()["error"]["message"]


async def test_strip_also_takes_out_what_nobody_here_can_read(tmp_path: Path) -> None:
    redacted = said(content=[{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "42"}])
    responses, engine = await forwarded(tmp_path, "strip", None, redacted)
    assert responses[0].status_code == 200
    assert assistant(engine)["content"] == [{"type": "text", "text": "42"}]


async def test_an_engine_that_does_not_render_is_given_up(tmp_path: Path) -> None:
    async with hanging(tmp_path, control_timeout_s=0.2) as (engine, client):
        response = await client.post(PATH, json={"model": "tiny", "messages": THINKING["reasoning"]})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_died"
        assert "timed out" in response.json()["error"]["message"]
        assert engine.bodies == []


async def test_leaving_while_the_template_is_tried(tmp_path: Path) -> None:
    async with hanging(tmp_path, control_timeout_s=60) as (engine, client):
        body = {"model": "tiny", "messages": THINKING["reasoning"]}
        asking = asyncio.create_task(client.post(PATH, json=body))
        await eventually(lambda: engine.active == 1)
        asking.cancel()
        await eventually(lambda: engine.active == 0)


@asynccontextmanager
async def hanging(
    tmp_path: Path, *, control_timeout_s: float
) -> AsyncIterator[tuple[StandIn, httpx.AsyncClient]]:
    """An engine whose /tokenize says nothing, under a policy that has to know its template."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("models: {tiny: {preserve_thinking: keep}}")
    async with (
        running(StandIn(template=plain, tokenize_stalls=True)) as engine,
        gateway(engine.url, policy_file=policy, control_timeout_s=control_timeout_s) as client,
    ):
        yield engine, client
