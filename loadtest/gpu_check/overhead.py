"""What budget forcing costs: output tokens per second of some arms, on weights that are random numbers.

Every request of every arm generates the same number of tokens: end tokens are ignored everywhere. Random
weights say every token about as often, so a logit bias on the first token of the end marker makes the model
try to end its thinking as often as one likes: at one token in sixteen, drawn at temperature 1, or, greedily,
at every step that allows it. Bias and drawing cost by themselves, hence the controls: the same on an ordinary
token, without a plugin.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.gpu_check.checkpoint import load_tokenizer, markers
from loadtest.gpu_check.configurations import arguments, environment
from loadtest.gpu_check.machine import GIB, Gpu, engine_bytes, engines_at_once, find_gpu
from loadtest.gpu_check.options import Options
from loadtest.gpu_check.result import PartResult, Speed
from loadtest.gpu_check.shapes import SHAPES, Shape
from loadtest.gpu_check.worker import Batch, Engine, EngineSpec, WorkerError, engines
from server.budget.markers import MarkerIds

_PROMPT_TOKENS = 32
_ALWAYS = 50.0
"""A bias far above any logit of random weights."""
_ATTEMPT_EVERY = 16
"""Tokens; a reasoning model tries to end its thinking every few hundred."""
_WAITS = 4
_STOCK, _OURS, _AGAIN = "stock", "ours", "again"
ARMS = {
    "none": "no plugin",
    "none, again": "the same on a second engine: how far two equal engines are apart",
    "none, drawn": "no plugin, temperature 1, an ordinary token biased to one in 16 (control)",
    "none, biased": "no plugin, an ordinary token biased to be every token (control)",
    "vLLM's own": "no plugin, vLLM's thinking_token_budget",
    "ours, inactive": "our plugin, requests without a budget",
    "ours, active": "our plugin, maximum, minimum and waits; temperature 1, an attempt to end in 16 tokens",
    "ours, flooded": "our plugin, maximum, minimum and waits; every free token attempts to end",
}
CONTROLS = {
    "none, again": "none",
    "vLLM's own": "none",
    "ours, inactive": "none",
    "ours, active": "none, drawn",
    "ours, flooded": "none, biased",
}
"""What an arm is compared with: the same work without its budgets."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Requests of one arm, and the engine that they go to."""

    name: str
    engine: str
    parameters: dict[str, Any]


def run(options: Options, result: PartResult, *, deadline: float, logs: Path) -> None:
    gpu = find_gpu() if options.device == "cuda" else None
    with tempfile.TemporaryDirectory(prefix="s1-shapes-") as directory:
        for name in options.shapes:
            shape = SHAPES[name]
            checkpoint = Path(directory) / name
            shape.write(checkpoint, Path(options.model))
            try:
                _run_shape(name, shape, checkpoint, options, gpu, result, deadline, logs)
            except WorkerError as error:
                result.notes.append(f"{name}: {error}")
                result.save()


def _run_shape(
    name: str,
    shape: Shape,
    checkpoint: Path,
    options: Options,
    gpu: Gpu | None,
    result: PartResult,
    deadline: float,
    logs: Path,
) -> None:
    batches, cache = _what_fits(shape, options, gpu)
    if not batches:
        result.notes.append(f"{name}: not run, its weights do not fit this GPU")
        result.save()
        return
    tokenizer = load_tokenizer(str(checkpoint))
    bench = Bench(name, options, markers(str(checkpoint), tokenizer), result, deadline)
    # A GPU has no room to spare for an engine that is only a control.
    chosen = (_STOCK, _OURS, _AGAIN) if gpu is None else (_STOCK, _OURS)
    specs = [_spec(name, checkpoint, shape, options, gpu, cache, engine=e) for e in chosen]
    result.commands += [spec.command_line() for spec in specs]
    one = engine_bytes(shape.weight_bytes, cache)
    if gpu is None or engines_at_once(one, gpu, most=2) == 2:
        bench.measure(specs, batches, logs, interleaved=True)
        return
    result.notes.append(f"{name}: one engine fits at a time, so its arms are not interleaved")
    # The second engine must have its time, too.
    bench.deadline = time.monotonic() + (deadline - time.monotonic()) / 2
    bench.measure(specs[:1], batches, logs, interleaved=False)
    bench.deadline = deadline
    bench.measure(specs[1:], batches, logs, interleaved=False)


