"""What the plugin adds to a decoding step: rows times vocabulary, on the CPU (vLLM's V1 runner)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from loadtest.bench.report import Page
from server.budget.families import FAMILIES
from server.budget.markers import MarkerIds
from server.budget.spec import EffectiveBudget
from server.engine.forcing import ForcingBatch
from server.engine.processor_v1 import BudgetForcing
from server.engine.rows import Choice

ROWS = (1, 4, 16, 64, 256)
VOCABULARIES = (256, 32_768, 152_064)
ATTEMPTS_EVERY = (16, 256)
"""In so many of its tokens a row attempts to end its thinking once. The first is a lot, for a model."""
_MOST = 3.0
"""256 rows over 16."""
_WORD = 100
_ANSWER_TOKENS = 8


def markers(vocabulary: int) -> MarkerIds:
    return MarkerIds(
        family=FAMILIES["s1"],
        start=(1, 2),
        end=(1, 3),
        wait=(7,),
        newline=9,
        answer_prompt=(4, 5, 6),
        eos_token=8,
        eos=frozenset({8}),
        special=frozenset({1, 8}),
        blank=frozenset({1, 8, 9}),
        line_end=frozenset({9}),
        sentence_end=frozenset({9, 10}),
        # Qwen2.5's output layer has 399 rows more than its tokenizer has tokens.
        unknown=frozenset(range(vocabulary - 399, vocabulary)) if vocabulary > 100_000 else frozenset(),
    )


class Step:
    """One decoding step of a batch in which every row thinks, waits and answers in turn."""

    def __init__(self, rows: int, vocabulary: int, attempts_every: int) -> None:
        ids = markers(vocabulary)
        self.processor = object.__new__(BudgetForcing)
        self.processor._configure(
            ids,
            max_model_len=1 << 20,
            capacity=rows,
            device=torch.device("cpu"),
            receipts=None,
            encode=lambda _: (),
        )
        self.outputs: list[list[int]] = [[] for _ in range(rows)]
        budget = EffectiveBudget(max=1 << 16, min=0, num_waits=1 << 10, landing=0, clamped_by=())
        batch: ForcingBatch = self.processor._batch
        for row, output in enumerate(self.outputs):
            batch.add(row, Choice(f"r{row}", budget, True, True, output))
        self.logits = torch.zeros((rows, vocabulary), dtype=torch.float32)
        self.number = 0
        self._every = attempts_every

    def __call__(self) -> float:
        """Seconds in the plugin; the sampling around it is not counted."""
        sampled = torch.full((len(self.outputs),), _WORD, dtype=torch.int64)
        sampled[self.number % self._every :: self._every] = 1
        began = time.perf_counter()
        self.processor.apply(self.logits)
        chosen = self.processor.post_sample(sampled)
        took = time.perf_counter() - began
        for output, token in zip(self.outputs, chosen.tolist(), strict=True):
            output.append(token)
        self.number += 1
        return took


def main(
    steps: Annotated[int, typer.Option(min=50)] = 400,
    repeats: Annotated[int, typer.Option(min=3)] = 5,
    results: Path = Path("docs/results"),
) -> None:
    torch.set_num_threads(1)
    page = Page.begin("rows", "The plugin's cost of a decoding step")
    page.say(
        "Microseconds of one step's forcing, masking and replacing (`apply` and `post_sample` of the V1 "
        f"processor), one thread, all rows with a budget. The least of {repeats} medians over {steps} steps: "
        "what others on the machine add is not ours.",
    )
    found = {
        (rows, width, every): _measure(rows, width, every, steps, repeats)
        for every in ATTEMPTS_EVERY
        for width in VOCABULARIES
        for rows in ROWS
    }
    for every in ATTEMPTS_EVERY:
        ratios = {width: found[256, width, every] / found[16, width, every] for width in VOCABULARIES}
        page.say(f"Each row attempts to end its thinking once in {every} tokens:")
        page.table(
            ["vocabulary", *(f"{rows} rows" for rows in ROWS), "256 over 16"],
            [[w, *(found[rows, w, every] for rows in ROWS), ratios[w]] for w in VOCABULARIES],
        )
        worst = max(ratios.values())
        word = "holds" if worst <= _MOST else "is missed"
        page.say(f"Bar: 256 rows cost at most {_MOST:g} times 16 rows: {word} (worst {worst:.2f}).")
    page.data = {"microseconds": {f"{rows}x{w} 1/{every}": us for (rows, w, every), us in found.items()}}
    typer.echo(page.write(results))


def _measure(rows: int, width: int, every: int, steps: int, repeats: int) -> float:
    """Microseconds."""
    step: Callable[[], float] = Step(rows, width, every)
    for _ in range(20):
        step()
    return float(np.min([median(step() for _ in range(steps)) for _ in range(repeats)]) * 1e6)


if __name__ == "__main__":
    typer.run(main)
