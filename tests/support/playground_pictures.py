"""The pictures of docs/playground.md, taken of a server with the demo model:

python -m tests.support.playground_pictures URL
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from tests.support.browser import Visit, chromium, visiting

FOLDER = Path(__file__).parents[2] / "docs" / "images"
WIDE = {"viewport": {"width": 1360, "height": 940}}
NARROW = {"viewport": {"width": 390, "height": 844}}


async def main(url: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    async with chromium() as browser:
        await picture(browser, url, "light", compare=True, question="How many r in raspberry?", **WIDE)
        chain = "Start at 5. a: +2 -1; b: +8 *7. Last digit?"
        await picture(browser, url, "dark", compare=False, question=chain, color_scheme="dark", **WIDE)
        await picture(browser, url, "narrow", compare=False, question="How many r in raspberry?", **NARROW)


async def picture(
    browser: Browser, url: str, name: str, *, compare: bool, question: str, **options: Any
) -> None:
    async with visiting(browser, reduced_motion="reduce", **options) as visit:
        await visit.open(url)
        await prepare(visit, compare=compare)
        await visit.ask(question)
        await expect(visit.page.locator(".run[data-state=done]")).to_have_count(2 if compare else 1)
        await visit.page.evaluate("() => { scrollTo(0, 0); document.activeElement.blur(); }")
        await visit.page.screenshot(path=FOLDER / f"playground-{name}.png")


async def prepare(visit: Visit, *, compare: bool) -> None:
    page = visit.page
    settings = {"#temperature": "0", "#budget-A-max": "256", "#budget-A-waits": "2"}
    if compare:
        await page.locator("#compare").dispatch_event("click")
        settings |= {"#budget-B-max": "12"}
    # Set as a person would, also where the panel is folded away.
    for selector, value in settings.items():
        await page.locator(selector).evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].rstrip("/")))
