"""The gateway before a real engine against that engine alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.engines import model_of, with_plugin
from loadtest.bench.measure import Sample, Subject, as_json, interleaved, middle, ratio, shown, workload
from loadtest.bench.processes import gateway
from loadtest.bench.report import Page, folder
from loadtest.client.fleet import Load, fleet

_TOKENS = 160
_LOW_RATE = 1.0
_EQUAL, _DEFAULT, _ADDED_MS = 0.9, 1.5, 3.0
DIRECT, TOKEN, OURS = "vLLM", "s1-server, token by token", "s1-server"


def main(
    rounds: Annotated[int, typer.Option(min=3)] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of one run.")] = 8,
    concurrency: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 64,
    shape: Annotated[str | None, typer.Option(help="Random weights of this shape: for a GPU.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Default: docs/results, with --shape docs/results/gpu-DATE.")
    ] = None,
) -> None:
    page = Page.begin("direct", "The gateway and vLLM alone")
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(model_of(shape))
        engine = stack.enter_context(with_plugin(model=model))
        own = stack.enter_context(gateway([engine.url]))
        workers = stack.enter_context(fleet(os.cpu_count() or 1))
        direct = Subject(DIRECT, engine.url, model=model.name)
        token = Subject(TOKEN, own.url, own, {"stream_granularity": "token"}, model=model.name)
        ours = Subject(OURS, own.url, own, model=model.name)
        length = {"max_tokens": _TOKENS, "ignore_eos": True}
        streamed = Load(workload(extra=length), duration_s=seconds, concurrency=concurrency)
        whole = Load(workload(extra=length, stream=False), duration_s=seconds, concurrency=concurrency)
        low = Load(workload(extra=length), duration_s=seconds * 2, rate=_LOW_RATE)
        streams = interleaved(workers, [direct, token, ours], streamed, rounds=rounds, warmup_s=2)
        answers = interleaved(workers, [direct, ours], whole, rounds=rounds, warmup_s=2)
        quiet = interleaved(workers, [direct, token, ours], low, rounds=rounds, warmup_s=2)
    page.say(
        f"One engine with our plugin on {model.words}, requests without a budget of {_TOKENS} tokens "
        f"each, {rounds} interleaved rounds of {seconds:g} s. Gateway, engine and client share the cores.",
        f"## Streams, {concurrency} at a time",
    )
    _table(page, streams)
    page.say(
        _bar("at equal granularity", streams, TOKEN, _EQUAL),
        _bar("with defaults", streams, OURS, _DEFAULT),
        f"## Whole answers, {concurrency} at a time",
    )
    _table(page, answers)
    page.say(f"## {_LOW_RATE:g} stream a second: what is added to the first token")
    base = middle(quiet[DIRECT], "first_token_p50_ms") or 0.0
    added = {name: (middle(found, "first_token_p50_ms") or 0.0) - base for name, found in quiet.items()}
    page.table(["", "added at p50, ms"], [[name, ms] for name, ms in added.items()])
    word = "holds" if added[OURS] <= _ADDED_MS else "is missed"
    page.say(f"Bar: at most {_ADDED_MS:g} ms: {word}.")
    page.data = {"streams": as_json(streams), "whole": as_json(answers), "quiet": as_json(quiet)}
    typer.echo(page.write(folder(results, gpu=shape is not None)))


def _table(page: Page, found: dict[str, list[Sample]]) -> None:
    columns = ["tokens_per_s", "updates_per_s", "first_token_p50_ms", "cpu_us_per_token", "errors"]
    rows = [
        [
            name,
            *(middle(samples, column) for column in columns),
            "–" if name == DIRECT else shown(ratio(samples, found[DIRECT], "tokens_per_s")),
        ]
        for name, samples in found.items()
    ]
    page.table(["", *(c.replace("_", " ") for c in columns), "tokens/s over vLLM's"], rows)


def _bar(when: str, found: dict[str, list[Sample]], name: str, least: float) -> str:
    own = ratio(found[name], found[DIRECT], "tokens_per_s")
    word = "holds" if own is not None and own.median >= least else "is missed"
    return f"Bar: {when} at least {least:g} times vLLM's tokens per second: {word} ({shown(own)})."


if __name__ == "__main__":
    typer.run(main)
