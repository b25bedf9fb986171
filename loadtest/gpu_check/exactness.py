"""Token for token: engines with our plugin against s1's multi-round procedure on an engine without it.

Greedy, in mixed batches: as users run it, under preemption, and with speculative decoding where there is the
V2 runner. Equal kernels may still round differently in batches of different sizes, so the first divergence of
a request is looked at: if the reference's own engine gave both tokens nearly the same probability, it was a
tie. Anything else is a broken rule.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.gpu_check.cases import PLAIN_TOKENS, Case, Kind, cases
from loadtest.gpu_check.checkpoint import load_tokenizer, markers
from loadtest.gpu_check.configurations import SMALL_CACHE_BYTES, environment, exact_arguments
from loadtest.gpu_check.machine import Gpu, engine_bytes, engines_at_once, find_gpu, weight_bytes
from loadtest.gpu_check.options import Options
from loadtest.gpu_check.result import PartResult
from loadtest.gpu_check.worker import Answer, Batch, Engine, EngineSpec, WorkerError, engines
from loadtest.reference import Fresh, Outcome, Procedure, Round, procedure
from server.budget.markers import MarkerIds

_LOGPROBS = 20
_TIE = {"float32": 0.05, "bfloat16": 0.5, "float16": 0.25}
"""Difference of log-probabilities below which a divergence counts as a tie. Triton's attention multiplies
float32 in TF32, hence more than float32's own rounding."""
_MOST_TIES = 0.1
"""Share of requests that may diverge by ties before the comparison says too little."""
_DRAFTS = {"num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}


@dataclass(frozen=True, slots=True)
class Demanded:
    """What the rules demand of one case, and what the reference's engine thought of other tokens."""

    token_ids: list[int]
    chosen: frozenset[int]
    logprobs: dict[int, dict[int, float]]
    """By output position: the best tokens' log-probabilities."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One engine with our plugin, and which set of cases it gets."""

    spec: EngineSpec
    kind: Kind
    proof: str | None = None
    """The engine's counter that must have moved for this to have tested what it should."""


def run(options: Options, result: PartResult, *, deadline: float, logs: Path) -> None:
    tokenizer = load_tokenizer(options.model)
    ids, gpu = markers(options.model, tokenizer), find_gpu() if options.device == "cuda" else None
    scenarios = _scenarios(options, gpu)
    kinds = dict.fromkeys(scenario.kind for scenario in scenarios)
    requests = {kind: cases(tokenizer, options.requests, kind) for kind in kinds}
    stock = EngineSpec(
        "reference", scenarios[0].spec.runner, False,
        {**exact_arguments(options, gpu), "logprobs_mode": "processed_logprobs"}, environment(options),
    )  # fmt: skip
    result.commands += [spec.command_line() for spec in (stock, *(s.spec for s in scenarios))]
    demanded: dict[Kind, list[Demanded]] = {}
    answers: dict[str, list[Answer]] = {}
    for group in _groups([stock, *(s.spec for s in scenarios)], options, gpu):
        with engines(group, logs) as started:
            for engine in started:
                if engine.spec is stock:
                    demanded = {
                        kind: _reference(engine, ids, of_kind, deadline) for kind, of_kind in requests.items()
                    }
                    continue
                scenario = next(s for s in scenarios if s.spec is engine.spec)
                batch = _native(engine, requests[scenario.kind], result, deadline)
                if batch is None:
                    continue
                answers[scenario.spec.name] = batch.answers
                _report(
                    scenario, batch, requests[scenario.kind], demanded[scenario.kind], ids, options, result
                )
    _compare_drafts(answers, result)


def _scenarios(options: Options, gpu: Gpu | None) -> list[Scenario]:
    base, variables = exact_arguments(options, gpu), environment(options)
    tight = {**base, "max_model_len": 512, "max_num_seqs": 16, "max_num_batched_tokens": 48}
    # 1,024 tokens of cache: a few requests. Blocks hold 16 tokens on a GPU, 128 on a CPU.
    tight |= (
        {"num_gpu_blocks_override": 8} if gpu is None else {"num_gpu_blocks_override": 64, "block_size": 16}
    )
    preempted = "vllm:num_preemptions"
    v1 = {"async_scheduling": False}
    scenarios = [
        Scenario(
            EngineSpec("v1", "v1", True, {**base, **v1, "max_num_batched_tokens": 64}, variables), "short"
        ),
        Scenario(EngineSpec("v1-preemption", "v1", True, {**tight, **v1}, variables), "long", preempted),
    ]
    if gpu is None:
        return scenarios
    v2, accepted = {"async_scheduling": True}, "vllm:spec_decode_num_accepted_tokens"
    # vLLM drafts with method "ngram" in synchronous steps only; "ngram_gpu" is its asynchronous twin.
    ngram = {"speculative_config": {"method": "ngram", **_DRAFTS}, "async_scheduling": False}
    ngram_async = {"speculative_config": {"method": "ngram_gpu", **_DRAFTS}, **v2}
    small_chunks, room = {"max_num_batched_tokens": 64}, {"max_num_batched_tokens": 128}
    return [
        Scenario(EngineSpec("v2-async", "v2", True, {**base, **v2, **small_chunks}, variables), "short"),
        Scenario(EngineSpec("v2-preemption", "v2", True, {**tight, **v2}, variables), "long", preempted),
        Scenario(EngineSpec("v2-ngram", "v2", True, {**base, **ngram}, variables), "drafted", accepted),
        Scenario(
            EngineSpec("v2-ngram-async", "v2", True, {**base, **ngram_async}, variables), "drafted", accepted
        ),
        Scenario(
            EngineSpec("v2-ngram-preemption", "v2", True, {**tight, **ngram_async, **room}, variables),
            "long drafted",
            preempted,
        ),
        *scenarios,
    ]


def _groups(specs: list[EngineSpec], options: Options, gpu: Gpu | None) -> list[list[EngineSpec]]:
    """Engines that run side by side. The reference comes first: the others are compared with it."""
    one = engine_bytes(weight_bytes(Path(options.model), options.dtype), SMALL_CACHE_BYTES)
    size = engines_at_once(one, gpu, most=len(specs))
    if size == 0:
        raise WorkerError(f"{options.model} does not fit this GPU in {options.dtype}: try --dtype bfloat16")
    return [specs[i : i + size] for i in range(0, len(specs), size)]


def _native(engine: Engine, requests: list[Case], result: PartResult, deadline: float) -> Batch | None:
    """The engine's answers; a failure fails its own check and leaves the other engines' alone."""
    try:
        engine.await_ready(deadline - time.monotonic())
        parameters = [case.parameters() for case in requests]
        return engine.generate(
            [case.prompt for case in requests], parameters, limit_s=deadline - time.monotonic()
        )
    except WorkerError as error:
        result.check(f"exactness {engine.spec.name}", False, str(error))
        return None


# -- the reference -----------------------------------------------------------------------------------------


def _reference(engine: Engine, ids: MarkerIds, requests: list[Case], deadline: float) -> list[Demanded]:
    """All requests' rounds, a batch of rounds at a time; requests without a budget are one round."""
    engine.await_ready(deadline - time.monotonic())
    logprobs: list[dict[int, dict[int, float]]] = [{} for _ in requests]
    outcomes: dict[int, Demanded] = {}
    waiting: dict[int, tuple[Procedure | None, Round]] = {}
    for i, case in enumerate(requests):
        if case.settings is None:
            waiting[i] = None, Round(case.prompt, PLAIN_TOKENS, frozenset(), False, 0)
        else:
            rounds = procedure(ids, case.prompt, case.settings)
            waiting[i] = rounds, next(rounds)
    while waiting:
        order = sorted(waiting)
        parameters = [_round_parameters(waiting[i][1], requests[i]) for i in order]
        prompts = [waiting[i][1].prompt for i in order]
        batch = engine.generate(prompts, parameters, limit_s=deadline - time.monotonic())
        for i, answer in zip(order, batch.answers, strict=True):
            rounds_, asked = waiting.pop(i)
            logprobs[i] |= {asked.begins_at + at: best for at, best in enumerate(answer.logprobs)}
            if rounds_ is None:
                every = frozenset(range(len(answer.token_ids)))
                outcomes[i] = Demanded(answer.token_ids, every, logprobs[i])
                continue
            try:
                waiting[i] = rounds_, rounds_.send(Fresh.of(answer.token_ids, answer.finish_reason))
            except StopIteration as done:
                outcome: Outcome = done.value
                outcomes[i] = Demanded(outcome.token_ids, outcome.chosen, logprobs[i])
    return [outcomes[i] for i in range(len(requests))]


def _round_parameters(asked: Round, case: Case) -> dict[str, Any]:
    return {
        "temperature": 0.0,
        "max_tokens": asked.max_tokens,
        "stop_token_ids": sorted(asked.stops),
        "min_tokens": 1 if asked.first_not_stop else 0,
        "logprobs": _LOGPROBS,
        **(case.settings.sampling if case.settings is not None else {}),
    }


# -- the comparison ----------------------------------------------------------------------------------------


def _report(
    scenario: Scenario,
    batch: Batch,
    requests: list[Case],
    demanded: list[Demanded],
    ids: MarkerIds,
    options: Options,
    result: PartResult,
) -> None:
    name = f"exactness {scenario.spec.name}"
    got = [answer.token_ids for answer in batch.answers]
    differing = [i for i, d in enumerate(demanded) if got[i] != d.token_ids]
    broken = [i for i in differing if not is_tie(demanded[i], got[i], ids, _TIE[options.dtype])]
    ties = len(differing) - len(broken)
    detail = f"{len(got) - len(differing)} of {len(got)} equal token for token, {ties} diverge at a tie"
    if broken:
        detail += f", {len(broken)} break a rule: " + divergence(
            requests[broken[0]], demanded[broken[0]], got[broken[0]]
        )
    result.check(name, not broken and ties <= _MOST_TIES * len(got), detail)
    if scenario.proof is not None:
        count = batch.counters.get(scenario.proof, 0.0)
        result.check(f"{name}: {scenario.proof} moved", count > 0, f"{count:.0f}")


def is_tie(demanded: Demanded, got: Sequence[int], ids: MarkerIds, tolerance: float) -> bool:
    """Whether the first divergence is one that rounding explains.

    The model must have chosen at that place, and have found both choices nearly as good. A wait or an end
    marker may stand for any end token.
    """
    at = first_difference(demanded.token_ids, got)
    if at not in demanded.chosen or at not in demanded.logprobs:
        return False
    if at >= len(got) or at >= len(demanded.token_ids):
        return False
    best = demanded.logprobs[at]
    likeliest = [
        max((best[t] for t in _may_have_been(token, ids) if t in best), default=None)
        for token in (demanded.token_ids[at], got[at])
    ]
    if likeliest[0] is None or likeliest[1] is None:
        return False
    return abs(likeliest[0] - likeliest[1]) <= tolerance


def first_difference(first: Sequence[int], second: Sequence[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def divergence(case: Case, demanded: Demanded, got: Sequence[int]) -> str:
    """For people: where a request first differs, and what it asked for."""
    at = first_difference(demanded.token_ids, got)
    window = slice(max(0, at - 3), at + 3)
    return (
        f"first at output position {at}: got {list(got[window])}, demanded {demanded.token_ids[window]}, "
        f"from position {window.start}; {case.settings or 'no budget'}"
    )


def _may_have_been(token: int, ids: MarkerIds) -> frozenset[int]:
    replaces_an_end = token in (ids.wait[0], ids.end[0], ids.eos_token)
    return frozenset({token}) | (ids.end_attempt if replaces_an_end else frozenset())


def _compare_drafts(answers: dict[str, list[Answer]], result: PartResult) -> None:
    """Synchronous drafts and asynchronous ones beside each other; the reference was compared with both."""
    first, second = "v2-ngram", "v2-ngram-async"
    if first in answers and second in answers:
        pairs = list(zip(answers[first], answers[second], strict=True))
        equal = sum(a.token_ids == b.token_ids for a, b in pairs)
        result.notes.append(f"{equal} of {len(pairs)} outputs of {second} equal those of {first}.")
        result.save()
