"""Which processor an engine gets; what it can't enforce stops the start, with what to change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine.config import RUN_DIR_VARIABLE, read_refusal
from server.engine.launch import EngineOptions, LaunchError, command
from server.engine.selection import (
    PROCESSORS,
    SelectionError,
    choose_runner,
    require_v2_support,
    runner_environment,
)

VLLM = "VLLM_USE_V2_MODEL_RUNNER"


@pytest.mark.parametrize(
    ("environment", "on_gpu", "runner"),
    [
        ({}, False, "v1"),
        ({}, True, "v2"),
        ({"S1_ENGINE_RUNNER": ""}, True, "v2"),
        ({"S1_ENGINE_RUNNER": "", VLLM: ""}, False, "v1"),
        ({"S1_ENGINE_RUNNER": "v1"}, True, "v1"),
        ({"S1_ENGINE_RUNNER": "v1"}, False, "v1"),
        ({"S1_ENGINE_RUNNER": "v2"}, True, "v2"),
        ({VLLM: "0"}, True, "v1"),
        ({VLLM: "1"}, True, "v2"),
        ({"S1_ENGINE_RUNNER": "v1", VLLM: "0"}, False, "v1"),
        ({"S1_ENGINE_RUNNER": "v2", VLLM: "1"}, True, "v2"),
    ],
)
def test_the_runner_that_is_asked_for(environment: dict[str, str], on_gpu: bool, runner: str) -> None:
    assert choose_runner(environment, on_gpu=on_gpu) == runner


@pytest.mark.parametrize(
    ("environment", "on_gpu", "says"),
    [
        ({"S1_ENGINE_RUNNER": "v3"}, True, "S1_ENGINE_RUNNER must be v1 or v2. Given: v3"),
        ({"S1_ENGINE_RUNNER": "V2"}, True, "S1_ENGINE_RUNNER must be v1 or v2. Given: V2"),
        ({"S1_ENGINE_RUNNER": "v2"}, False, "needs an NVIDIA GPU .*its GPU, or unset S1_ENGINE_RUNNER$"),
        ({VLLM: "1"}, False, f"needs an NVIDIA GPU .* unset {VLLM}$"),
        ({VLLM: "true"}, True, f"{VLLM} must be 0 or 1. Given: true"),
        ({"S1_ENGINE_RUNNER": "v1", VLLM: "1"}, True, f"S1_ENGINE_RUNNER=v1 and {VLLM}=1 contradict"),
        ({"S1_ENGINE_RUNNER": "v2", VLLM: "0"}, True, f"S1_ENGINE_RUNNER=v2 and {VLLM}=0 contradict"),
    ],
)
def test_contradictions_say_what_to_change(environment: dict[str, str], on_gpu: bool, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        choose_runner(environment, on_gpu=on_gpu)


def test_vllm_is_told_the_runner_by_its_own_variable() -> None:
    assert runner_environment("v1") == {VLLM: "0"}
    assert runner_environment("v2") == {VLLM: "1"}


def test_each_runner_has_its_processor_and_its_scheduling() -> None:
    """V1 processors see placeholders under asynchronous scheduling: it is off there."""
    first = command(EngineOptions(model="m"), host="h", port=1)
    second = command(EngineOptions(model="m", runner="v2"), host="h", port=1)
    assert first[first.index("--logits-processors") + 1] == PROCESSORS["v1"]
    assert second[second.index("--logits-processors") + 1] == PROCESSORS["v2"]
    assert "--no-async-scheduling" in first
    assert "--no-async-scheduling" not in second


@pytest.mark.parametrize(
    "argument",
    [
        "--speculative-config",
        "--speculative_config",
        "--speculative-config.method",
        "--speculative-conf",
        "-sc",
        "--spec-method=ngram",
        "--spec_tokens",
    ],
)
def test_speculative_decoding_needs_the_v2_runner(argument: str) -> None:
    with pytest.raises(LaunchError, match="can't be given.*V2 runner has, on an NVIDIA GPU"):
        EngineOptions(model="m", extra_args=(argument, "x"))
    given = command(EngineOptions(model="m", runner="v2", extra_args=(argument, "x")), host="h", port=1)
    assert given[-2:] == [argument, "x"]


@pytest.mark.parametrize(
    "argument", ["--watermark", "--watermark-config", "--watermark_config.algorithm=kgw"]
)
@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_a_watermark_is_refused_at_once(argument: str, runner: Any) -> None:
    """vLLM would switch to its V2 runner for it, whatever runner it was told, and sample past our hook."""
    with pytest.raises(LaunchError, match="watermarking samples past our hook: leave it out"):
        EngineOptions(model="m", runner=runner, extra_args=(argument,))


@pytest.mark.parametrize(
    ("runner", "argument", "says"),
    [
        ("v1", "--async-scheduling", "V1 runner budgets would be told tokens that are not there yet"),
        ("v2", "--enable-sleep-mode", "leave it out, or set S1_ENGINE_RUNNER=v1"),
    ],
)
def test_what_only_the_other_runner_takes(runner: Any, argument: str, says: str) -> None:
    with pytest.raises(LaunchError, match=f"{argument} can't be given to the engine: .*{says}"):
        EngineOptions(model="m", runner=runner, extra_args=(argument,))
    other: Any = "v2" if runner == "v1" else "v1"
    given = command(EngineOptions(model="m", runner=other, extra_args=(argument,)), host="h", port=1)
    assert given[-1] == argument


@pytest.mark.parametrize("runner", ["v1", "v2"])
@pytest.mark.parametrize("argument", ["--logits_processors", "--logits-proc=x:Y", "--reasoning_parser"])
def test_our_processor_is_not_replaced_by_another_spelling(argument: str, runner: Any) -> None:
    """vLLM would take the last one given, and enforce nothing."""
    with pytest.raises(LaunchError, match="can't be given to the engine: .* our own"):
        EngineOptions(model="m", runner=runner, extra_args=(argument, "x:Y"))


def test_other_flags_pass() -> None:
    arguments = (
        "--max-num-seqs",
        "8",
        "-tp",
        "2",
        "--structured-outputs-config.backend=xgrammar",
        "--",
        "-q",
    )
    assert tuple(command(EngineOptions(model="m", extra_args=arguments), host="h", port=1)[-7:]) == arguments


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"S1_ENGINE_RUNNER": "v2"}, "needs an NVIDIA GPU"),
        ({VLLM: "1"}, f"unset {VLLM}"),
        ({VLLM: "yes"}, f"{VLLM} must be 0 or 1. Given: yes"),
    ],
)
def test_the_start_is_stopped_on_a_machine_without_a_gpu(
    variables: dict[str, str], says: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), **variables}
    argv = [sys.executable, "-m", "server.cli", "engine"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def configuration(**changes: Any) -> Any:
    """Of an engine that is supported, but for `changes`; a name with a dot is inside another."""
    config = SimpleNamespace(
        watermark_config=None,
        diffusion_config=None,
        speculative_config=None,
        parallel_config=SimpleNamespace(enable_batch_sharded_sampling=False, use_ubatching=False),
        model_config=SimpleNamespace(enable_trace_replay=False),
    )
    for name, value in changes.items():
        owner, _, field = name.rpartition("__")
        setattr(getattr(config, owner) if owner else config, field, value)
    return config


def drafts(**changes: Any) -> Any:
    return SimpleNamespace(
        **{"rejection_sample_method": "standard", "enable_adaptive_verification": False, **changes}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"speculative_config": drafts()},
        {"speculative_config": drafts(rejection_sample_method="block")},
    ],
)
def test_supported_configurations_start(changes: dict[str, Any]) -> None:
    require_v2_support(configuration(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"watermark_config": object()}, "watermark.*: leave the watermark configuration out"),
        ({"diffusion_config": object()}, "diffusion models.*: serve another model"),
        ({"model_config__is_diffusion": True}, "diffusion models.*: serve another model"),
        ({"parallel_config__enable_batch_sharded_sampling": True}, "batch-sharded sampling.*: turn it off"),
        ({"model_config__enable_trace_replay": True}, "trace replay.*: turn it off"),
        ({"model_config__enable_sleep_mode": True}, "sleep mode.*--enable-sleep-mode out, or set S1_ENGINE_"),
        (
            {"parallel_config__use_ubatching": True},
            "dual batch overlap.*: leave --enable-dbo out, or set S1_",
        ),
        (
            {"speculative_config": drafts(rejection_sample_method="synthetic")},
            "synthetic acceptance.*: use another rejection_sample_method",
        ),
        (
            {"speculative_config": drafts(enable_adaptive_verification=True)},
            "adaptive draft verification.*: set enable_adaptive_verification to false",
        ),
    ],
)
def test_what_can_not_be_enforced_stops_the_start(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SelectionError, match=f"can't be enforced with this engine configuration: .*{says}"):
        require_v2_support(configuration(**changes))


def test_a_refusal_reaches_whoever_started_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's log ends with its own words about a worker that failed."""
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(SelectionError) as refused:
        require_v2_support(configuration(watermark_config=object()))
    assert read_refusal(tmp_path) == str(refused.value)


def test_all_reasons_are_named_at_once() -> None:
    config = configuration(
        watermark_config=object(), speculative_config=drafts(enable_adaptive_verification=True)
    )
    with pytest.raises(SelectionError, match="watermark.*; adaptive draft verification"):
        require_v2_support(config)


def test_the_names_that_are_asked_for_exist_in_the_pinned_vllm() -> None:
    """A renamed setting would be taken for one that is off."""
    from dataclasses import fields

    config = pytest.importorskip("vllm.config")
    owners = {
        "VllmConfig": {"watermark_config", "diffusion_config", "parallel_config", "speculative_config"},
        "ParallelConfig": {"enable_batch_sharded_sampling"},
        "ModelConfig": {"enable_trace_replay", "enable_sleep_mode"},
        "SpeculativeConfig": {"rejection_sample_method", "enable_adaptive_verification"},
    }
    for owner, names in owners.items():
        assert names <= {field.name for field in fields(getattr(config, owner))}, owner
    assert hasattr(config.ParallelConfig, "use_ubatching")