def _what_fits(shape: Shape, options: Options, gpu: Gpu | None) -> tuple[list[int], int]:
    """The batch sizes whose cache fits beside the weights, and that cache's bytes."""
    length = _PROMPT_TOKENS + options.tokens + 64
    needed = {batch: max(GIB, batch * length * shape.cache_bytes_per_token) for batch in options.batches}
    fitting = [
        batch
        for batch, cache in needed.items()
        if gpu is None or engines_at_once(engine_bytes(shape.weight_bytes, cache), gpu, most=1)
    ]
    return fitting, max((needed[batch] for batch in fitting), default=0)


def _spec(
    name: str,
    checkpoint: Path,
    shape: Shape,
    options: Options,
    gpu: Gpu | None,
    cache: int,
    *,
    engine: str,
) -> EngineSpec:
    tokenizer = load_tokenizer(str(checkpoint))
    family = markers(str(checkpoint), tokenizer).family
    chosen = {
        **arguments(options, gpu, weights=shape.weight_bytes, cache=cache),
        "model": str(checkpoint),
        "load_format": "dummy",
        "dtype": "bfloat16",
        "max_model_len": _PROMPT_TOKENS + options.tokens + 64,
        "max_num_seqs": max(options.batches),
        "enable_prefix_caching": False,
        "async_scheduling": options.runner == "v2",
    }
    if engine != _OURS:
        chosen["reasoning_config"] = {
            "reasoning_start_str": family.think_start,
            "reasoning_end_str": family.think_end,
        }
    label = f"overhead-{name}-{engine}"
    return EngineSpec(label, options.runner, engine == _OURS, chosen, environment(options))


def arms(ids: MarkerIds, tokens: int, vocabulary: int) -> list[Arm]:
    """Each arm's `SamplingParams`; requests of `tokens` output tokens."""
    fixed = {"temperature": 0.0, "ignore_eos": True, "max_tokens": tokens}
    maximum, minimum = 3 * tokens // 4, tokens // 2
    special = ids.special | ids.blank | ids.line_end | ids.sentence_end | ids.end_attempt | {ids.start[0]}
    ordinary = next(token for token in range(100, 10_000) if token not in special)
    budget = {"max_thinking_tokens": maximum, "min_thinking_tokens": minimum, "num_waits": _WAITS}
    # All other logits are nearly alike: p = e^bias / (e^bias + vocabulary).
    now_and_then = math.log(vocabulary / (_ATTEMPT_EVERY - 1))

    def drawn(token: int) -> dict[str, Any]:
        return {**fixed, "temperature": 1.0, "logit_bias": {token: now_and_then}}

    def always(token: int) -> dict[str, Any]:
        return {**fixed, "logit_bias": {token: _ALWAYS}}

    return [
        Arm("none", _STOCK, fixed),
        Arm("none, again", _AGAIN, fixed),
        Arm("none, drawn", _STOCK, drawn(ordinary)),
        Arm("none, biased", _STOCK, always(ordinary)),
        Arm("vLLM's own", _STOCK, {**fixed, "thinking_token_budget": maximum}),
        Arm("ours, inactive", _OURS, fixed),
        Arm("ours, active", _OURS, {**drawn(ids.end[0]), "extra_args": budget}),
        Arm("ours, flooded", _OURS, {**always(ids.end[0]), "extra_args": budget}),
    ]


