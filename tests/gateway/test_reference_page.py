"""The API reference at /docs: its files, and the page in a real browser."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from server.gateway.access.guard import OPEN_PATHS
from server.gateway.routes import playground
from server.gateway.routes.reference import FOLDER, OF_THE_PLAYGROUND
from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn, running
from tests.gateway.test_playground_files import TYPES, check_headers
from tests.gateway.with_keys import KeysForTests
from tests.support.browser import chromium, visiting

# One browser for all of these tests, and so one loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")
fixture = functools.partial(pytest_asyncio.fixture, loop_scope="module")

OWN = {path.name for path in FOLDER.iterdir()}
CHAT = "#post-v1-chat-completions"


@fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """With keys and without the playground: the reference needs neither."""
    keys = KeysForTests(tmp_path / "keys.json")
    keys.add("ann")
    async with (
        running(StandIn()) as engine,
        gateway(engine.url, keys_file=keys.path, playground=False) as opened,
    ):
        yield opened


async def test_its_files_are_public_and_nothing_else_below_it(client: httpx.AsyncClient) -> None:
    names = {*(OWN - {"index.html"}), *OF_THE_PLAYGROUND}
    assert {path for path in OPEN_PATHS if path.startswith("/docs/")} == {f"/docs/{name}" for name in names}
    for path in ("/docs", *(f"/docs/{name}" for name in names)):
        response = await client.get(path)
        assert response.status_code == 200, path
        assert TYPES[Path(path).suffix or ".html"] in response.headers["content-type"]
        check_headers(response)
    for path in ("/redoc", "/docs/oauth2-redirect", "/docs/", "/docs/app.js", "/docs/%2e%2e/v1/models"):
        raw = httpx.Request("GET", httpx.URL(client.base_url).copy_with(raw_path=path.encode()))
        assert (await client.send(raw)).status_code == 401, path


async def test_it_asks_for_nothing_from_elsewhere() -> None:
    referenced = set()
    for name in OWN:
        text = (FOLDER / name).read_text()
        assert not re.search(r"https?://|innerHTML|<script(?![^>]*\bsrc=)|<style|\bstyle=", text), name
        referenced.update(re.findall(r"(?:href|src)=\"docs/([^\"]+)\"", text))
        referenced.update(re.findall(r"from '\./([^']+)'", text))
    assert referenced == {*(OWN - {"index.html"}), *OF_THE_PLAYGROUND}
    assert all((playground.FOLDER / name).exists() for name in OF_THE_PLAYGROUND)


async def test_operations_and_types_are_shown(browser: Browser, client: httpx.AsyncClient) -> None:
    url = str(client.base_url).rstrip("/")
    paths = (await client.get("/openapi.json")).json()["paths"]
    async with visiting(browser) as visit:
        page, asked = visit.page, list[str]()
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{url}/docs")
        await expect(page.locator("#status")).to_contain_text("s1-server")
        await expect(page.locator("#operations details")).to_have_count(sum(map(len, paths.values())))
        await page.locator(f"{CHAT} summary").click()
        row = page.locator(f"{CHAT} tr", has=page.get_by_text("max_thinking_tokens", exact=True)).first
        await expect(row).to_contain_text("integer (0 to 16,777,216) or null")
        await expect(row).to_contain_text("The thinking never has more tokens than this")
        await expect(row).to_contain_text("Default: what fits")
        messages = page.locator(f"{CHAT} tr", has=page.get_by_text("messages", exact=True)).first
        await expect(messages).to_contain_text("required")
        await messages.get_by_role("link", name="Message").click()
        await expect(page.locator("#type-Message")).to_have_attribute("open", "")
        await expect(page.locator("#type-Message")).to_contain_text("role")
        assert await visit.serious() == []
        assert {urlsplit(address).netloc for address in asked} == {urlsplit(url).netloc}
        assert f"{url}/openapi.json" in asked


async def test_a_description_that_cannot_be_read(browser: Browser, client: httpx.AsyncClient) -> None:
    async with visiting(browser) as visit:
        await visit.page.route("**/openapi.json", lambda route: route.fulfill(status=503))
        await visit.page.goto(f"{str(client.base_url).rstrip('/')}/docs")
        await expect(visit.page.locator("#status")).to_contain_text("can’t be read: the server answered 503")
