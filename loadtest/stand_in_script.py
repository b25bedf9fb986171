"""What the stand-in engine says: a scripted model that obeys thinking budgets by docs/budget.md. Pure.

Token ids are made up. Position `i` of the output says ` t<i>` while thinking and ` a<i>` in the answer, so
that whoever reads the text sees at once when something was lost, doubled or reordered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.budget.receipt import EngineReceipt
from server.budget.spec import ThinkingBudget, resolve

THINK_START, THINK_START_IDS = "<|im_start|>think", (1, 2)
THINK_END, THINK_END_IDS = "<|im_start|>answer", (1, 3)
ANSWER_PROMPT, ANSWER_PROMPT_IDS = "\nFinal Answer:", (4, 5, 6)
WAIT, WAIT_ID = "Wait", 7
EOS_ID = 8
THINKING_ID, ANSWER_ID = 1000, 2000
EXIT_TOKENS = len(THINK_END_IDS) + len(ANSWER_PROMPT_IDS)
MINIMUM_ROOM = EXIT_TOKENS + 1


@dataclass(frozen=True, slots=True)
class Script:
    """Lengths in tokens."""

    thinking: int = 32
    """Of its own accord, without a budget."""
    after_wait: int = 8
    """Thinking between a wait and the next attempt to end."""
    answer: int = 16
    """With its end token."""
    max_model_len: int = 131_072


@dataclass(frozen=True, slots=True)
class Output:
    """One choice, as lengths; token `i` is thinking, marker or answer by where it stands."""

    prompt: int
    thinking: int
    markers: int
    answer: int
    waits: tuple[int, ...]
    finish_reason: str
    receipt: EngineReceipt | None

    @property
    def tokens(self) -> int:
        return self.thinking + self.markers + self.answer

    def token_id(self, position: int) -> int:
        if position < self.thinking:
            return WAIT_ID if position in self.waits else THINKING_ID
        marker = position - self.thinking
        if marker < self.markers:
            return (*THINK_END_IDS, *ANSWER_PROMPT_IDS)[marker]
        last = position == self.tokens - 1 and self.finish_reason == "stop"
        return EOS_ID if last else ANSWER_ID

    def text(self, begin: int, end: int) -> tuple[str, str]:
        """Reasoning and content of tokens `begin` to `end`."""
        thinking = range(begin, min(end, self.thinking))
        # The end token has no text.
        visible = self.tokens - (self.finish_reason == "stop")
        answer = range(max(begin, self.thinking + self.markers), min(end, visible))
        if self.waits:
            reasoning = "".join(WAIT if i in self.waits else f" t{i}" for i in thinking)
        else:
            reasoning = "".join([f" t{i}" for i in thinking])
        return reasoning, "".join([f" a{i}" for i in answer])


def generate(body: Mapping[str, Any], script: Script, *, prompt_tokens: int) -> Output:
    """
    Raises:
        BudgetError: the budget doesn't fit, as the plugin refuses it at admission.
    """
    xargs = body.get("vllm_xargs") or {}
    context = script.max_model_len - prompt_tokens
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    room = context if asked is None else min(int(asked), context)
    receipt_id = xargs.get("receipt_id")
    if receipt_id is None:
        return _cut(script.thinking, len(THINK_END_IDS), script.answer, (), room, prompt_tokens, None)
    exit_tokens = EXIT_TOKENS if xargs.get("answer_prompt", 1) else len(THINK_END_IDS)
    limits = resolve(
        ThinkingBudget.from_fields(xargs),
        room=room,
        limited_by="context" if asked is None or asked > context else "max_completion_tokens",
        opening_tokens=0,
        exit_tokens=exit_tokens,
    )
    thinking, waits, by_model = _thinking(script, limits.max, limits.min, limits.num_waits)
    markers = len(THINK_END_IDS) if by_model else exit_tokens
    receipt = EngineReceipt(
        receipt_id=str(receipt_id),
        effective_min=limits.min,
        effective_max=limits.max,
        effective_num_waits=limits.num_waits,
        clamped_by=limits.clamped_by,
        output_tokens=0,
        thinking_begin=0,
        thinking_end=thinking,
        answer_begin=thinking + markers,
        wait_positions=waits,
        ended_by="model" if by_model else "max_thinking_tokens",
    )
    return _cut(thinking, markers, script.answer, waits, room, prompt_tokens, receipt)


def _thinking(
    script: Script, maximum: int, minimum: int, num_waits: int
) -> tuple[int, tuple[int, ...], bool]:
    """Length, positions of the waits, and whether the model ended it."""
    waits: list[int] = []
    end = script.thinking
    while end < maximum:
        if len(waits) >= num_waits and end >= minimum:
            return end, tuple(waits), True
        waits.append(end)
        end += 1 + script.after_wait
    return maximum, tuple(waits), False


def _cut(
    thinking: int,
    markers: int,
    answer: int,
    waits: tuple[int, ...],
    room: int,
    prompt: int,
    receipt: EngineReceipt | None,
) -> Output:
    finish_reason = "length" if thinking + markers + answer > room else "stop"
    thinking = min(thinking, room)
    markers = min(markers, room - thinking)
    answer = min(answer, room - thinking - markers)
    return Output(prompt, thinking, markers, answer, waits, finish_reason, receipt)
