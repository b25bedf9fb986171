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
    marker_tokens: int = 0
    """Between thinking and answer, and before the thinking if the model said that."""
    completion_tokens: int = 0
    counted_from: str = ""
    mean_gap_s: float | None = None
    """Between updates."""
    thinking_tokens_per_s: float | None = None
    """From the first event with thinking to the last; None: it came all at once."""
    answer_tokens_per_s: float | None = None
    updates_in_window: int = 0
    tokens_in_window: float = 0.0
    """What came while rates were counted: by ids, or by its share of the updates."""
    thinking_in_window: float = 0.0
    error: str | None = None
    """Kind, for example `HTTP 503`, `cut`, `timeout`."""
    message: str | None = None
    """What the server said of the error, in one line."""
    violation: str | None = None
    """Budget field that was broken."""
    empty: bool = False
    """Ended without an error and without an answer."""
    receipt: str | None = None
    """`agrees`, or what a receipt says otherwise than the token ids; None: there was none to check."""

    @property
    def answer_tokens(self) -> int:
        return self.completion_tokens - self.thinking_tokens - self.marker_tokens

    @property
    def first(self) -> float | None:
        """The first token of whichever kind."""
        return self.first_thinking if self.first_thinking is not None else self.first_answer
