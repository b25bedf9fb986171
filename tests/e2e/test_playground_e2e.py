"""The playground on the real engine, in a real browser."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Locator, TimeoutError, expect

from tests.support.browser import Visit, chromium, visiting
from tests.support.engines import Running

pytestmark = pytest.mark.engine

QUESTION = "How many r in raspberry?"


@pytest.fixture
async def visit(served: Running) -> AsyncIterator[Visit]:
    async with chromium() as browser, visiting(browser) as opened:
        await opened.open(served.url)
        # Greedy: sampled thinking may be of any length.
        await opened.page.locator(".more summary").click()
        await opened.page.fill("#temperature", "0")
        yield opened


def runs(visit: Visit, state: str) -> Locator:
    return visit.page.locator(f".run[data-state={state}]")


def put_together(stream: str) -> dict[str, Any]:
    """The one choice of a streamed answer, as it would have come whole."""
    whole: dict[str, Any] = {"reasoning": "", "content": ""}
    for line in stream.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                for name in ("reasoning", "content"):
                    whole[name] += choice["delta"].get(name) or ""
                whole |= {"receipt": choice["thinking_budget"]} if "thinking_budget" in choice else {}
    return whole


async def test_what_the_page_shows_is_what_the_engine_did(visit: Visit) -> None:
    page = visit.page
    await page.fill("#budget-A-max", "256")
    await page.locator("#budget-A-waits-slider").fill("2")
    async with page.expect_response("**/v1/chat/completions") as answer:
        await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(1)
    message = put_together(await (await answer.value).text())
    receipt = message["receipt"]
    shown = await page.locator(".pane-thinking .pane-text").evaluate(
        """(pane) => {
          const parts = [...pane.childNodes].filter((node) => !node.matches?.('.end'));
          return parts.map((node) => node.textContent).join('');
        }"""
    )
    assert shown == message["reasoning"]
    await expect(page.locator(".pane-answer .pane-text")).to_have_text(message["content"].strip())
    assert receipt["waits"] == 2
    assert message["reasoning"].count("Wait") >= 2
    marks = page.locator("mark.injected")
    await expect(marks).to_have_text(["Wait", "Wait"])
    # Where the page marks a wait, the engine's own record has one: so many tokens come before it.
    positions = receipt["positions"]
    for index, position in enumerate(positions["waits"]):
        title = await page.locator(".tick-wait").nth(index).get_attribute("title")
        assert title == f"wait injected after {position - positions['thinking_begin']} tokens"
        before = await marks.nth(index).evaluate(
            """(mark) => {
              const range = document.createRange();
              range.setStart(mark.closest('.pane-text'), 0);
              range.setEndBefore(mark);
              return range.toString();
            }"""
        )
        assert message["reasoning"].startswith(before + "Wait")
        assert before.count("\n") >= index + 1
    told = f"{receipt['thinking_tokens']} of 256 thinking tokens"
    await expect(page.locator("[role=meter]")).to_have_attribute("aria-valuetext", told)


async def test_a_tight_budget_beside_a_wide_one(visit: Visit) -> None:
    page = visit.page
    await page.check("#compare")
    await page.fill("#budget-A-max", "200")
    await page.fill("#budget-A-waits", "3")
    await page.fill("#budget-B-max", "7")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(2)
    tight = page.locator(".run").nth(1)
    await expect(tight.locator("[role=meter]")).to_have_attribute("aria-valuetext", "7 of 7 thinking tokens")
    await expect(tight.locator(".end.forced")).to_contain_text("The maximum was reached")
    await expect(tight.locator(".pane-answer .pane-text")).not_to_be_empty()
    await expect(page.locator("#chart circle")).to_have_count(2)
    assert await visit.serious() == []


async def test_an_error_then_offline_then_back(visit: Visit) -> None:
    page = visit.page
    await page.fill("#max-completion", "4")
    await visit.ask(QUESTION)
    await expect(page.locator(".problem").first).to_contain_text("The server refuses max_completion_tokens")
    await page.fill("#max-completion", "")
    await visit.context.set_offline(True)
    await expect(page.locator("#status")).to_have_attribute("data-state", "offline")
    await visit.ask(QUESTION)
    await expect(page.locator(".problem").nth(1)).to_contain_text("The server can’t be reached")
    await visit.context.set_offline(False)
    await expect(page.locator("#status")).to_have_attribute("data-state", "ready")
    await page.get_by_role("button", name="Try again").nth(1).click()
    await expect(runs(visit, "done")).to_have_count(1)


async def test_answer_now_and_think_more(visit: Visit) -> None:
    page = visit.page
    # It would think until its maximum.
    await page.fill("#budget-A-max", "1200")
    await page.fill("#budget-A-waits", "1000")
    cut = await answered_early(visit)
    await expect(cut.locator(".pane-answer .pane-text")).not_to_be_empty()
    await cut.get_by_label("Waits to add").fill("2")
    await cut.get_by_role("button", name="Think more").click()
    further = page.locator(".run").last
    await expect(further.locator("h3")).to_have_text("thought further, 2 more waits")
    await expect(further).to_have_attribute("data-state", "done")
    await expect(further.locator("mark.injected").first).to_have_text("Wait")
    await expect(further.locator(".pane-answer .pane-text")).not_to_be_empty()


async def answered_early(visit: Visit) -> Locator:
    """A run that was told to answer; a quick engine may be done before the button is pressed."""
    for _ in range(20):
        await visit.ask(QUESTION)
        latest = visit.page.locator(".run").last
        now = latest.get_by_role("button", name="Answer now")
        with contextlib.suppress(TimeoutError):
            await now.click(timeout=20_000)
        await expect(latest).to_have_attribute("data-state", "done")
        if "You asked for the answer" in (await latest.locator(".end").text_content() or ""):
            return latest
    raise AssertionError("it was never told in time")
