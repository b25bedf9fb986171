"""The command line of a process-reward model: vLLM's pooling runner, read at the step tag."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from server.engine import one_process
from server.engine.flags import flag_among
from server.engine.launch import VLLM_SERVER, LaunchError, machine_defaults, on_gpu

DEFAULT_STEP_TAG = "<extra_0>"
"""Qwen2.5-Math-PRM's, and the demo's."""
_OURS = ("--host", "--port", "--model", "--runner", "--pooler-config")


def step_tag_id(model: str, tag: str) -> int:
    """The tag's id in the model's tokenizer.

    Raises:
        LaunchError: it is not one token there.
    """
    from transformers import AutoTokenizer

    try:
        ids = AutoTokenizer.from_pretrained(model).encode(tag, add_special_tokens=False)
    except (OSError, ValueError) as error:
        raise LaunchError(f"the tokenizer of {model} can't be loaded: {error}") from error
    if len(ids) != 1:
        raise LaunchError(
            f"--step-tag must be one token of {model}'s tokenizer, not {len(ids)}. Given: {tag!r}"
        )
    return int(ids[0])


def reward_command(
    model: str, *, host: str, port: int, tag_id: int, extra_args: Sequence[str] = ()
) -> list[str]:
    """The engine's argv.

    Raises:
        LaunchError: `extra_args` has a flag that is set here.
    """
    for argument in extra_args:
        if flag_among(argument, dict.fromkeys(_OURS, "")) is not None:
            raise LaunchError(f"{argument} can't be given to a reward model's engine: `s1 reward` sets it")
    pooler = {"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": tag_id}
    arguments = [
        sys.executable, "-m", VLLM_SERVER,
        "--model", model,
        "--host", host,
        "--port", str(port),
        "--runner", "pooling",
        "--pooler-config", json.dumps(pooler),
    ]  # fmt: skip
    if not on_gpu():
        arguments += ["--enforce-eager"]
        arguments += one_process.arguments(extra_args, os.environ)
    return [*arguments, *extra_args]


def reward_environment(
    extra_args: Sequence[str] = (), base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """`base` with what vLLM needs on this machine; the caller's own settings win."""
    defaults = machine_defaults()
    if not on_gpu() and one_process.suits(extra_args, base):
        defaults |= one_process.threads()
    return {**defaults, **base}
