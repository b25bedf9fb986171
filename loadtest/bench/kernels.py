"""What the kernels add to a step on a GPU (vLLM's V2 runner): its time, and the host's to launch them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from loadtest.bench.report import Page, folder
from loadtest.bench.rows import markers
from server.budget.spec import EffectiveBudget
from server.engine.device_batch import DeviceBatch, SlotChoice

ROWS = (1, 16, 64, 256)
VOCABULARIES = (32_768, 152_064)
_MOST = 3.0
"""256 rows over 16."""
_ATTEMPTS_EVERY = 16
_MAX_MODEL_LEN = 1 << 16
_WORD = 100


class Step:
    """One decoding step of a batch whose rows think, and attempt to end it once in 16 tokens."""

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        ids = markers(vocabulary)
        self.batch = DeviceBatch(
            ids,
            slots=rows,
            max_rows=rows,
            vocab_size=vocabulary,
            max_model_len=_MAX_MODEL_LEN,
            device=device,
        )
        self.tokens = torch.full((rows, _MAX_MODEL_LEN), _WORD, dtype=torch.int32, device=device)
        self.total_len = torch.full((rows,), 1, dtype=torch.int32, device=device)
        budget = EffectiveBudget(max=1 << 16, min=0, num_waits=1 << 14, landing=0, clamped_by=())
        for slot in range(rows):
            self.batch.occupy(slot, SlotChoice(f"r{slot}", budget, True, True, 1))
        self.batch.flush(self.tokens, self.total_len)
        self._slots = torch.arange(rows, dtype=torch.int64, device=device)
        self._places = torch.zeros(rows, dtype=torch.int32, device=device)
        self._logits = torch.randn((rows, vocabulary), device=device)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._end = ids.end[0]

    def forced(self) -> None:
        """With our kernels."""
        self.batch.decide(
            self._logits,
            slots=self._slots,
            row_slots=self._slots,
            row_places=self._places,
            input_ids=self._places,
            tokens=self.tokens,
            total_len=self.total_len,
        )
        sampled = self._sample()
        self.batch.replace(sampled, self._slots)
        self._append(sampled)

    def free(self) -> None:
        """The same without them."""
        self._append(self._sample())

    def _sample(self) -> torch.Tensor:
        attempts = (self._slots + self._number) % _ATTEMPTS_EVERY == 0
        return torch.where(attempts, self._end, _WORD).view(-1, 1)

    def _append(self, sampled: torch.Tensor) -> None:
        self.tokens.scatter_(1, self.total_len.view(-1, 1).long(), sampled.to(torch.int32))
        self.total_len += 1
        self._number += 1


def main(
    steps: Annotated[int, typer.Option(min=50)] = 400,
    repeats: Annotated[int, typer.Option(min=3)] = 5,
    results: Annotated[Path | None, typer.Option(help="Default: docs/results/gpu-DATE.")] = None,
) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("bench.kernels needs an NVIDIA GPU; bench.rows measures V1's rules on a CPU")
    page = Page.begin("kernels", "The kernels' cost of a decoding step")
    page.say(
        "Microseconds that the V2 processor's four kernels add to a decoding step, all rows with a budget, "
        f"an attempt to end the thinking in {_ATTEMPTS_EVERY} tokens of each: on the GPU (a graph of it, "
        "replayed, with the kernels and without), and on the host, which launches them ahead of the GPU. "
        f"Medians of {repeats} runs of {steps} steps."
    )
    data: dict[str, float] = {}
    for name, measure in (("on the GPU", _device_us), ("on the host", _host_us)):
        rows = []
        for vocabulary in VOCABULARIES:
            found = [measure(Step(n, vocabulary, torch.device("cuda")), steps, repeats) for n in ROWS]
            data |= {f"{name} {n}x{vocabulary}": us for n, us in zip(ROWS, found, strict=True)}
            rows.append([vocabulary, *found, found[-1] / found[ROWS.index(16)]])
        page.say(f"## {name.capitalize()}")
        page.table(["vocabulary", *(f"{n} rows" for n in ROWS), "256 over 16"], rows)
    page.data = {"microseconds": data}
    typer.echo(page.write(folder(results, gpu=True)))


def _device_us(step: Step, steps: int, repeats: int) -> float:
    with_kernels, without = _graph(step.forced), _graph(step.free)
    pairs = [(_replayed_us(with_kernels, steps), _replayed_us(without, steps)) for _ in range(repeats)]
    return median(a - b for a, b in pairs)


def _graph(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def _replayed_us(graph: torch.cuda.CUDAGraph, steps: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    for _ in range(steps):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1000 / steps


def _host_us(step: Step, steps: int, repeats: int) -> float:
    return median(_launched_us(step.forced, steps) - _launched_us(step.free, steps) for _ in range(repeats))


def _launched_us(step: Callable[[], None], steps: int) -> float:
    """The GPU is waited for now and then: a full queue would hold the host up."""
    step()
    took = 0.0
    for _ in range(steps // 20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            step()
        took += time.perf_counter() - began
    return took / (steps // 20 * 20) * 1e6


if __name__ == "__main__":
    typer.run(main)
