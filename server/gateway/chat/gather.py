"""Run several coroutines; the first failure cancels the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")


async def run_all(coroutines: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Their results in order. A failure is raised as itself, not inside an exception group."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
