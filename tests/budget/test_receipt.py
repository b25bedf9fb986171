from __future__ import annotations

import json

import pytest

from server.budget.receipt import EngineReceipt, count_tokens, positions, receipt, unbudgeted_receipt
from server.budget.spec import ThinkingBudget

ENGINE = EngineReceipt(
    receipt_id="r",
    effective_min=0,
    effective_max=20,
    effective_num_waits=2,
    clamped_by=("context",),
    output_tokens=40,
    thinking_begin=2,
    thinking_end=22,
    answer_begin=28,
    wait_positions=(7, 15),
    ended_by="max_thinking_tokens",
)


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [
        (40, (20, 8, 12)),
        (28, (20, 8, 0)),
        (24, (20, 4, 0)),
        (22, (20, 2, 0)),
        (10, (8, 2, 0)),
        (1, (0, 1, 0)),
    ],
)
def test_only_what_was_delivered_is_counted(delivered: int, expected: tuple[int, int, int]) -> None:
    counts = count_tokens(ENGINE, delivered)
    assert (counts.thinking, counts.marker, counts.answer) == expected
    assert sum(expected) == delivered


@pytest.mark.parametrize(
    ("delivered", "finish", "waits", "ended_by"),
    [
        (40, "stop", 2, "max_thinking_tokens"),
        (10, "stop", 1, "stop"),
        (10, "length", 1, "length"),
        (7, "stop", 0, "stop"),
    ],
)
def test_waits_and_end_are_those_of_the_delivered_part(
    delivered: int, finish: str, waits: int, ended_by: str
) -> None:
    told = receipt(
        ThinkingBudget(max_thinking_tokens=30), ENGINE, delivered_tokens=delivered, finish_reason=finish
    )
    assert (told["waits"], told["ended_by"]) == (waits, ended_by)
    assert told["requested"] == {"max_thinking_tokens": 30}
    assert told["clamped_by"] == ["context"]


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [(40, (2, 22, 28, [7, 15])), (24, (2, 22, 24, [7, 15])), (10, (2, 10, 10, [7])), (1, (1, 1, 1, []))],
)
def test_positions_are_within_what_was_delivered(
    delivered: int, expected: tuple[int, int, int, list[int]]
) -> None:
    told = positions(ENGINE, delivered_tokens=delivered)
    found = (told["thinking_begin"], told["thinking_end"], told["answer_begin"], told["waits"])
    assert found == expected


def test_json_round_trip() -> None:
    assert EngineReceipt.from_json(json.loads(json.dumps(ENGINE.to_json()))) == ENGINE


def test_what_a_later_version_adds_is_left_out() -> None:
    assert EngineReceipt.from_json(ENGINE.to_json() | {"joy": 3}) == ENGINE


@pytest.mark.parametrize("name", ["receipt_id", "effective_max", "thinking_end", "wait_positions"])
def test_what_counts_may_not_be_missing(name: str) -> None:
    told = ENGINE.to_json()
    del told[name]
    with pytest.raises((KeyError, TypeError), match=name):
        EngineReceipt.from_json(told)


@pytest.mark.parametrize(
    ("has_answer", "finish", "stopped", "ended_by"),
    [
        (True, "stop", False, "model"),
        (False, "stop", False, "model"),
        (False, "stop", True, "stop"),
        (False, "length", False, "length"),
    ],
)
def test_unbudgeted(has_answer: bool, finish: str, stopped: bool, ended_by: str) -> None:
    told = unbudgeted_receipt(thinking_tokens=5, has_answer=has_answer, finish_reason=finish, stopped=stopped)
    assert (told["ended_by"], told["thinking_tokens"], told["effective"]) == (ended_by, 5, None)
