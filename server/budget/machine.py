"""The budget state machine: one token at a time, pure Python, the oracle of every test.

It is written to be read. The gateway's rounds run it as it stands. Inside vLLM the same rules step rows of
numbers, compiled for the host behind the V1 runner (`server.engine.steps`) and on the device behind V2
(`server.engine.kernels`), and tests hold them together. Rule numbers refer to docs/budget.md.

A forced exit needs a newline before the end marker. That newline stands before the marker, so it counts as
a thinking token: it takes the last place of the budget, and a maximum is never exceeded by it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, IntEnum

from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.budget.spec import LOOP_REPEATS, EffectiveBudget

MAX_BLANK_ANSWER_TOKENS = 8
"""After so many invisible tokens an answer may no longer begin with another (rule 5)."""


class Phase(Enum):
    OPENING = "opening"
    THINKING = "thinking"
    CLOSING = "closing"
    ANSWER_START = "answer_start"
    ANSWER = "answer"


class Mask(IntEnum):
    """Which tokens can't be sampled next, besides those that the model's vocabulary lacks."""

    NONE = 0
    ENDS = 1
    ANSWER_START = 2
    ANSWER_START_VISIBLE = 3
    MARKERS = 4
    CONSTRAINED_START = 5
    """Of an answer that a grammar or a tool parser reads: a tool call may begin with a special token."""


class BudgetMachine:
    """The state of one choice. `forced` and `masked` say what the next token must or can't be."""

    def __init__(
        self, ids: MarkerIds, budget: EffectiveBudget, *, opened: bool, answer_prompt: bool = True
    ) -> None:
        """Start before the first output token.

        Args:
            opened: the prompt already ends inside thinking (rule 4).
            answer_prompt: force the family's answer prompt after an early exit. Off where a grammar or a
                tool call begins the answer; its white space is then left to it, too.
        """
        self.ids = ids
        self.budget = budget
        self.thinking_tokens = 0
        self.waits = 0
        self.position = 0
        self.phase = Phase.THINKING if opened else Phase.OPENING
        self.ended_by: str | None = None
        self.thinking_begin = 0 if opened else len(ids.start)
        self.thinking_end: int | None = None
        self.answer_begin: int | None = None
        self.wait_positions: list[int] = []
        self._queue: deque[int] = deque(() if opened else ids.start)
        self._wait_texts = budget.wait_ids or (ids.wait,)
        self._thoughts: deque[int] = deque(maxlen=budget.loop_guard)
        self._free_answer = answer_prompt
        self._no_end_before = budget.min_output if ids.family.marker_ends_answer else 0
        self._exit = ids.end + (ids.answer_prompt if answer_prompt else ())
        self._end_attempt = ids.end_attempt
        self._just_waited = False
        self._blanks = 0
        self._told_by: str | None = None
        if opened:
            self._check_maximum()

    @property
    def forced(self) -> int | None:
        """The token that must come next, or None if the model chooses."""
        return self._queue[0] if self._queue else None

    @property
    def mask(self) -> Mask:
        if self._queue:
            return Mask.NONE
        if self.phase is Phase.THINKING and self._just_waited:
            return Mask.ENDS
        if self.phase is Phase.ANSWER_START:
            if not self._free_answer:
                return Mask.CONSTRAINED_START
            too_blank = self._blanks >= MAX_BLANK_ANSWER_TOKENS
            return Mask.ANSWER_START_VISIBLE if too_blank else Mask.ANSWER_START
        if self.phase is Phase.ANSWER and self.position < self._no_end_before:
            return Mask.MARKERS
        return Mask.NONE

    @property
    def masked(self) -> frozenset[int]:
        """Tokens that can't be sampled next."""
        if self._queue:
            return frozenset()
        return masked_ids(self.ids, self.mask) | self.ids.unknown

    def replace(self, sampled: int) -> int:
        """The token that stands in the output when the model sampled `sampled`. Changes nothing."""
        if self._queue:
            return self._queue[0]
        if self.phase is Phase.THINKING and sampled in self._end_attempt:
            return self._next_wait()[0] if self._waits_now() else self.ids.end[0]
        ends_answer = self.phase is Phase.ANSWER and self.ids.family.marker_ends_answer
        if ends_answer and sampled in masked_ids(self.ids, Mask.MARKERS):
            return self.ids.eos_token
        return sampled

    def commit(self, sampled: int) -> int:
        """Take one step and return the token that stands in the output."""
        token = self.replace(sampled)
        if self._queue:
            self._commit_forced()
        elif self.phase is Phase.THINKING:
            self._commit_thinking(sampled)
        elif self.phase is Phase.ANSWER_START:
            self._blanks += 1
            if token not in self.ids.blank:
                self.phase = Phase.ANSWER
        self.position += 1
        if self.phase is Phase.OPENING and not self._queue:
            self.phase = Phase.THINKING
        if self.phase is Phase.CLOSING and not self._queue:
            self.phase, self.answer_begin = Phase.ANSWER_START, self.position
        if self.phase is Phase.THINKING:
            if self.position > self.thinking_begin:
                self._thoughts.append(token)
            self._check_maximum()
            if self.budget.landing:
                self._check_landing(token)
            if self.budget.loop_guard:
                self._check_loop(token)
            if self._told_by is not None:
                self._check_told(token)
        return token

    def end_thinking(self, ended_by: str) -> None:
        """Rule 10: leave the thinking after the next token, but neither in a wait text nor right after it.

        Nothing comes of it once the thinking has ended. The first word counts.

        Args:
            ended_by: "request" or "time", for the receipt.
        """
        if self._told_by is None:
            self._told_by = ended_by

    def receipt(self, receipt_id: str) -> EngineReceipt:
        return EngineReceipt(
            receipt_id=receipt_id,
            effective_min=self.budget.min,
            effective_max=self.budget.max,
            effective_num_waits=self.budget.num_waits,
            clamped_by=self.budget.clamped_by,
            output_tokens=self.position,
            thinking_begin=self.thinking_begin,
            thinking_end=self.thinking_end,
            answer_begin=self.answer_begin,
            wait_positions=tuple(self.wait_positions),
            ended_by=self.ended_by,
        )

    def _waits_now(self) -> bool:
        return self.waits < self.budget.num_waits or self.thinking_tokens < self.budget.min

    def _next_wait(self) -> tuple[int, ...]:
        return self._wait_texts[self.waits % len(self._wait_texts)]

    def _commit_forced(self) -> None:
        self._queue.popleft()
        if self.phase is Phase.THINKING:
            self.thinking_tokens += 1
            self._just_waited = not self._queue

    def _commit_thinking(self, sampled: int) -> None:
        """Rule 2: an end token becomes a wait or the end marker; any other token is a thought."""
        if sampled not in self._end_attempt:
            self.thinking_tokens += 1
            self._just_waited = False
        elif self._waits_now():
            self._queue.extend(self._next_wait()[1:])
            self.waits += 1
            self.thinking_tokens += 1
            self.wait_positions.append(self.position)
            self._just_waited = not self._queue
        else:
            self._end("model", self.position)
            self._queue.extend(self.ids.end[1:])

    def _check_maximum(self) -> None:
        """Rules 1 and 3: the last place belongs to the newline, whatever was about to follow."""
        if self.budget.max == 0:
            self._force_exit(newline=False)
        elif self.thinking_tokens >= self.budget.max - 1:
            self._force_exit(newline=True)

    def _check_landing(self, token: int) -> None:
        """Rule 6: near the maximum, leave at the first sentence or line end."""
        near = self.thinking_tokens >= self.budget.max - self.budget.landing
        if near and self._may_leave() and token in self.ids.sentence_end:
            self._force_exit(newline=token not in self.ids.line_end)

    def _check_loop(self, token: int) -> None:
        """Rule 9: leave when the last tokens are one sequence, several times over."""
        window = self.budget.loop_guard
        if len(self._thoughts) < window or not self._may_leave():
            return
        tail = list(self._thoughts)
        if any(tail[period:] == tail[:-period] for period in range(1, window // LOOP_REPEATS + 1)):
            self._force_exit(newline=token not in self.ids.line_end, ended_by="loop")

    def _check_told(self, token: int) -> None:
        """Rule 10: leave because somebody said so."""
        if self._told_by is not None and self._may_leave():  # the first half is for the type checker
            self._force_exit(newline=token not in self.ids.line_end, ended_by=self._told_by)

    def _may_leave(self) -> bool:
        return self.phase is Phase.THINKING and not self._queue and not self._just_waited

    def _force_exit(self, *, newline: bool, ended_by: str = "max_thinking_tokens") -> None:
        newline_tokens = (self.ids.newline,) if newline else ()
        self.thinking_tokens += len(newline_tokens)
        self._end(ended_by, self.position + len(newline_tokens))
        self._queue = deque(newline_tokens + self._exit)

    def _end(self, ended_by: str, thinking_end: int) -> None:
        self.phase, self.ended_by, self.thinking_end = Phase.CLOSING, ended_by, thinking_end


def masked_ids(ids: MarkerIds, mask: Mask) -> frozenset[int]:
    match mask:
        case Mask.NONE:
            return frozenset()
        case Mask.ENDS:
            return ids.end_attempt
        case Mask.ANSWER_START:
            return ids.not_first_in_answer
        case Mask.ANSWER_START_VISIBLE:
            return ids.not_first_in_answer | ids.blank
        case Mask.CONSTRAINED_START:
            return ids.end_attempt | (frozenset() if ids.end_is_text else {ids.start[0], ids.end[0]})
        case Mask.MARKERS:
            return frozenset({ids.start[0], ids.end[0]})
