"""Every method that a sweep may name."""

from __future__ import annotations

from collections.abc import Mapping

from training.evaluate.methods.base import Method
from training.evaluate.methods.budget import BudgetForcing
from training.evaluate.methods.conditional import ClassConditional, StepConditional, TokenConditional
from training.evaluate.methods.parallel import PARALLEL_METHODS
from training.evaluate.methods.rejection import RejectionSampling


def methods() -> Mapping[str, Method]:
    """By the name that sweeps use."""
    conditional = [
        kind(forced)
        for kind in (TokenConditional, StepConditional, ClassConditional)
        for forced in (False, True)
    ]
    found: tuple[Method, ...] = (BudgetForcing(), *conditional, RejectionSampling(), *PARALLEL_METHODS)
    return {method.name: method for method in found}
