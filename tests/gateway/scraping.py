"""Read a gateway's /metrics with Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]
"""A sample's name and labels."""


def series(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())


async def scrape(client: httpx.AsyncClient) -> dict[Series, float]:
    response = await client.get("/metrics")
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def total(found: dict[Series, float], name: str, **labels: str) -> float:
    """The sum over all series of `name` that have these labels."""
    wanted = frozenset(labels.items())
    return sum(value for (other, own), value in found.items() if other == name and wanted <= own)


def receipts_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [choice["thinking_budget"] for choice in answer["choices"]]


def summed(receipts: Iterable[dict[str, Any]], name: str) -> int:
    return sum(receipt[name] for receipt in receipts)


def without_times(found: dict[Series, float]) -> dict[Series, float]:
    """Everything of ours that is no time, no bucket, and no state of an engine."""
    return dict(_counted(found))


def _counted(found: dict[Series, float]) -> Iterator[tuple[Series, float]]:
    for (name, labels), value in found.items():
        timed = name.endswith(("_seconds_sum", "_per_second_sum"))
        if name.startswith("s1_") and not timed and not name.endswith("_bucket"):
            yield (name, labels), value
