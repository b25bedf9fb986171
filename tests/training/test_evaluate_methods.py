"""The alternatives to a budget: what each sends, when it stops, and what it says it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from training.curate.errors import CurationError
from training.endpoints.wire import Reply
from training.evaluate.benchmarks import Item
from training.evaluate.methods.registry import methods
from training.evaluate.points import make_series, read_sweep
from training.evaluate.sweep_cli import SWEEPS

ITEM = Item("1", "6 * 7?", "42")


@dataclass
class Asked:
    """An `Ask` that thinks as long as it is told for each try."""

    thinking: list[int]
    ended_by: Sequence[str | None] = ()
    """By try, `model` if absent; None: without a receipt."""
    finish_reasons: Sequence[str] = ()
    """By try, `stop` if absent."""
    sent: list[tuple[str, Mapping[str, Any], int]] = field(default_factory=list)

    async def __call__(self, prompt: str, fields: Mapping[str, Any], *, attempt: int = 0) -> Reply:
        self.sent.append((prompt, fields, attempt))
        tokens = self.thinking[attempt]
        ended_by = self.ended_by[attempt] if self.ended_by else "model"
        receipt = None if ended_by is None else {"thinking_tokens": tokens, "ended_by": ended_by}
        finish_reason = self.finish_reasons[attempt] if self.finish_reasons else "stop"
        return Reply("42", "t", tokens, tokens + 5, finish_reason, receipt)


async def ask(method: str, thinking: int = 9, **fields: Any) -> tuple[str, Mapping[str, Any]]:
    asked = Asked([thinking])
    methods()[method].check(fields)
    answer = await methods()[method].answer(asked, ITEM, fields)
    assert (answer.content, answer.thinking_tokens) == ("42", thinking)
    assert answer.completion_tokens == thinking + 5 and answer.num_requests == 1
    assert answer.receipts == ({"thinking_tokens": thinking, "ended_by": "model"},)
    prompt, sent, _ = asked.sent[0]
    return prompt, sent


@pytest.mark.parametrize(
    ("method", "fields", "prompt", "sent"),
    [
        ("token_conditional", {"tokens": 64}, "Think for up to 64 tokens.", {}),
        (
            "token_conditional_forced",
            {"tokens": 64},
            "Think for up to 64 tokens.",
            {"max_thinking_tokens": 64},
        ),
        ("step_conditional", {"steps": 4}, "Think for up to 4 steps.", {}),
        ("step_conditional_forced", {"steps": 4}, "Think for up to 4 steps.", {"max_thinking_tokens": 400}),
        (
            "step_conditional_forced",
            {"steps": 4, "tokens_per_step": 16},
            "Think for up to 4 steps.",
            {"max_thinking_tokens": 64},
        ),
        (
            "class_conditional",
            {"length": "short"},
            "Answer after a short amount of thinking. Do not spend excessive time double-checking your work.",
            {},
        ),
        (
            "class_conditional_forced",
            {"length": "short", "max_thinking_tokens": 32},
            "Answer after a short amount of thinking. Do not spend excessive time double-checking your work.",
            {"max_thinking_tokens": 32},
        ),
    ],
)
async def test_a_length_is_asked_for_in_words_and_forced_by_a_budget(
    method: str, fields: dict[str, Any], prompt: str, sent: dict[str, Any]
) -> None:
    assert await ask(method, **fields) == (f"6 * 7?\n\n{prompt}", sent)


async def test_what_control_is_judged_by() -> None:
    known = methods()
    assert known["token_conditional"].bounds({"tokens": 64}) == (None, 64)
    assert known["step_conditional"].bounds({"steps": 4}) == (None, 400)
    assert known["class_conditional"].bounds({"length": "long"}) == (None, None)
    assert known["majority_vote"].bounds({"width": 4, "total_thinking_tokens": 512}) == (None, 512)


async def test_rejection_sampling_tries_until_a_thought_fits() -> None:
    asked = Asked([34, 33, 32, 9], ended_by=["max_thinking_tokens", "model", "model", "model"])
    fields = {"max_thinking_tokens": 32, "temperature": 1.0}
    answer = await methods()["rejection_sampling"].answer(asked, ITEM, fields)
    assert [attempt for _, _, attempt in asked.sent] == [0, 1, 2]
    assert {sent["max_thinking_tokens"] for _, sent, _ in asked.sent} == {34}
    assert (answer.content, answer.finish_reason, answer.num_requests) == ("42", "stop", 3)
    # What was thrown away was paid for.
    assert (answer.thinking_tokens, answer.completion_tokens) == (99, 114)
    assert len(answer.receipts) == 3


@pytest.mark.parametrize("ended_by", ["max_thinking_tokens", "loop", "length", "stop", "time"])
async def test_rejection_sampling_takes_no_thought_that_was_cut(ended_by: str) -> None:
    """The room for the answer can lower the maximum below the limit."""
    asked = Asked([9, 9, 9], ended_by=[ended_by, ended_by, "model"])
    fields = {"max_thinking_tokens": 32, "temperature": 1.0}
    answer = await methods()["rejection_sampling"].answer(asked, ITEM, fields)
    assert (answer.content, answer.num_requests) == ("42", 3)


@pytest.mark.parametrize("ended_by", [None, "model"])
async def test_rejection_sampling_takes_no_reply_that_was_cut(ended_by: str | None) -> None:
    asked = Asked([9, 9], ended_by=[ended_by] * 2, finish_reasons=["length", "stop"])
    fields = {"max_thinking_tokens": 32, "temperature": 1.0}
    answer = await methods()["rejection_sampling"].answer(asked, ITEM, fields)
    assert (answer.content, answer.finish_reason, answer.num_requests) == ("42", "stop", 2)


async def test_rejection_sampling_gives_up_without_an_answer() -> None:
    asked = Asked([33] * 9)
    fields = {"max_thinking_tokens": 32, "max_tries": 4, "temperature": 1.0}
    answer = await methods()["rejection_sampling"].answer(asked, ITEM, fields)
    assert (answer.content, answer.finish_reason, answer.num_requests) == ("", "rejected", 4)
    assert answer.thinking_tokens == 4 * 33


@pytest.mark.parametrize("method", ["majority_vote", "weighted_vote", "best_of", "rebase"])
async def test_parallel_methods_are_one_request(method: str) -> None:
    prompt, sent = await ask(method, width=4, total_thinking_tokens=512, temperature=0.7)
    parallel = {"method": method, "width": 4, "total_thinking_tokens": 512}
    assert (prompt, sent) == ("6 * 7?", {"parallel": parallel})
    assert methods()[method].is_parallel


async def test_branches_can_wait() -> None:
    fields = {"width": 4, "total_thinking_tokens": 512, "temperature": 0.7, "num_waits": 1}
    _, sent = await ask("majority_vote", **fields)
    assert sent["num_waits"] == 1
    assert "num_waits" not in methods()["rebase"].parameters


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ({"method": "token_conditional"}, "tokens"),
        ({"method": "token_conditional", "tokens": 0}, "tokens"),
        ({"method": "token_conditional", "tokens": 64, "steps": 2}, "steps"),
        ({"method": "step_conditional_forced", "steps": 4, "tokens_per_step": -1}, "tokens_per_step"),
        ({"method": "class_conditional", "length": "medium"}, "length"),
        ({"method": "class_conditional_forced", "length": "short"}, "max_thinking_tokens"),
        ({"method": "rejection_sampling", "max_thinking_tokens": 32}, "temperature"),
        ({"method": "rejection_sampling", "temperature": 1}, "max_thinking_tokens"),
        ({"method": "majority_vote", "width": 4, "total_thinking_tokens": 64}, "temperature"),
        ({"method": "majority_vote", "total_thinking_tokens": 64, "temperature": 1}, "width"),
    ],
)
def test_points_that_can_not_be_asked_are_refused(grid: dict[str, Any], named: str) -> None:
    with pytest.raises(CurationError, match=named):
        make_series("s", grid, methods())


def test_the_alternatives_sweep_names_every_method_that_needs_no_reward_model() -> None:
    sweep = read_sweep(SWEEPS / "alternatives.yaml", methods())
    named = {point.method for point in sweep.points}
    assert named == set(methods()) - {"weighted_vote", "best_of", "rebase"}
    texts = {point.get("wait_text") for point in sweep.points} - {None}
    assert texts == {"Wait", "Hmm", "Alternatively"}
    every = {point.method for point in read_sweep(SWEEPS / "demo.yaml", methods()).points}
    assert every == set(methods())
    rewarded = {point.method for point in read_sweep(SWEEPS / "reward.yaml", methods()).points}
    assert rewarded == {"budget", "majority_vote", "weighted_vote", "best_of", "rebase"}