class Bench:
    """Rounds of all arms at all batch sizes; every round leaves results behind."""

    def __init__(
        self, shape: str, options: Options, ids: MarkerIds, result: PartResult, deadline: float
    ) -> None:
        self.deadline = deadline
        self._shape = shape
        self._options = options
        self._ids = ids
        self._result = result
        self._random = random.Random(5)  # noqa: S311 -- prompts, not cryptography
        self._waits: list[int] = []
        """Of the active arm's requests."""

    def measure(
        self, specs: Sequence[EngineSpec], batches: list[int], logs: Path, *, interleaved: bool
    ) -> None:
        found: dict[tuple[str, int], list[float]] = {}
        with engines(specs, logs) as started:
            for engine in started:
                engine.await_ready(self._left_s())
            here = {engine.spec.name.rpartition("-")[2]: engine for engine in started}
            vocabulary = SHAPES[self._shape].vocab_size
            every = arms(self._ids, self._options.tokens, vocabulary)
            chosen = [arm for arm in every if arm.engine in here]
            for batch in batches:
                for arm in chosen:  # compiles what this arm needs at this size
                    self._run(here[arm.engine], arm, batch)
            for round_ in range(self._options.rounds):
                began = time.monotonic()
                for batch in batches:
                    for i in range(len(chosen)):
                        arm = chosen[(i + round_) % len(chosen)]
                        speed = self._run(here[arm.engine], arm, batch)
                        found.setdefault((arm.name, batch), []).append(speed)
                if self._waits and not any(self._waits):
                    raise WorkerError("the active arm had no wait at all")
                self._keep(found, interleaved)
                if self._left_s() < 1.2 * (time.monotonic() - began):
                    break

    def _run(self, engine: Engine, arm: Arm, batch: int) -> float:
        """Output tokens per second of one batch of one arm."""
        prompts = [self._prompt() for _ in range(batch)]
        done = engine.generate(prompts, [arm.parameters] * batch, limit_s=self._left_s())
        self._check(arm, done)
        return batch * self._options.tokens / done.seconds

    def _check(self, arm: Arm, done: Batch) -> None:
        lengths = {len(answer.token_ids) for answer in done.answers}
        if lengths != {self._options.tokens}:
            raise WorkerError(
                f"arm {arm.name} generated {sorted(lengths)} tokens, not {self._options.tokens}"
            )
        waits = [count_waits(answer.token_ids, self._ids) for answer in done.answers]
        if arm.name == "ours, flooded" and min(waits) < _WAITS:
            raise WorkerError(f"arm {arm.name} had {min(waits)} waits, not at least {_WAITS}")
        if arm.name == "ours, active":
            self._waits += waits

    def _prompt(self) -> list[int]:
        """Ordinary tokens, and thinking opened."""
        length = _PROMPT_TOKENS - len(self._ids.start)
        return [self._random.randint(100, 300) for _ in range(length)] + list(self._ids.start)

    def _left_s(self) -> float:
        return self.deadline - time.monotonic()

    def _keep(self, found: dict[tuple[str, int], list[float]], interleaved: bool) -> None:
        names = {arm for arm, _ in found}
        others = [s for s in self._result.speeds if s.shape != self._shape or s.arm not in names]
        self._result.speeds = others + [
            Speed(self._shape, arm, batch, tuple(round(v, 1) for v in values), interleaved)
            for (arm, batch), values in found.items()
        ]
        self._result.save()


def count_waits(token_ids: Sequence[int], ids: MarkerIds) -> int:
    """Wait texts among tokens; random weights say none by themselves."""
    width = len(ids.wait)
    return sum(tuple(token_ids[i : i + width]) == ids.wait for i in range(len(token_ids) - width + 1))


def ratio(speeds: Sequence[Speed], arm: str, baseline: str, *, shape: str, batch: int) -> float | None:
    """Median throughput of `arm` over that of `baseline`; None where one was not measured."""
    medians = {s.arm: median(s.tokens_per_s) for s in speeds if s.shape == shape and s.batch == batch}
    return medians[arm] / medians[baseline] if {arm, baseline} <= medians.keys() else None
