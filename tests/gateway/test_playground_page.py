"""The playground in a real browser, before an engine that does what each test needs."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Route, expect

from tests.gateway import stand_in
from tests.gateway.serving import eventually, gateway
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
async def client(engine: StandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(engine.url) as opened:
        yield opened


@fixture
async def visit(browser: Browser, client: httpx.AsyncClient) -> AsyncIterator[Visit]:
    async with visiting(browser) as opened:
        await opened.open(str(client.base_url).rstrip("/"))
        yield opened


def runs(visit: Visit, state: str) -> Any:
    return visit.page.locator(f".run[data-state={state}]")


async def test_thinking_streams_with_its_meter_and_is_settled_by_the_receipt(
    visit: Visit, engine: StandIn
) -> None:
    engine.faults = Faults(stall_after=4)
    page = visit.page
    await page.fill("#budget-A-max", "50")
    await page.fill("#budget-A-waits", "2")
    await visit.ask(QUESTION)
    await expect(runs(visit, "thinking")).to_have_count(1)
    await expect(page.locator(".pane-thinking .pane-text")).to_have_text("t0 t1 t2 t3")
    await expect(page.locator("[role=meter]")).to_have_attribute("aria-valuetext", "4 of 50 thinking tokens")
    # Known from the response's headers, before the receipt.
    await expect(page.locator("#budget-A-waits-enforced")).to_have_text("enforced 2")
    await expect(page.locator("#ask")).to_be_hidden()
    engine.release.set()
    await expect(runs(visit, "done")).to_have_count(1)
    await expect(page.locator(".pane-answer .pane-text")).to_have_text("42.")
    await expect(page.locator("mark.injected")).to_have_text(["Wait", "Wait"])
    await expect(page.locator(".tick-wait")).to_have_count(2)
    await expect(page.locator(".pane-note").first).to_contain_text("2 marked waits injected")
    await expect(page.locator(".end")).to_have_text("The model ended its thinking.")
    await expect(page.locator(".receipt")).to_contain_text(
        "It thought for 16 tokens and answered in 4 tokens; 2 more mark where one ends and the other begins."
    )
    await expect(page.locator("#announce")).to_have_text("Answer after 16 thinking tokens: 42.")
    assert engine.bodies[-1]["vllm_xargs"]["max_thinking_tokens"] == 50


async def test_sliders_set_the_budget_and_say_what_changed_it(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    slider = page.locator("#budget-A-max-slider")
    await slider.focus()
    await page.keyboard.press("End")
    await expect(page.locator("#budget-A-max")).to_have_value("")
    await expect(slider).to_have_attribute("aria-valuetext", "what fits")
    await page.keyboard.press("Home")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#budget-A-max")).to_have_value("8")
    await page.fill("#budget-A-max", "1000")
    await page.locator("#budget-A-waits-slider").fill("0")
    await page.locator(".more summary").click()
    await page.fill("#max-completion", "20")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(1)
    assert "num_waits" not in engine.bodies[-1]["vllm_xargs"]
    # A quarter of 20 is kept for the answer, 8 for markers.
    await expect(page.locator("#budget-A-max-enforced")).to_have_text("enforced 7")
    await expect(page.locator("#budget-A-max-enforced")).to_have_class(re.compile("changed"))
    await expect(page.locator(".budget-clamped").first).to_have_text("Changed by the most tokens in all.")
    await expect(page.locator(".end.forced")).to_contain_text("The maximum was reached")
    await expect(page.locator(".ruler-off")).to_have_attribute("style", re.compile(r"0\.7%"))


async def test_a_refusal_is_told_in_plain_words(visit: Visit) -> None:
    page = visit.page
    await page.fill("#budget-A-max", "10")
    await page.fill("#budget-A-min", "20")
    await expect(page.locator(".budget-warning").first).to_contain_text("The minimum is above the maximum")
    await visit.ask(QUESTION)
    problem = page.locator(".problem[role=alert]")
    await expect(problem).to_contain_text("The server refuses min_thinking_tokens")
    await expect(problem).to_contain_text("Given: 20")
    await page.fill("#budget-A-min", "")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(1)


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        (Faults(die_after=3), "The answer broke off"),
        (Faults(error_after=3), "EngineCore died"),
        (Faults(refuse=(500, {"message": "boom"})), "The server failed"),
    ],
)
async def test_failures_are_told_and_can_be_tried_again(
    visit: Visit, engine: StandIn, faults: Faults, told: str
) -> None:
    engine.faults = faults
    await visit.ask(QUESTION)
    await expect(runs(visit, "failed")).to_have_count(1)
    await expect(visit.page.locator(".problem")).to_contain_text(told)
    engine.faults = Faults()
    await visit.page.get_by_role("button", name="Try again").click()
    await expect(runs(visit, "done")).to_have_count(1)
    await expect(runs(visit, "failed")).to_have_count(0)


async def test_stop_cancels_the_request(visit: Visit, engine: StandIn) -> None:
    engine.faults = Faults(stall_after=2)
    await visit.ask(QUESTION)
    await expect(runs(visit, "thinking")).to_have_count(1)
    await eventually(lambda: engine.stalled == 1)
    await visit.page.keyboard.press("Escape")
    await expect(runs(visit, "stopped")).to_have_count(1)
    await eventually(lambda: engine.active == 0)
    assert engine.cancelled == 1
    await expect(visit.page.locator("#ask")).to_be_visible()


async def test_two_budgets_on_one_question(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    await page.check("#compare")
    await page.fill("#budget-A-max", "3")
    await page.fill("#budget-A-waits", "")
    await page.fill("#budget-B-max", "40")
    await page.fill("#budget-B-waits", "1")
    await visit.ask(QUESTION)
    await expect(runs(visit, "done")).to_have_count(2)
    sent = sorted(body["vllm_xargs"]["max_thinking_tokens"] for body in engine.bodies)
    assert sent == [3, 40]
    first, second = page.locator(".run").nth(0), page.locator(".run").nth(1)
    await expect(first.locator("h3")).to_have_text("A: at most 3")
    await expect(first.locator(".pane-thinking .pane-text")).to_contain_text("t0 t1 t2")
    await expect(first.locator(".end.forced")).to_contain_text("The maximum was reached")
    await expect(second.locator("mark.injected")).to_have_text(["Wait"])
    await expect(page.locator("#chart circle")).to_have_count(2)
    await page.click("#chart-accuracy")
    await expect(page.locator("#chart")).to_contain_text("Mark answers as right or wrong")
    await first.get_by_role("button", name="Wrong").click()
    await second.get_by_role("button", name="Right").click()
    await expect(page.locator("#chart")).to_contain_text(
        "0 of 1 right at 3 tokens; 1 of 1 right at 40 tokens"
    )
    await expect(first.get_by_role("button", name="Wrong")).to_have_attribute("aria-pressed", "true")


async def test_earlier_turns_go_along_as_each_budget_answered_them(visit: Visit, engine: StandIn) -> None:
    await visit.ask("first?")
    await expect(runs(visit, "done")).to_have_count(1)
    await visit.ask("second?")
    await expect(runs(visit, "done")).to_have_count(2)
    assert [(m["role"], m["content"]) for m in engine.bodies[-1]["messages"]] == [
        ("user", "first?"), ("assistant", "42."), ("user", "second?"),
    ]  # fmt: skip
    await visit.page.get_by_role("button", name="New chat").click()
    await visit.ask("third?")
    await expect(runs(visit, "done")).to_have_count(1)
    assert [message["content"] for message in engine.bodies[-1]["messages"]] == ["third?"]


HOSTILE = [
    "<img src=x onerror=\"document.title='pwned'\">",
    "<script>document.title='pwned'</script>",
    "</div><a href=\"javascript:document.title='pwned'\">click</a>",
    "&lt;b&gt; ",
    "<svg onload=document.title='pwned'>",
    "\u202e\u0000 Wait ",
]


async def test_hostile_output_is_text(visit: Visit, engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = stand_in.Model.generate

    def hostile(model: stand_in.Model) -> stand_in.Generation:
        generation = generate(model)
        generation.thinking = [HOSTILE[i % len(HOSTILE)] for i in range(len(generation.thinking))]
        generation.answer = [*HOSTILE[: len(generation.answer) - 1], ""]
        return generation

    monkeypatch.setattr(stand_in.Model, "generate", hostile)
    page = visit.page
    await visit.ask(HOSTILE[0])
    await expect(runs(visit, "done")).to_have_count(1)
    for text in HOSTILE[:3]:
        await expect(page.locator(".pane-thinking .pane-text")).to_contain_text(text)
        await expect(page.locator(".pane-answer .pane-text")).to_contain_text(text)
    await expect(page.locator(".question")).to_have_text(HOSTILE[0])
    found = await page.evaluate(
        """() => [
          document.title,
          document.querySelectorAll('.turn img, .turn script, .turn a, .turn svg').length,
        ]"""
    )
    assert found == ["s1 playground", 0]
    # And if the page had a fault: neither markup from strings nor foreign or inline script is possible.
    blocked = await page.evaluate(
        """async () => {
          const tried = [];
          const attempt = async (name, act) => {
            try { await act(); tried.push([name, 'went through']); } catch { tried.push([name, 'blocked']); }
          };
          await attempt('markup', () => { document.querySelector('.question').innerHTML = '<b>x</b>'; });
          await attempt('src', () => { document.createElement('script').src = 'https://example.com/x.js'; });
          await attempt('foreign', () => fetch('https://example.com/'));
          return tried;
        }"""
    )
    assert blocked == [["markup", "blocked"], ["src", "blocked"], ["foreign", "blocked"]]
    assert visit.problems
    assert all(re.search("Trusted|Content Security Policy|Refused|violates", text) for text in visit.problems)
    visit.problems.clear()


async def test_a_key_is_asked_for_and_kept_in_the_tab(
    browser: Browser, engine: StandIn, tmp_path: Path
) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    keys.add("ann")
    async with gateway(engine.url, keys_file=keys.path) as client, visiting(browser) as visit:
        page = visit.page
        await page.goto(f"{client.base_url}/".replace("//", "/").replace(":/", "://"))
        await expect(page.locator("#key-dialog")).to_be_visible()
        await expect(page.locator("#key-note")).to_have_text("This server asks for an API key")
        await page.fill("#key", "wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-note")).to_have_text("This key is not accepted")
        await page.fill("#key", keys.secrets["ann"])
        await page.keyboard.press("Enter")
        await expect(page.locator("#status")).to_have_attribute("data-state", "ready")
        await visit.ask(QUESTION)
        await expect(runs(visit, "done")).to_have_count(1)
        await expect(page.locator("#code")).to_contain_text("Bearer $S1_API_KEY")
        stored = await page.evaluate("() => [JSON.stringify(localStorage), document.cookie, location.href]")
        assert keys.secrets["ann"] not in str(stored) + await page.content()
        await page.reload()
        await expect(page.locator("#status")).to_have_attribute("data-state", "ready")
        other = await visit.context.new_page()
        await other.goto(page.url)
        await expect(other.locator("#key-dialog")).to_be_visible()


async def test_offline_and_back(visit: Visit) -> None:
    page = visit.page
    await visit.context.set_offline(True)
    await expect(page.locator("#status")).to_have_attribute("data-state", "offline")
    await visit.ask(QUESTION)
    await expect(page.locator(".problem")).to_contain_text("The server can’t be reached")
    await visit.context.set_offline(False)
    await expect(page.locator("#status")).to_have_attribute("data-state", "ready")
    await page.get_by_role("button", name="Try again").click()
    await expect(runs(visit, "done")).to_have_count(1)


async def test_buttons_are_off_with_a_reason_where_the_server_lacks_their_routes(
    browser: Browser, client: httpx.AsyncClient, engine: StandIn
) -> None:
    async with visiting(browser) as visit:
        await visit.page.route("**/openapi.json", _paths())
        await visit.open(str(client.base_url).rstrip("/"))
        engine.faults = Faults(stall_after=3)
        await visit.ask(QUESTION)
        now = visit.page.get_by_role("button", name="Answer now")
        await expect(now).to_be_disabled()
        await expect(now).to_have_attribute("title", re.compile("no route"))
        engine.release.set()
        await expect(visit.page.get_by_role("button", name="Think more")).to_be_disabled()
        await expect(visit.page.locator(".why")).to_contain_text("can’t continue")


async def test_answer_now_and_think_more_ask_for_what_the_contract_says(
    browser: Browser, client: httpx.AsyncClient, engine: StandIn
) -> None:
    asked: list[tuple[str, Any]] = []

    async def control(route: Route) -> None:
        asked.append((route.request.url.partition("/v1/")[2], route.request.post_data_json))
        late = {"error": {"message": "it answers already", "type": "x", "param": None, "code": None}}
        applied = {"id": "x", "object": "chat.completion.control", "action": "answer_now", "applied": True}
        status = 200 if len(asked) == 1 else 409
        await route.fulfill(status=status, json=applied if status == 200 else late)

    async def further(route: Route) -> None:
        asked.append((route.request.url.partition("/v1/")[2], route.request.post_data_json))
        response = await route.fetch(
            url=f"{client.base_url}/v1/chat/completions",
            post_data=json.dumps(
                {"messages": [{"role": "user", "content": "x"}], "stream": True, "num_waits": 1}
            ),
        )
        await route.fulfill(response=response)

    async with visiting(browser) as visit:
        page = visit.page
        chat = "/v1/chat/completions/{completion_id}"
        await page.route("**/openapi.json", _paths(f"{chat}/answer_now", f"{chat}/think_more"))
        await page.route("**/answer_now", control)
        await page.route("**/think_more", further)
        await visit.open(str(client.base_url).rstrip("/"))
        engine.faults = Faults(stall_after=3)
        await visit.ask(QUESTION)
        now = page.get_by_role("button", name="Answer now")
        await now.click()
        await expect(page.locator("#announce")).to_have_text("The thinking ends here.")
        await now.click()
        await expect(page.locator(".problem")).to_contain_text("it answers already")
        engine.release.set()
        await expect(runs(visit, "done")).to_have_count(1)
        await page.get_by_label("Waits to add").fill("3")
        await page.get_by_role("button", name="Think more").click()
        await expect(runs(visit, "done")).to_have_count(2)
        await expect(page.locator(".run h3").nth(1)).to_have_text("thought further, 3 more waits")
        paths, bodies = zip(*asked, strict=True)
        assert all(
            re.fullmatch(r"chat/completions/chatcmpl-\w+/(answer_now|think_more)", path) for path in paths
        )
        assert [path.rpartition("/")[2] for path in paths] == ["answer_now", "answer_now", "think_more"]
        assert bodies[-1] == {"num_waits": 3, "stream": True, "return_token_ids": True}


def _paths(*paths: str) -> Any:
    async def answer(route: Route) -> None:
        await route.fulfill(json={"paths": dict.fromkeys(paths, {})})

    return answer


async def test_the_code_that_is_shown_runs_and_asks_the_same(visit: Visit, engine: StandIn) -> None:
    page = visit.page
    question = 'it\'s "odd": $HOME `id` \\n \\ 𝛑 {\'a\': """b"""}\nsecond line'
    await page.fill("#budget-A-max", "5")
    await page.fill("#budget-A-waits", "1")
    await page.locator(".more summary").click()
    await page.fill("#temperature", "0.5")
    await page.fill("#prompt", question)
    curl = await page.locator("#code").text_content()
    await page.click("#code-python")
    python = await page.locator("#code").text_content()
    for command in (["bash", "-c", curl], [sys.executable, "-c", python]):
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "42." in done.stdout and "thinking" in done.stdout
        sent = engine.bodies[-1]
        assert sent["messages"] == [{"role": "user", "content": question}]
        assert sent["temperature"] == 0.5
        assert sent["vllm_xargs"]["max_thinking_tokens"] == 5
        assert sent["vllm_xargs"]["num_waits"] == 1


async def test_waits_are_found_by_position_not_by_text(visit: Visit) -> None:
    """In JavaScript's own module: words of the model's are left alone, tokens without text are counted."""
    found = await visit.page.evaluate(
        """async () => {
          const { parts } = await import(new URL('playground/marks.js', document.baseURI).href);
          const kindOf = (text) => (text ? 'thinking' : 'none');
          const piece = (text, first, tokens = 1) => ({ kind: kindOf(text), text, first, tokens });
          const marked = (pieces, receipt) => parts(pieces, receipt).map(({ text, kind }) => [text, kind]);
          const pieces = ['Wait', ' no', '', '.\\n', 'Wait', ', so'].map((text, index) => piece(text, index));
          const late = [piece('x', 0), piece('', 1), piece('Hmm ok', 2)];
          const merged = [piece('a b Wait, c Hmm d', 0, 7), piece(' Wait', 7)];
          const answer = { ...piece('42', 4, 9), kind: 'answer' };
          const both = [piece('a Wait, b', 0, 4), piece(' c Wait, d', 4, 0), answer];
          return [
            marked(pieces, { waits: 1, positions: { waits: [4] } }),
            marked(pieces, { waits: 0 }),
            marked(pieces, { waits: 1 }),
            marked(pieces, null),
            marked(merged, { waits: 1, positions: { waits: [2] } }),
            marked(late, { waits: 1, positions: { waits: [1] } }),
            marked(both, { waits: 2, positions: { waits: [1, 5] } }),
          ];
        }"""
    )
    plain = [["Wait no.\n", "plain"], ["Wait", "injected"], [", so", "plain"]]
    possible = [["Wait", "possible"], [" no.\n", "plain"], ["Wait", "possible"], [", so", "plain"]]
    assert found == [
        plain,
        [["Wait no.\nWait, so", "plain"]],
        possible,
        possible,
        [["a b ", "plain"], ["Wait", "injected"], [", c Hmm d Wait", "plain"]],
        [["x", "plain"], ["Hmm", "injected"], [" ok", "plain"]],
        [["a ", "plain"], ["Wait", "injected"], [", b c ", "plain"], ["Wait", "injected"], [", d", "plain"]],
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}},
    ],
    ids=["light", "dark", "narrow"],
)
async def test_nothing_serious_for_axe(
    browser: Browser, client: httpx.AsyncClient, options: dict[str, Any]
) -> None:
    async with visiting(browser, **options) as visit:
        page = visit.page
        await visit.open(str(client.base_url).rstrip("/"))
        assert await visit.serious() == []
        narrow = "viewport" in options
        if narrow:
            await page.get_by_role("button", name="Budget").click()
        await page.check("#compare")
        await page.fill("#budget-B-max", "10")
        await page.fill("#budget-B-min", "20")
        await page.locator(".more summary").click()
        await visit.ask(QUESTION)
        await expect(runs(visit, "done")).to_have_count(1)
        await expect(runs(visit, "failed")).to_have_count(1)
        assert await visit.serious() == []
        wide = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        await page.click("#open-key")
        await expect(page.locator("#key-dialog")).to_be_visible()
        assert await visit.serious() == []


async def test_the_keyboard_alone_is_enough(visit: Visit) -> None:
    page = visit.page
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    order = []
    for _ in range(24):
        order.append(await page.evaluate("() => document.activeElement.id"))
        await page.keyboard.press("Tab")
    wanted = "ask compare budget-A-max budget-A-max-slider chart-accuracy code-python code copy"
    assert [control for control in wanted.split() if control not in order] == []
    await page.focus("#theme")
    before = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    await page.keyboard.press("Enter")
    assert await page.evaluate("() => getComputedStyle(document.body).backgroundColor") != before
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", re.compile("light|dark"))
