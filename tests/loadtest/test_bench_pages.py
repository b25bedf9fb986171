"""What benchmarks make of their measurements: pages, ratios, shares of a profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.bench.measure import Sample, middle, ratio, shown
from loadtest.bench.report import Page
from loadtest.bench.rows import Step, markers
from loadtest.bench.token import _PARTS, _REQUEST, _shares


def made(tokens_per_s: float) -> Sample:
    return Sample(1.0, 1.0, tokens_per_s, None, None, 2.0, 3.0, 4.0, 5.0, None, 0, 0, ())


def test_a_page_has_its_command_its_tables_and_its_numbers(tmp_path: Path) -> None:
    page = Page.begin("some", "Some benchmark")
    page.origin["machine"] |= {"cores": 2, "load_average": [9.0, 1.0, 1.0]}
    page.table(["a", "b"], [["x", 12345.6], ["y", None], ["z", 0.12345]])
    page.data = {"x": [1]}
    text = page.write(tmp_path).read_text()
    assert "python -m loadtest.bench.some" in text
    assert "not quiet" in text
    assert "| x | 12,346 |\n| y | – |\n| z | 0.123 |" in text
    assert json.loads((tmp_path / "some.json").read_text())["x"] == [1]


def test_ratios_are_of_the_same_rounds() -> None:
    a, b = [made(10), made(20), made(30)], [made(5), made(10), made(10)]
    found = ratio(a, b, "tokens_per_s")
    assert found is not None
    assert found.rounds == (2, 2, 3)
    assert shown(found).startswith("2.00 (1.28 to 4.10")
    assert ratio(a, b, "memory_mb") is None
    assert shown(None) == "–"
    assert middle(a, "tokens_per_s") == 20
    assert middle(a, "memory_mb") is None


def test_samples_of_a_profile_are_shared_out_by_where_they_were_taken() -> None:
    stream = "main (a.py:1);stream_chat (server/gateway/chat/streaming.py:3)"
    samples = (
        f"{stream};RequestResponseCycle.send (x.py:5) 6\n"
        f"{stream};joins (server/gateway/chat/bursts.py:9) 2\n"
        "main (a.py:1);parse_chat (server/gateway/chat/chat_call.py:9) 1\n"
        f"{stream};nobody (elsewhere.py:9) 1\n"
    )
    shares = _shares(samples)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[next(iter(_PARTS))] == 0.6
    assert shares["the chunk's form, joining, JSON"] == 0.2
    assert shares[_REQUEST] == shares["other"] == 0.1


def test_the_measured_step_really_forces_waits() -> None:
    step = Step(16, 256, attempts_every=16)
    for _ in range(40):
        assert step() > 0
    assert all(output.count(markers(256).wait[0]) >= 1 for output in step.outputs)
