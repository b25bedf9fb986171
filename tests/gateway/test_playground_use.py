"""The playground for whoever uses it: keys, the keyboard, screen readers, small screens."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests.gateway.serving import gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.with_keys import KeysForTests
from tests.support.browser import Visit, chromium, visiting

# One browser for all of these tests, and so one loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")
fixture = functools.partial(pytest_asyncio.fixture, loop_scope="module")

QUESTION = "6 * 7?"


@fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@fixture
async def engine() -> AsyncIterator[StandIn]:
    async with running(StandIn()) as started:
        yield started


@fixture
async def visit(browser: Browser, engine: StandIn) -> AsyncIterator[Visit]:
    async with gateway(engine.url) as client, visiting(browser) as opened:
        await opened.open(str(client.base_url).rstrip("/"))
        yield opened


@asynccontextmanager
async def locked(browser: Browser, engine: StandIn, folder: Path) -> AsyncIterator[tuple[Visit, str]]:
    """A visit without the key that the server asks for, and that key."""
    keys = KeysForTests(folder / "keys.json")
    keys.add("ann")
    async with gateway(engine.url, keys_file=keys.path) as client, visiting(browser) as visit:
        await visit.page.goto(str(client.base_url))
        await expect(visit.page.locator("#key-dialog")).to_be_visible()
        yield visit, keys.secrets["ann"]


def runs(visit: Visit, state: str) -> Any:
    return visit.page.locator(f".run[data-state={state}]")


async def watch(page: Page, selector: str) -> None:
    """Record each text that is written to an element in `window.seen`."""
    await page.evaluate(
        """(selector) => {
          const watched = document.querySelector(selector);
          window.seen = [];
          new MutationObserver(() => window.seen.push(watched.textContent))
            .observe(watched, { childList: true, characterData: true, subtree: true });
        }""",
        selector,
    )


async def test_the_key_dialog_can_be_dismissed(browser: Browser, engine: StandIn, tmp_path: Path) -> None:
    async with locked(browser, engine, tmp_path) as (visit, key):
        page = visit.page
        dialog, state = page.locator("#key-dialog"), page.locator("#status")
        for leave in ("Escape", "Cancel"):
            if leave == "Escape":
                await page.keyboard.press("Escape")
            else:
                await page.click("#open-key")
                await page.click("#cancel-key")
            await expect(dialog).to_be_hidden()
            await watch(page, "#status-text")
            for _ in range(2):
                async with page.expect_response("**/v1/models"):
                    pass
            await expect(dialog).to_be_hidden()
            assert await page.evaluate("() => window.seen") == []
            await expect(state).to_have_attribute("data-state", "locked")
        await page.click("#open-key")
        await page.fill("#key", key)
        await page.keyboard.press("Enter")
        await expect(state).to_have_attribute("data-state", "ready")


async def test_a_key_that_no_header_can_hold_is_refused(
    browser: Browser, engine: StandIn, tmp_path: Path
) -> None:
    async with locked(browser, engine, tmp_path) as (visit, key):
        page = visit.page
        await page.fill("#key", key[:8] + "…")
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-note")).to_contain_text("characters that no key has")
        await page.fill("#key", key)
        await page.keyboard.press("Enter")
        await expect(page.locator("#status")).to_have_attribute("data-state", "ready")


async def test_escape_in_the_key_dialog_stops_nothing(visit: Visit, engine: StandIn) -> None:
    engine.faults = Faults(stall_after=2)
    await visit.ask(QUESTION)
    await expect(runs(visit, "thinking")).to_have_count(1)
    await visit.page.click("#open-key")
    await visit.page.keyboard.press("Escape")
    await expect(visit.page.locator("#key-dialog")).to_be_hidden()
    engine.release.set()
    await expect(runs(visit, "done")).to_have_count(1)


async def test_the_focus_is_never_lost(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    engine.faults = Faults(stall_after=2)
    await page.fill("#prompt", QUESTION)
    await page.focus("#ask")
    await page.keyboard.press("Enter")
    await expect(page.locator("#stop")).to_be_focused()
    await expect(runs(visit, "thinking")).to_have_count(1)
    await page.keyboard.press("Enter")
    await expect(page.locator("#prompt")).to_be_focused()
    await expect(page.locator("#announce")).to_have_text("Stopped.")
    await page.get_by_role("button", name="Try again").press("Enter")
    await expect(page.locator(".run")).to_be_focused()
    now = page.get_by_role("button", name="Answer now")
    await expect(now).to_be_enabled()
    await now.focus()
    engine.release.set()
    await expect(runs(visit, "done")).to_have_count(1)
    await expect(page.locator(".pane-thinking .pane-text")).to_be_focused()
    for name in ("Right", "Wrong"):
        button = page.get_by_role("button", name=name)
        await button.press("Enter")
        await expect(button).to_be_focused()
        await expect(button).to_have_attribute("aria-pressed", "true")


async def test_live_regions_tell_each_thing_once(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    assert await page.locator("output").count() == 0
    await page.check("#compare")
    await page.fill("#budget-B-max", "3")
    await watch(page, "#budget-A-max-enforced")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(2)
    assert await page.evaluate("() => window.seen") == ["enforced 256"]
    told = "A: Answer after 12 thinking tokens: 42. B: Answer after 3 thinking tokens: 42."
    await expect(page.locator("#announce")).to_have_text(told)


def _stream(*deltas: dict[str, Any], error: dict[str, Any] | None = None) -> str:
    chunks = [{"id": "x", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events = [json.dumps(chunk) for chunk in [*chunks, *([{"error": error}] if error else [])]]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


async def test_thinking_that_nobody_counted_is_not_told_as_none(visit: Visit) -> None:
    page = visit.page

    async def answer(route: Route) -> None:
        body = _stream({"content": "so, "}, {"content": "42."})
        await route.fulfill(content_type="text/event-stream", body=body)

    await page.route("**/v1/chat/completions", answer)
    await page.fill("#budget-A-max", "")
    await page.fill("#budget-A-waits", "")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(1)
    await expect(page.locator(".ruler-figures")).to_contain_text("thinking not counted by this server")
    await expect(page.locator(".pane-note").first).to_contain_text("doesn’t split thinking from answer")
    await expect(page.locator("#announce")).to_have_text("Answer: so, 42.")
    assert "yet" not in str(
        await page.locator(".pane-text").evaluate_all("(all) => all.map((e) => e.dataset.empty)")
    )


async def test_a_long_question_scrolls_and_can_be_edited(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    long = "How many?\n" * 60
    refusal = {"message": "This model's maximum context length is 2048 tokens.", "param": "input_tokens"}
    engine.faults = Faults(refuse=(400, {"error": {**refusal, "type": "BadRequestError", "code": 400}}))
    await visit.ask(long)
    await expect(page.locator(".told strong")).to_have_text("The question is too long")
    question = page.locator(".question")
    assert await question.evaluate("(element) => element.clientHeight") <= 12 * 16
    await expect(question).to_have_attribute("tabindex", "0")
    await page.get_by_role("button", name="Edit").click()
    await expect(page.locator("#prompt")).to_have_value(long.strip())
    await expect(page.locator("#prompt")).to_be_focused()


async def test_an_engine_that_died_shows_soon_in_the_status(visit: Visit, engine: StandIn) -> None:
    engine.faults = Faults(die_after=3, unhealthy=True)
    await visit.ask(QUESTION)
    await expect(runs(visit, "failed")).to_have_count(1)
    await expect(visit.page.locator("#status")).to_have_attribute("data-state", "starting", timeout=8_000)


async def test_the_first_example_asks_twice(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    await expect(page.locator(".example").first).to_contain_text("Asked twice, side by side")
    await page.locator(".example").first.click()
    await expect(runs(visit, "done")).to_have_count(2)
    sent = sorted(body["vllm_xargs"]["max_thinking_tokens"] for body in engine.bodies)
    assert sent == [0, 256]
    note = "Same model, same question; the right side was made to reconsider."
    assert (await page.locator(".turn-note").inner_text()) == note
    await expect(page.locator(".run h3").first).to_have_text("A: no thinking")
    await expect(page.locator(".run").nth(1).locator(".receipt")).to_contain_text(
        "1 wait was injected, as asked."
    )


async def test_the_receipt_tells_which_waits_the_minimum_asked_for(visit: Visit) -> None:
    page = visit.page
    await page.fill("#budget-A-min", "20")
    await page.fill("#budget-A-waits", "1")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(1)
    told = page.locator(".receipt")
    await expect(told).to_contain_text("3 waits were injected: 1 as asked, 2 more to keep the minimum.")


async def test_thinking_more_is_no_run_of_the_budget_set(visit: Visit, engine: StandIn) -> None:
    page = visit.page

    async def further(route: Route) -> None:
        fields = {"messages": [{"role": "user", "content": "x"}], "stream": True, "num_waits": 1}
        url = route.request.url.partition("/v1/")[0] + "/v1/chat/completions"
        await route.fulfill(response=await route.fetch(url=url, post_data=json.dumps(fields)))

    await page.route("**/think_more", further)
    await page.set_viewport_size({"width": 1280, "height": 600})
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(1)
    await page.get_by_role("button", name="Think more").click()
    await expect(runs(visit, "done")).to_have_count(2)
    await expect(page.locator("#budget-A-max-enforced")).to_have_text("enforced 256")
    await expect(page.locator("#chart circle")).to_have_count(1)
    further_head = page.locator(".run").nth(1).locator(".ruler")
    box = await further_head.bounding_box()
    composer = await page.locator("#composer").bounding_box()
    assert box is not None and composer is not None
    assert box["y"] + box["height"] <= composer["y"]


WIDTHS = (320, 360, 412, 768)


async def check_widths(page: Page, state: str) -> None:
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 740})
        wide = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{state}: {wide} px too wide at {width}"


async def test_no_narrow_screen_scrolls_sideways(
    browser: Browser, visit: Visit, engine: StandIn, tmp_path: Path
) -> None:
    page = visit.page
    await check_widths(page, "ready")
    await expect(page.locator("#panel")).to_be_hidden()
    await page.click("#open-panel")
    await check_widths(page, "panel open")
    await page.check("#compare")
    await page.fill("#budget-B-max", "3")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(2)
    await check_widths(page, "comparing")
    await page.click("#open-panel")
    await check_widths(page, "compared")
    await visit.context.set_offline(True)
    await expect(page.locator("#status")).to_have_attribute("data-state", "offline")
    await check_widths(page, "offline")
    await visit.context.set_offline(False)
    async with locked(browser, engine, tmp_path) as (other, key):
        await other.page.keyboard.press("Escape")
        await check_widths(other.page, "locked")
        await other.page.set_viewport_size({"width": 1280, "height": 740})
        await other.page.click("#open-key")
        await other.page.fill("#key", key)
        await other.page.keyboard.press("Enter")
        await expect(other.page.locator("#open-key")).to_have_text("API key set")
        await check_widths(other.page, "with a key")


async def test_forced_colours_show_what_is_on(browser: Browser, engine: StandIn) -> None:
    async with gateway(engine.url) as client, visiting(browser, forced_colors="active") as visit:
        page = visit.page
        await visit.open(str(client.base_url).rstrip("/"))
        await visit.ask(QUESTION)
        await expect(runs(visit, "done")).to_have_count(1)
        colours = await page.evaluate(
            """() => {
              const of = (selector) => getComputedStyle(document.querySelector(selector)).backgroundColor;
              return Object.fromEntries(
                ['body', '.dot', '.ruler-fill', '.tick-wait', '[aria-pressed=true]', '[aria-pressed=false]']
                  .map((selector) => [selector, of(selector)]),
              );
            }"""
        )
        for shown in (".dot", ".ruler-fill", ".tick-wait"):
            assert colours[shown] != colours["body"], shown
        assert colours["[aria-pressed=true]"] != colours["[aria-pressed=false]"]
        assert await visit.serious() == []
