"""`s1 top`: the requests that a server runs now, with their thinking against its budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import httpx
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server.commands.failing import fail

_METER_CELLS = 24
_NARROW_METER_CELLS = 8
_WIDE = 110
"""Columns of a terminal from which there is room for long meters."""
_TIMEOUT_S = 10
_COLORS = {"thinking": "yellow", "answering": "green", "queued": "magenta", "prefill": "cyan"}


class TopError(RuntimeError):
    """What the person at the terminal has to be told."""


def top(
    url: Annotated[str, typer.Argument(help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="S1_API_KEY", help="An admin key, if the server has keys.")
    ] = None,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print what runs now, and end.")] = False,
) -> None:
    """Show running requests with their thinking meters, until Ctrl-C; once, where output is no terminal."""
    console = Console()
    try:
        with _client(url, api_key) as client:
            # A dumb terminal has no screen that could be drawn over.
            if once or not console.is_terminal or console.is_dumb_terminal:
                console.print(_screen(_running(client), url, rates={}, width=console.width))
            else:
                _watch(client, url, console, interval_s)
    except TopError as error:
        fail(str(error), code=1)


def _client(url: str, api_key: str | None) -> httpx.Client:
    """
    Args:
        url: the server, with or without /v1.

    Raises:
        TopError: it is no URL, or the key can't be sent.
    """
    base = url.rstrip("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        return httpx.Client(base_url=base, headers=headers, timeout=_TIMEOUT_S)
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise TopError(f"URL or --api-key can't be used: {error}") from None


def _watch(client: httpx.Client, url: str, console: Console, interval_s: float) -> None:
    meters = Meters()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                running = _running(client)
                rates = meters.rates(running, time.monotonic())
                live.update(_screen(running, url, rates=rates, width=console.width), refresh=True)
                time.sleep(interval_s)
        except KeyboardInterrupt:
            return


def _running(client: httpx.Client) -> list[dict[str, Any]]:
    """
    Raises:
        TopError: the server can't be reached, or doesn't tell.
    """
    try:
        response = client.get("/s1/requests")
    except httpx.HTTPError as error:
        raise TopError(f"no answer from {client.base_url}: {error}") from None
    if response.status_code in (401, 403):
        raise TopError("running requests take an admin key: --api-key, or S1_API_KEY")
    if response.status_code != 200:
        raise TopError(f"{client.base_url} has no /s1/requests (status {response.status_code})")
    try:
        body = response.json()
        observing, running = body["observing"], list(body["data"])
    except (ValueError, KeyError, TypeError):
        raise TopError(
            f"{str(client.base_url).rstrip('/')}/s1/requests is not this project's: it tells no requests"
        ) from None
    if not observing:
        raise TopError("this server observes no requests (S1_GATEWAY_OBSERVE=off)")
    return running


class Meters:
    """Tokens per second of each choice, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def rates(self, running: Sequence[Mapping[str, Any]], now: float) -> dict[tuple[str, int], float]:
        """
        Args:
            now: of any clock, in seconds.
        """
        seen, rates = {}, {}
        for request in running:
            for number, choice in enumerate(request["choices"]):
                at = (request["id"], number)
                tokens = choice["thinking_tokens"] + choice["answer_tokens"]
                before = self._seen.get(at)
                if before is not None and now > before[0]:
                    rates[at] = (tokens - before[1]) / (now - before[0])
                seen[at] = (now, tokens)
        self._seen = seen
        return rates


def _screen(
    running: Sequence[Mapping[str, Any]],
    url: str,
    *,
    rates: Mapping[tuple[str, int], float],
    width: int,
) -> RenderableType:
    phases: dict[str, int] = {}
    for request in running:
        phases[request["phase"]] = phases.get(request["phase"], 0) + 1
    counted = "  ".join(f"{count} {phase}" for phase, count in phases.items()) or "nothing runs"
    title = Text.assemble(("s1 top  ", "bold"), url, ("   " + counted, "bold"))
    return Group(title, Text(), _table(running, rates, width))


def _table(running: Sequence[Mapping[str, Any]], rates: Mapping[tuple[str, int], float], width: int) -> Table:
    """The figures whole, and as much of the names as `width` leaves for them."""
    cells = _METER_CELLS if width >= _WIDE else _NARROW_METER_CELLS
    rows = [
        _row(request, number, choice, rates.get((request["id"], number)), cells)
        for request in running
        for number, choice in enumerate(request["choices"] or [None])
    ]
    widths = [max(cell.cell_len for cell in column) for column in zip(*([_HEAD, *rows]), strict=True)]
    left = width - sum(widths[_NAMES:]) - len(widths) + 1
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(_HEAD):
        most = widths[place]
        if place < _NAMES:
            # Each of the names that are still to come has its part.
            most = max(1, min(most, left * _SHARES[place] // sum(_SHARES[place:])))
            left -= most
        justify: Literal["left", "right"] = "right" if name.plain in _RIGHT else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", width=most)
    for row in rows:
        table.add_row(*row)
    return table


def _row(
    request: Mapping[str, Any], number: int, choice: Mapping[str, Any] | None, rate: float | None, cells: int
) -> list[Text]:
    """What others have named is text, never markup."""
    first = number == 0
    own = [
        Text(str(request["id"])),
        Text(str(request["model"] or "-")),
        Text(str(request["key"] or "-")),
        Text(str(request["phase"]), style=_COLORS.get(request["phase"], "white")),
        Text(f"{request['age_s']:.0f} s"),
    ]
    return [
        *(own if first else [Text()] * len(own)),
        meter(choice, cells) if choice else Text(),
        Text(_tokens(choice, "thinking_tokens", request["stream"])),
        Text(_tokens(choice, "answer_tokens", request["stream"])),
        Text("-" if rate is None else f"{rate:.0f}/s"),
    ]


_HEAD = [
    Text(name)
    for name in ("id", "model", "key", "phase", "age", "thinking / budget", "thinking", "answer", "rate")
]
_RIGHT = frozenset(("age", "thinking", "answer", "rate"))
_NAMES = 3
"""The first columns, which are cut where a terminal is narrow."""
_SHARES = (3, 2, 1)


def meter(choice: Mapping[str, Any], cells: int = _METER_CELLS) -> Text:
    """A bar of the thinking against its maximum, and the maximum; without one there is nothing to fill."""
    most, used = choice["max_thinking_tokens"], choice["thinking_tokens"]
    if most is None:
        return Text("no maximum", style="dim")
    filled = cells if not most else min(cells, round(cells * used / most))
    color = "red" if used >= most else "yellow"
    return Text.assemble(("█" * filled, color), ("░" * (cells - filled), "dim"), f" {used}/{most}")


def _tokens(choice: Mapping[str, Any] | None, name: str, stream: bool | None) -> str:
    """Of a whole answer nobody knows how far it is."""
    if choice is None or (not stream and not choice[name]):
        return "-"
    return str(choice[name])
