"""Rates are of a window of fixed length, whatever is waited for after it; speeds are of one side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtest.client.answer import Answer
from loadtest.client.asking import Dialect
from loadtest.client.fleet import Fleet, Load, Run, fleet
from loadtest.client.record import Record
from loadtest.client.result import result
from loadtest.client.summary import summarize
from loadtest.client.workload import Workload, read_workload
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script
from tests.loadtest.scripted import DONE, MARKERS, delta, event

SHORT = read_workload("short")


@pytest.fixture(scope="module")
def workers() -> Iterator[Fleet]:
    with fleet(1) as started:
        yield started


def test_stalled_requests_do_not_dilute_a_rate(workers: Fleet) -> None:
    load = Load(SHORT, duration_s=1.0, arrivals="constant", rate=50)
    dialect = Dialect("stand-in", "ours", True, MARKERS, None, 3.0)
    with running(Options(faults={"stall": 0.06})) as urls:
        run = workers.run(urls[0], dialect, load)
    figures = summarize(run, [])["all"]
    stalled = figures["errors"]["timeout"]
    assert 0 < stalled < 15 and figures["requests"] == 49
    assert figures["error_messages"] == {"timeout": "no whole answer within 3 s"}
    # Over the drain they would be a third of it.
    assert 0.7 * (49 - stalled) < figures["requests_per_s"] <= 49 - stalled
    assert figures["goodput_per_s"] == figures["requests_per_s"]
    assert figures["drain_s"] > 1.9
    found = result({"run": [run]}, provenance={}, targets=[{"url": urls[0]}], load=load, slos=[])
    assert any("after the 1 s in which rates are counted" in warning for warning in found["warnings"])


def test_answers_count_where_they_end_and_tokens_where_they_come(workers: Fleet) -> None:
    """Streams of 0.5 s, four at a time, measured over a window that begins and ends within streams."""
    load = Load(SHORT, duration_s=1.25, warmup_s=0.25, concurrency=4)
    script = Script(thinking=30, answer=18)
    with running(Options(script, itl_s=0.01)) as urls:
        run = workers.run(urls[0], Dialect("m", "none", True, MARKERS, None, 30), load)
    assert run.early and all(record.intended < run.began_s for record in run.early)
    assert all(record.intended >= run.began_s for record in run.records)
    figures = summarize(run, [])["all"]
    assert figures["window_s"] == 1.0
    ended = [record for record in (*run.early, *run.records) if run.ended_in_window(record)]
    assert any(record in run.early for record in ended)
    assert figures["ended_in_window"] == len(ended) == figures["requests_per_s"]
    tokens = figures["tokens"]
    assert tokens["completion"] == 50 * len(run.records)
    assert 0 < tokens["thinking_per_s"] < tokens["completion_per_s"] < 50 * len(run.early + run.records)


def test_an_answer_counts_where_it_ends() -> None:
    run = Run("", Load(SHORT, 10), 0.0, 10.0, [], [], {})
    inside, after = Record(0, 1.0, ended=9.9), Record(0, 1.0, ended=10.0)
    assert run.ended_in_window(inside) and not run.ended_in_window(after)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def stream_at_50_per_s(*, with_ids: bool, window: tuple[float, float] = (0.0, 1000.0)) -> Record:
    """Eight thinking tokens, two of the marker, sixteen of answer: one every 20 ms from 100 s on."""
    clock, record = Clock(), Record(0, 100.0)
    asked = SHORT.request(0, seed=0, overrides={})
    answer = Answer(record, lambda gap_s: None, True, window, clock)
    for position in range(26):
        clock.now = 100 + 0.02 * position
        said = {"reasoning": "t"} if position < 8 else {"content": "a"} if position >= 10 else {}
        ids = {"token_ids": [1, 3][position - 8 : position - 7] if 8 <= position < 10 else [50]}
        if with_ids or said:
            answer.read(200, delta(**said, **(ids if with_ids else {})))  # type: ignore[arg-type]
    details = {"completion_tokens_details": {"reasoning_tokens": 8}}
    usage = {"prompt_tokens": 3, "completion_tokens": 26 if with_ids else 24} | details
    clock.now += 1.0
    answer.read(200, delta(finish="stop") + event({"choices": [], "usage": usage}) + DONE)
    answer.end(200)
    answer.judge(asked, fields="ours", markers=MARKERS)
    assert record.error is None
    return record


@pytest.mark.parametrize("with_ids", [True, False])
def test_speeds_of_a_stream_leave_markers_and_pauses_out(with_ids: bool) -> None:
    record = stream_at_50_per_s(with_ids=with_ids)
    assert record.counted_from == ("token ids" if with_ids else "usage")
    assert (record.thinking_tokens, record.answer_tokens) == (8, 16)
    assert record.marker_tokens == (2 if with_ids else 0)
    assert record.thinking_tokens_per_s == pytest.approx(50)
    assert record.answer_tokens_per_s == pytest.approx(50)


def test_speeds_of_a_stream_of_large_events_are_its_tokens() -> None:
    """Ten tokens every 200 ms after the first; one brings the end of the thinking and answer, too."""
    clock, record = Clock(), Record(0, 100.0)
    answer = Answer(record, lambda gap_s: None, True, (0.0, 1000.0), clock)
    answer.read(200, delta(reasoning="t", token_ids=[50]))
    for number, said in enumerate(({"reasoning": "t"}, {"reasoning": "t", "content": "a"}, {"content": "a"})):
        clock.now = 100 + 0.2 * (number + 1)
        ids = [50] * 10 if number != 1 else [50] * 5 + [1, 3] + [50] * 3
        answer.read(200, delta(**said, token_ids=ids))  # type: ignore[arg-type]
    answer.read(200, delta(finish="stop") + DONE)
    answer.end(200)
    answer.judge(SHORT.request(0, seed=0, overrides={}), fields="none", markers=MARKERS)
    assert (record.thinking_tokens, record.answer_tokens) == (16, 13)
    assert record.thinking_tokens_per_s == pytest.approx(50)
    assert record.answer_tokens_per_s == pytest.approx(50)


def test_a_window_holds_the_tokens_that_come_within_it() -> None:
    assert stream_at_50_per_s(with_ids=True).tokens_in_window == 26
    record = stream_at_50_per_s(with_ids=True, window=(100.07, 100.25))
    # Positions 4 to 12: four of thinking, the marker, three of answer.
    assert (record.tokens_in_window, record.thinking_in_window, record.updates_in_window) == (9, 4, 9)
    record = stream_at_50_per_s(with_ids=False, window=(100.07, 100.25))
    assert (record.tokens_in_window, record.thinking_in_window) == (7, 4)
    assert stream_at_50_per_s(with_ids=True, window=(50, 60)).tokens_in_window == 0
    assert stream_at_50_per_s(with_ids=True, window=(200, 300)).tokens_in_window == 0


def test_markers_are_counted_apart(workers: Fleet) -> None:
    workload = Workload.model_validate({"classes": [{"name": "x", "max_thinking_tokens": 1000}]})
    with running(Options(Script(thinking=20, answer=8))) as urls:
        run = workers.run(
            urls[0],
            Dialect("m", "none", True, MARKERS, None, 30),
            Load(workload, duration_s=0.2, concurrency=2),
        )
    tokens, requests = summarize(run, [])["all"]["tokens"], len(run.records)
    assert (tokens["thinking"], tokens["markers"], tokens["answer"]) == tuple(
        n * requests for n in (20, 2, 8)
    )
    assert tokens["completion"] == 30 * requests
