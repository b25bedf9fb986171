"""What is kept of one request. Times are seconds of the monotonic clock, which all processes share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Record:
    kind: int
    """Number of its class."""
    intended: float
    started: float = 0.0
    first_thinking: float | None = None
    first_answer: float | None = None
    ended: float = 0.0
    updates: int = 0
    """Events that brought something."""
    prompt_tokens: int = 0
    thinking_tokens: int = 0
    completion_tokens: int = 0
    counted_from: str = ""
    mean_gap_s: float | None = None
    """Between updates."""
    error: str | None = None
    """Kind, for example `HTTP 503`, `cut`, `timeout`."""
    violation: str | None = None
    """Budget field that was broken."""
    empty: bool = False
    """Ended without an error and without an answer."""
    receipt: str | None = None
    """`agrees`, or what a receipt says otherwise than the token ids; None: there was none to check."""

    @property
    def answer_tokens(self) -> int:
        """Everything after the thinking, markers included."""
        return self.completion_tokens - self.thinking_tokens

    @property
    def first(self) -> float | None:
        """The first token of whichever kind."""
        return self.first_thinking if self.first_thinking is not None else self.first_answer
