"""The rules of docs/budget.md, checked on one answer: its receipt against its own token ids."""

from __future__ import annotations

from typing import Any

from server.budget.markers import MarkerIds


def assert_rules_hold(body: dict[str, Any], answer: dict[str, Any], ids: MarkerIds, *, context: int) -> None:
    """Hold an answer with one choice to the budget that was asked for.

    Args:
        body: the request, with `return_token_ids`; its prompt opens the thinking.
        context: most tokens of prompt and completion together.
    """
    (choice,) = answer["choices"]
    output: list[int] = choice["token_ids"]
    receipt = choice["thinking_budget"]
    room = min(body.get("max_completion_tokens", context), context - len(answer["prompt_token_ids"]))
    _check_counts(answer, receipt, output, room)
    _check_limits(body, receipt, room)
    thinking, rest, ended = _parted(output, ids)
    assert receipt["thinking_tokens"] == len(thinking), (body, receipt)
    assert ids.reserved.isdisjoint(thinking), body
    if choice["stop_reason"] is None:
        assert ended, (body, "without a stop string the thinking always ends")
        assert choice["message"]["content"], (body, "the content is never empty")
        _check_answer(receipt, rest, ids)


def _check_counts(answer: dict[str, Any], receipt: dict[str, Any], output: list[int], room: int) -> None:
    parts = ("thinking_tokens", "marker_tokens", "answer_tokens")
    assert sum(receipt[name] for name in parts) == len(output) <= room
    if (usage := answer["usage"]) is not None:
        assert usage["completion_tokens"] == len(output)
        assert usage["prompt_tokens"] == len(answer["prompt_token_ids"])
        assert usage["completion_tokens_details"]["reasoning_tokens"] == receipt["thinking_tokens"]


def _check_limits(body: dict[str, Any], receipt: dict[str, Any], room: int) -> None:
    """Rules 1, 2, 3 and 5."""
    effective, thought, ended_by = receipt["effective"], receipt["thinking_tokens"], receipt["ended_by"]
    assert thought <= effective["max"] <= body.get("max_thinking_tokens", room)
    assert effective["max"] == body.get("max_thinking_tokens", effective["max"]) or receipt["clamped_by"]
    assert effective["min"] == min(body.get("min_thinking_tokens", 0), effective["max"])
    if ended_by == "max_thinking_tokens" and not body.get("landing_tokens"):
        assert thought == effective["max"]
    if ended_by == "model":
        assert receipt["waits"] >= effective["num_waits"]
        assert thought >= effective["min"]
    if not effective["min"]:
        assert receipt["waits"] <= effective["num_waits"]


def _check_answer(receipt: dict[str, Any], rest: list[int], ids: MarkerIds) -> None:
    """Rules 1 and 5: the exit that was forced, and something to see."""
    prompt = list(ids.answer_prompt)
    if receipt["ended_by"] in ("max_thinking_tokens", "loop"):
        assert rest[: len(prompt)] == prompt
        rest = rest[len(prompt) :]
    assert any(token not in ids.blank for token in rest)
    assert not {ids.start[0], ids.end[0]} & set(rest)
    assert not ids.eos & set(rest[:-1])


def _parted(output: list[int], ids: MarkerIds) -> tuple[list[int], list[int], bool]:
    """The thinking, what follows the end marker, and whether the marker is there whole."""
    end = list(ids.end)
    for i in range(len(output) - len(end) + 1):
        if output[i : i + len(end)] == end:
            return output[:i], output[i + len(end) :], True
    return [token for token in output if token not in end], [], False
