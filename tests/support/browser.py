"""Debian's Chromium, driven by Playwright: a page of its own for each test, and what its console said."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

# Conditions are waited for, so long as a slow machine with other work may need.
_PATIENCE_MS = 60_000
_REFUSED = "Failed to load resource"
"""What Chromium itself writes of every answer that is an error, also one that the page expects."""


@dataclass
class Visit:
    """A page in a context of its own."""

    page: Page
    context: BrowserContext
    problems: list[str] = field(default_factory=list)
    """Errors of scripts, and what scripts or the content security policy wrote to the console as an error."""

    async def open(self, url: str) -> None:
        await self.page.goto(f"{url}/")
        await expect(self.page.locator("#status")).to_have_attribute("data-state", "ready")
        await expect(self.page.locator(".example").first).to_be_visible()

    async def ask(self, question: str) -> None:
        await self.page.fill("#prompt", question)
        await self.page.press("#prompt", "Enter")

    async def serious(self) -> list[str]:
        """What axe-core finds serious or critical."""
        found = (await Axe().run(self.page)).response["violations"]
        return [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in found
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(_REFUSED):
            self.problems.append(message.text)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is not installed: apt-get install chromium (scripts/install.sh dev does)")
    expect.set_options(timeout=_PATIENCE_MS)
    async with async_playwright() as playwright:
        # Tests run as root in containers, where Chromium's own sandbox and a large /dev/shm are missing.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, **options: Any) -> AsyncIterator[Visit]:
    """Ends with a check that nothing went wrong on the page."""
    context = await browser.new_context(**options)
    context.set_default_timeout(_PATIENCE_MS)
    visit = Visit(await context.new_page(), context)
    visit.page.on("console", visit._on_console)
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    try:
        yield visit
        assert visit.problems == []
    finally:
        await context.close()
