"""The playground as HTTP sees it: which files, for whom, and under which security policy."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from server.gateway.routes.playground import FOLDER
from tests.gateway.serving import gateway
from tests.gateway.stand_in import StandIn
from tests.gateway.with_keys import KeysForTests

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml"}


def check_headers(response: httpx.Response) -> None:
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["trusted-types"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"unsafe|http|\*|data:", response.headers["content-security-policy"])
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


async def test_a_browser_gets_the_page_and_others_what_they_got(client: httpx.AsyncClient) -> None:
    page = await client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "accept" in page.headers["vary"]
    check_headers(page)
    assert (await client.get("/")).json()["docs"] == "/docs"


async def test_every_file_is_served_and_no_other(client: httpx.AsyncClient) -> None:
    assert len(FILES) > 10
    for name in FILES:
        response = await client.get(f"/playground/{name}")
        assert response.status_code == 200, name
        assert TYPES[Path(name).suffix] in response.headers["content-type"]
        assert response.headers["cache-control"] == "no-cache"
        check_headers(response)
        known = {"if-none-match": response.headers["etag"]}
        assert (await client.get(f"/playground/{name}", headers=known)).status_code == 304
    for path in ("", "nothing.js", "../settings.py", "%2e%2e/settings.py", "..%2fsettings.py", "/etc/passwd"):
        response = await client.get(f"/playground/{path}")
        assert response.status_code == 404, path
        assert "error" in response.json()
    assert (await client.post("/playground/app.js")).status_code == 405


def test_the_page_asks_for_nothing_from_elsewhere_and_makes_no_markup_of_strings() -> None:
    referenced = set()
    for name in FILES:
        text = (FOLDER / name).read_text()
        outside = set(re.findall(r"https?://[^\s'\"]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not outside, name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function|srcdoc",
            text,
        ), name
        referenced.update(re.findall(r"(?:href|src)=\"playground/([^\"]+)\"", text))
        referenced.update(re.findall(r"from '\./([^']+)'", text))
    assert referenced | {"index.html"} == set(FILES)
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", page)


async def test_it_can_be_left_out(engine: StandIn) -> None:
    async with gateway(engine.url, playground=False) as client:
        assert (await client.get("/", headers=BROWSER)).json()["docs"] == "/docs"
        assert (await client.get("/playground/app.js")).status_code == 404


async def test_page_and_files_are_public_and_the_api_is_not(engine: StandIn, tmp_path: Path) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    keys.add("ann")
    async with gateway(engine.url, keys_file=keys.path) as client:
        for path in ("/", *(f"/playground/{name}" for name in FILES)):
            assert (await client.get(path, headers=BROWSER)).status_code == 200
        assert (await client.get("/v1/models")).status_code == 401
        for path in ("/playground", "/playgrounds/app.js"):
            assert (await client.get(path)).status_code in (401, 404)
        # What is open is no way around the keys.
        for path in ("/playground/../v1/models", "/playground/%2e%2e/v1/models", "/playground//v1/models"):
            raw = httpx.Request("GET", httpx.URL(client.base_url).copy_with(raw_path=path.encode()))
            assert (await client.send(raw)).status_code in (401, 404)


@pytest.mark.parametrize("value", ["off", "0", "false"])
def test_the_setting_is_read_from_the_environment(value: str) -> None:
    from server.gateway.settings import read_settings

    assert read_settings({"S1_GATEWAY_PLAYGROUND": value}).playground is False
    assert read_settings({}).playground is True
    assert read_settings({}, playground=False).playground is False
