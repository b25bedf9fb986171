"""Every method that a sweep may name."""

from __future__ import annotations

from collections.abc import Mapping

from training.evaluate.methods.base import Method
from training.evaluate.methods.budget import BudgetForcing


def methods() -> Mapping[str, Method]:
    """By the name that sweeps use."""
    found: tuple[Method, ...] = (BudgetForcing(),)
    return {method.name: method for method in found}
