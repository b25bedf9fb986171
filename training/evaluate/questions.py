"""From the samples of one run to its numbers question by question, and what Control judges of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from server.budget.spec import BUDGET_FIELDS
from training.evaluate.bootstrap import Kept, PerQuestion, mean_of_known
from training.evaluate.granted import accepted_tokens, granted_maximum
from training.evaluate.methods.base import COMMON_PARAMETERS
from training.evaluate.methods.conditional import MAXIMUM
from training.evaluate.metrics import Array
from training.evaluate.samples import Sample

_NO_BUDGET_IF_0 = frozenset({"num_waits", "min_thinking_tokens"})
Bounds = Sequence[float | None]
"""Least and most thinking tokens that a point asks for."""


def per_question(
    samples: Sequence[Sample], bounds: Bounds, unprompted: Mapping[str, float] | None = None
) -> PerQuestion:
    """Errors count as wrong, and tokens are those of the samples that have an answer.

    Args:
        unprompted: mean tokens of each question without any budget or prompt about length, as far as known.
    """
    # In one order for every run: resampling and flips compare the same question with itself.
    names = tuple(sorted({sample.question for sample in samples}))
    at_least, asked = bounds
    accuracy = _means(samples, names, lambda sample: 100.0 * sample.correct)
    tokens = _means(samples, names, _thinking_tokens)
    at_most, maxima = asked, None
    if asked is not None:
        maxima = _means(samples, names, partial(_maximum, asked=asked))
        at_most = asked if np.isnan(maxima).all() else mean_of_known(maxima)
    minima = None if at_least is None else np.full(len(names), float(at_least))
    kept = _kept_by_method(samples, names, tokens, unprompted or {}) or Kept(tokens, minima, maxima)
    return PerQuestion(accuracy, tokens, at_least, at_most, names, kept, asked, maxima)


def tokens_by_question(samples: Iterable[Sample]) -> dict[str, float]:
    """Mean thinking tokens of the questions that have an answer."""
    found: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if (tokens := _thinking_tokens(sample)) is not None:
            found[sample.question].append(tokens)
    return {question: float(np.mean(tokens)) for question, tokens in found.items()}


def is_unprompted(method: str, parameters: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    """Whether a point asks the model as it is, at the temperature (and such) of the point `like`."""
    budget = {name: value for name, value in parameters.items() if name in BUDGET_FIELDS}
    free = all(value == 0 and name in _NO_BUDGET_IF_0 for name, value in budget.items())
    alike = all(parameters.get(name) == like.get(name) for name in COMMON_PARAMETERS)
    return method == "budget" and free and alike


def _kept_by_method(
    samples: Sequence[Sample], names: Sequence[str], tokens: Array, unprompted: Mapping[str, float]
) -> Kept | None:
    """Where the paper's Control is about something else than tokens and the point's own bounds (Table 3).

    Rejection sampling: the accepted thoughts keep the limit. A prompt for short or long thinking: less or
    more than unprompted.
    """
    method, fields = samples[0].method, samples[0].setting.fields
    if method == "rejection_sampling":
        accepted = _means(samples, names, accepted_tokens)
        return Kept(accepted, None, np.where(np.isnan(accepted), np.nan, float(fields[MAXIMUM])))
    if method == "class_conditional" and unprompted:
        usual = np.array([unprompted.get(name, np.nan) for name in names])
        thought = np.where(np.isnan(usual), np.nan, tokens)
        usual = np.where(np.isnan(tokens), np.nan, usual)
        return Kept(thought, None, usual) if fields["length"] == "short" else Kept(thought, usual, None)
    return None


def _means(samples: Iterable[Sample], names: Sequence[str], value: Callable[[Sample], float | None]) -> Array:
    """By question, of the samples that have a value; NaN where none has."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for sample in samples:
        if (known := value(sample)) is not None:
            found[sample.question].append(known)
    return np.array([np.mean(values) if values else np.nan for values in found.values()])


def _thinking_tokens(sample: Sample) -> float | None:
    """None where there is no answer, or one without a count: no tokens are not zero tokens."""
    return float(sample.thinking_tokens) if sample.tokens_are else None


def _maximum(sample: Sample, asked: float) -> float | None:
    return granted_maximum(sample, asked) if sample.tokens_are else None
