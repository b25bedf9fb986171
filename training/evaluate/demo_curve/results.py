"""What was asked of the model, what came back, and the tables made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.evaluate.intervals import wilson_interval

BUDGETS = (0, 32, 96, 128, 256, 384)
BUDGET_WAITS = 4
WAITS = (0, 1, 2, 4)
MINIMA = (0, 128)
MAX_COMPLETION_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """Budget fields of a request; None leaves the field out."""

    num_waits: int = 0
    max_thinking_tokens: int | None = None
    min_thinking_tokens: int | None = None

    def fields(self) -> dict[str, int]:
        fields = {
            "num_waits": self.num_waits,
            "max_thinking_tokens": self.max_thinking_tokens,
            "min_thinking_tokens": self.min_thinking_tokens,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question's result. ``error`` says why there is none; it then counts as wrong."""

    correct: bool
    answer: str
    thinking_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One setting over all questions. Accuracies are shares of ``num_questions``."""

    setting: Setting
    num_questions: int
    num_correct: int
    mean_thinking_tokens: float
    num_empty: int
    num_errors: int

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_questions

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.num_correct, self.num_questions)


@dataclass(frozen=True, slots=True)
class Curves:
    """The rows of the tables, each in ascending order of the field that varies."""

    budgets: tuple[Row, ...]
    waits: tuple[Row, ...]
    minima: tuple[Row, ...]


def budget_settings() -> list[Setting]:
    return [Setting(num_waits=BUDGET_WAITS, max_thinking_tokens=budget) for budget in BUDGETS]


def wait_settings() -> list[Setting]:
    return [Setting(num_waits=waits) for waits in WAITS]


def minimum_settings() -> list[Setting]:
    """No minimum is the same request as no waits, so that it is asked once."""
    return [Setting(min_thinking_tokens=minimum or None) for minimum in MINIMA]


def all_settings() -> list[Setting]:
    return list(dict.fromkeys([*budget_settings(), *wait_settings(), *minimum_settings()]))


def make_curves(rows: dict[Setting, Row]) -> Curves:
    return Curves(
        budgets=tuple(rows[setting] for setting in budget_settings()),
        waits=tuple(rows[setting] for setting in wait_settings()),
        minima=tuple(rows[setting] for setting in minimum_settings()),
    )


def summarize(setting: Setting, outcomes: Sequence[Outcome]) -> Row:
    answered = [outcome for outcome in outcomes if outcome.error is None]
    return Row(
        setting=setting,
        num_questions=len(outcomes),
        num_correct=sum(outcome.correct for outcome in answered),
        mean_thinking_tokens=sum(outcome.thinking_tokens for outcome in answered) / max(1, len(answered)),
        num_empty=sum(not outcome.answer for outcome in answered),
        num_errors=len(outcomes) - len(answered),
    )
