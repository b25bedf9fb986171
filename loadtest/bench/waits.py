"""Waits inside the sampler against s1's own way, a request for every wait: the plugin against rounds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.engines import DEMO, FAMILY, stock, with_plugin
from loadtest.bench.measure import Sample, Subject, as_json, interleaved, middle, ratio, shown, workload
from loadtest.bench.processes import gateway
from loadtest.bench.report import Page
from loadtest.client.fleet import Fleet, Load, fleet

WAITS = (0, 1, 4)
BATCHES = (1, 16, 64)
_MAXIMUM = 192
_SMALL_BLOCKS = 160
"""Of 16 tokens: about 16 of 64 requests fit."""
_BARS = {(4, 16): 1.8, (4, 64): 1.5}
_SMALL_BAR = 2.0
NATIVE, ROUNDS = "native", "rounds"


def main(
    rounds: Annotated[int, typer.Option(min=3)] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of one run.")] = 8,
    results: Path = Path("docs/results"),
) -> None:
    page = Page.begin("waits", "Waits in the sampler and by re-submission")
    page.say(
        "Two gateways: before an engine with our plugin (native), and before stock vLLM, where the gateway "
        "does what s1's code does: stop, drop the end token, append `Wait`, send again (rounds). Demo "
        f"checkpoint, `max_thinking_tokens` {_MAXIMUM}, whole answers, closed loops, {rounds} interleaved "
        f"rounds of {seconds:g} s. The ratio is of completion tokens per second, native over rounds."
    )
    with fleet(os.cpu_count() or 1) as workers:
        cases = [(waits, batch) for waits in WAITS for batch in BATCHES]
        page.say("## A cache that holds all")
        _run(page, workers, cases, rounds, seconds, (), _BARS)
        page.say(f"## A cache of {_SMALL_BLOCKS * 16:,} tokens: too small for all")
        blocks = ("--num-gpu-blocks-override", str(_SMALL_BLOCKS))
        _run(page, workers, [(4, 64)], rounds, seconds, blocks, {(4, 64): _SMALL_BAR})
    typer.echo(page.write(results))


def _run(
    page: Page,
    workers: Fleet,
    cases: list[tuple[int, int]],
    rounds: int,
    seconds: float,
    arguments: tuple[str, ...],
    bars: dict[tuple[int, int], float],
) -> None:
    rows: list[list[object]] = []
    with contextlib.ExitStack() as stack:
        plugin = stack.enter_context(with_plugin(*arguments))
        plain = stack.enter_context(stock(*arguments))
        subjects = [
            Subject(NATIVE, stack.enter_context(gateway([plugin.url])).url, model=DEMO.name),
            Subject(
                ROUNDS,
                stack.enter_context(gateway([plain.url], options=["--family", FAMILY])).url,
                model=DEMO.name,
            ),
        ]
        for waits, batch in cases:
            asked = workload(
                prompt_words=8, max_thinking_tokens=_MAXIMUM, num_waits=waits, stream=False,
                max_completion_tokens=_MAXIMUM + 64,
            )  # fmt: skip
            load = Load(asked, duration_s=seconds, concurrency=batch)
            found = interleaved(workers, subjects, load, rounds=rounds, warmup_s=2)
            rows.append(_row(found, waits, batch, bars.get((waits, batch))))
            page.data[f"waits {waits}, batch {batch}, {' '.join(arguments) or 'whole cache'}"] = as_json(
                found
            )
    head = ["waits", "batch", "native tok/s", "rounds tok/s", "native over rounds", "bar", "errors"]
    page.table(head, rows)


def _row(found: dict[str, list[Sample]], waits: int, batch: int, bar: float | None) -> list[object]:
    native, rounds = found[NATIVE], found[ROUNDS]
    own = ratio(native, rounds, "tokens_per_s")
    holds = "–" if bar is None or own is None else f"{bar:g}: {'holds' if own.median >= bar else 'missed'}"
    errors = sum(one.errors for one in (*native, *rounds))
    tokens = [middle(native, "tokens_per_s"), middle(rounds, "tokens_per_s")]
    return [waits, batch, *tokens, shown(own), holds, errors]


if __name__ == "__main__":
    typer.run(main)
