from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.budget.effort import DEFAULT_EFFORTS, EFFORTS, Effort, Share, effort_tokens


@pytest.mark.parametrize(
    ("effort", "tokens"),
    [("minimal", 200), ("low", 400), ("medium", 1000), ("high", 1600), ("xhigh", 1900), ("max", 2000)],
)
def test_the_default_shares(effort: Effort, tokens: int) -> None:
    assert effort_tokens(effort, DEFAULT_EFFORTS, room=2000, fits=5000) == tokens


def test_tokens_are_not_a_share() -> None:
    assert effort_tokens("low", {**DEFAULT_EFFORTS, "low": 1}, room=2000, fits=5000) == 1
    assert effort_tokens("low", {**DEFAULT_EFFORTS, "low": 900}, room=100, fits=80) == 80


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_greater_effort_is_never_less(room: int, fits: int) -> None:
    tokens = [effort_tokens(effort, DEFAULT_EFFORTS, room=room, fits=fits) for effort in EFFORTS]
    assert tokens == sorted(tokens)
    assert 0 <= tokens[-1] <= min(room, fits)


def test_a_share_is_written_as_in_the_file() -> None:
    assert [str(Share(80)), str(Share(12.5))] == ["80%", "12.5%"]
