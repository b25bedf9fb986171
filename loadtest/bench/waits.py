"""Waits inside the sampler against s1's own way, a request for every wait: the plugin against rounds."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.engines import FAMILY, Model, model_of, stock, with_plugin
from loadtest.bench.measure import Sample, Subject, as_json, interleaved, middle, ratio, shown, workload
from loadtest.bench.processes import gateway
from loadtest.bench.report import Page, folder
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
    waits: Annotated[list[int] | None, typer.Option("--num-waits", help="Default: 0, 1 and 4.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Default: 1, 16 and 64.")] = None,
    small_cache: Annotated[bool, typer.Option(help="With a cache too small for all, too.")] = True,
    shape: Annotated[str | None, typer.Option(help="Random weights of this shape: for a GPU.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Default: docs/results, with --shape docs/results/gpu-DATE.")
    ] = None,
) -> None:
    page = Page.begin("waits", "Waits in the sampler and by re-submission")
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(model_of(shape))
        workers = stack.enter_context(fleet(os.cpu_count() or 1))
        _measure(page, workers, model, waits or WAITS, batch or BATCHES, rounds, seconds, small_cache)
    typer.echo(page.write(folder(results, gpu=shape is not None)))


def _measure(
    page: Page,
    workers: Fleet,
    model: Model,
    waits: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    seconds: float,
    small_cache: bool,
) -> None:
    page.say(
        "Two gateways: before an engine with our plugin (native), and before stock vLLM, where the gateway "
        "does what s1's code does: stop, drop the end token, append `Wait`, send again (rounds). On "
        f"{model.words}, `max_thinking_tokens` {_MAXIMUM}, whole answers, closed loops, {rounds} interleaved "
        f"rounds of {seconds:g} s. The ratio is of completion tokens per second, native over rounds."
    )
    page.say("## A cache that holds all")
    cases = list(itertools.product(waits, batches))
    _run(page, workers, model, cases, rounds, seconds, (), _BARS)
    if small_cache:
        page.say(f"## A cache of {_SMALL_BLOCKS * 16:,} tokens: too small for all")
        blocks = ("--num-gpu-blocks-override", str(_SMALL_BLOCKS))
        _run(page, workers, model, [(4, 64)], rounds, seconds, blocks, {(4, 64): _SMALL_BAR})


def _run(
    page: Page,
    workers: Fleet,
    model: Model,
    cases: list[tuple[int, int]],
    rounds: int,
    seconds: float,
    arguments: tuple[str, ...],
    bars: dict[tuple[int, int], float],
) -> None:
    rows: list[list[object]] = []
    with contextlib.ExitStack() as stack:
        plugin = stack.enter_context(with_plugin(*arguments, model=model))
        plain = stack.enter_context(stock(*arguments, model=model))
        subjects = [
            Subject(NATIVE, stack.enter_context(gateway([plugin.url])).url, model=model.name),
            Subject(
                ROUNDS,
                stack.enter_context(gateway([plain.url], options=["--family", FAMILY])).url,
                model=model.name,
            ),
        ]
        for waits, batch in cases:
            asked = workload(
                prompt_words=8, max_thinking_tokens=_MAXIMUM, num_waits=waits, stream=False,
                max_completion_tokens=_MAXIMUM + 64, extra=dict(model.ends_often),
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
