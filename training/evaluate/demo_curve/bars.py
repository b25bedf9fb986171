"""The bars a demo checkpoint must reach, so that the documentation's claims hold for any seed."""

from collections.abc import Iterator

from training.evaluate.demo_curve.results import Curves, Row

MIN_QUESTIONS = 400
_NO_WAITS_AT_MOST = 0.50
_MOST_WAITS_AT_LEAST = 0.70
_GAIN_AT_LEAST = 0.25
_BUDGET_ZERO_AT_MOST = 0.30
_BUDGETS_AT_LEAST = {128: 0.50, 384: 0.70}
_FALL_AT_MOST = 0.03
_MINIMUM_FACTOR = 3.0
_ROUNDING = 1e-9


def failed_bars(curves: Curves) -> list[str]:
    """One sentence for every bar that is not reached, with the limit and the value."""
    return [
        *_validity(curves),
        *_wait_bars(curves.waits),
        *_budget_bars(curves.budgets),
        *_minimum_bars(curves.minima),
    ]


def _validity(curves: Curves) -> Iterator[str]:
    rows = [*curves.budgets, *curves.waits, *curves.minima]
    fewest = min(row.num_questions for row in rows)
    if fewest < MIN_QUESTIONS:
        yield f"questions per setting must be >= {MIN_QUESTIONS}. Given: {fewest}"
    for row in dict.fromkeys(rows):
        if row.num_errors:
            yield f"errors at {row.setting.fields()} must be 0. Given: {row.num_errors}"


def _wait_bars(rows: tuple[Row, ...]) -> Iterator[str]:
    none, most = rows[0], rows[-1]
    if none.accuracy > _NO_WAITS_AT_MOST:
        yield f"accuracy at 0 waits must be <= {_NO_WAITS_AT_MOST:.0%}. Given: {none.accuracy:.1%}"
    if most.accuracy < _MOST_WAITS_AT_LEAST:
        yield (
            f"accuracy at {most.setting.num_waits} waits must be >= {_MOST_WAITS_AT_LEAST:.0%}. "
            f"Given: {most.accuracy:.1%}"
        )
    gain = most.accuracy - none.accuracy
    if gain < _GAIN_AT_LEAST - _ROUNDING:
        yield f"gain from waits must be >= {_GAIN_AT_LEAST:.0%}. Given: {gain:.1%}"
    for before, after in zip(rows, rows[1:], strict=False):
        if after.accuracy <= before.accuracy:
            yield (
                f"accuracy must rise with num_waits. Given: {before.accuracy:.1%} at "
                f"{before.setting.num_waits}, {after.accuracy:.1%} at {after.setting.num_waits}"
            )


def _budget_bars(rows: tuple[Row, ...]) -> Iterator[str]:
    for row in rows:
        budget = row.setting.max_thinking_tokens or 0
        at_least = _BUDGETS_AT_LEAST.get(budget, 0.0)
        if row.accuracy < at_least:
            yield f"accuracy at budget {budget} must be >= {at_least:.0%}. Given: {row.accuracy:.1%}"
        if budget == 0 and row.accuracy > _BUDGET_ZERO_AT_MOST:
            yield f"accuracy at budget 0 must be <= {_BUDGET_ZERO_AT_MOST:.0%}. Given: {row.accuracy:.1%}"
    for before, after in zip(rows, rows[1:], strict=False):
        if before.accuracy - after.accuracy > _FALL_AT_MOST + _ROUNDING:
            yield (
                f"accuracy must not fall by more than {_FALL_AT_MOST:.0%} from one budget to the next. "
                f"Given: {before.accuracy:.1%} at {before.setting.max_thinking_tokens}, "
                f"{after.accuracy:.1%} at {after.setting.max_thinking_tokens}"
            )


def _minimum_bars(rows: tuple[Row, ...]) -> Iterator[str]:
    without, with_minimum = rows[0].mean_thinking_tokens, rows[-1].mean_thinking_tokens
    if with_minimum < _MINIMUM_FACTOR * without:
        yield (
            f"thinking tokens at min_thinking_tokens {rows[-1].setting.min_thinking_tokens} must be >= "
            f"{_MINIMUM_FACTOR:g} times those without. Given: {with_minimum:.1f} against {without:.1f}"
        )
