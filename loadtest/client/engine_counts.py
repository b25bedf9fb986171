"""What engines counted themselves during a run, from vLLM's metrics, beside the client's own counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from loadtest.client.wire import Client, Target, WireError

_COUNTER = re.compile(rb"^vllm:(prompt|generation)_tokens_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class EngineCountsError(RuntimeError):
    """An engine's metrics can't be read."""


def read_counts(urls: Sequence[str]) -> dict[str, float]:
    """Tokens so far by kind (`prompt`, `generation`), of all engines together.

    Raises:
        EngineCountsError
    """
    return asyncio.run(_read(urls))


async def _read(urls: Sequence[str]) -> dict[str, float]:
    total = {"prompt": 0.0, "generation": 0.0}
    for url in urls:
        try:
            target = Target.of(url)
            client = Client(target)
            status, body = await client.fetch(target.request("GET", "/metrics"))
            client.close()
        except (WireError, ValueError) as error:
            raise EngineCountsError(f"{url}/metrics: {error}") from None
        found = _COUNTER.findall(body)
        if status != 200 or not found:
            raise EngineCountsError(f"{url}/metrics has none of vLLM's token counters (HTTP {status})")
        for kind, value in found:
            total[kind.decode()] += float(value)
    return total
