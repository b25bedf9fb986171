"""Grading by exact answer. Nothing is guessed: an answer that is not there is empty, not zero."""

_FORCED_PREFIX = "Final Answer:"


def extract_answer(content: str | None) -> str:
    """The message's text without surrounding blanks and the prefix that an early exit may leave."""
    return (content or "").strip().removeprefix(_FORCED_PREFIX).strip()


def is_correct(answer: str, truth: str) -> bool:
    """Exact: ``13`` is not ``3``, ``3.`` is not ``3``, and nothing is equal to an empty answer."""
    return bool(answer) and answer == truth
