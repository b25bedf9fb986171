"""How stages ask models: all their questions, some at a time, under a bar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from training.curate.progress import Progress
from training.endpoints.cache import CallCache
from training.endpoints.client import Caller, Patience, calling, for_all

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asking:
    cache: CallCache
    patience: Patience
    concurrency: int
    progress: Progress

    async def each(
        self, title: str, items: Sequence[T], work: Callable[[Caller, T], Awaitable[None]]
    ) -> Counter[str]:
        """Run `work` on every item; how many calls were sent, and how many replies were in the cache.

        Raises EndpointError or OSError, as `for_all` does.
        """
        async with calling(self.cache, self.patience, concurrency=self.concurrency) as caller:
            with self.progress.bar(title, len(items)) as advance:

                async def work_and_advance(item: T) -> None:
                    await work(caller, item)
                    next(advance)

                await for_all(items, work_and_advance, concurrency=self.concurrency)
        return caller.calls
