"""Engines as processes of a part: vLLM's offline `LLM` behind a pipe that takes token ids.

Several run side by side, each with its own runner, plugin and configuration. A worker that hangs is killed
with its part's process group.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from server.engine.selection import PROCESSORS, Runner, runner_environment

_STOP_S = 15.0
_COUNTERS = ("vllm:num_preemptions", "vllm:spec_decode_num_accepted_tokens")


class WorkerError(RuntimeError):
    """An engine did not start, failed, or did not answer in time: which one, and where its log is."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: arguments of vLLM's `LLM`, and the runner it is started on."""

    name: str
    runner: Runner
    plugin: bool
    arguments: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)

    def command_line(self) -> str:
        """For the report: how this engine was made."""
        given = {
            **self.arguments,
            **({"logits_processors": [PROCESSORS[self.runner]]} if self.plugin else {}),
        }
        variables = {**runner_environment(self.runner), **self.environment}
        shown = " ".join(f"{name}={value}" for name, value in variables.items())
        return f"{shown} vllm.LLM({', '.join(f'{name}={value!r}' for name, value in given.items())})"


@dataclass(frozen=True, slots=True)
class Answer:
    token_ids: list[int]
    finish_reason: str | None
    logprobs: list[dict[int, float]]
    """Per token, if asked for: the best tokens' log-probabilities."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of one `generate`: answers in order, the time it took, and the engine's counters after it."""

    answers: list[Answer]
    seconds: float
    counters: dict[str, float]


class Engine:
    """A worker, seen from its part. Every wait has a limit in seconds."""

    def __init__(self, spec: EngineSpec, log: Path) -> None:
        self.spec = spec
        self._log = log
        self._is_ready = False
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, str(log)), name=spec.name)
        self._process.start()
        theirs.close()

    def await_ready(self, limit_s: float) -> None:
        """Return once it is ready; at once if it has been.

        Raises:
            WorkerError: it is not ready in time, or never will be.
        """
        if not self._is_ready:
            self._receive(limit_s)
            self._is_ready = True

    def ask(self, prompts: Sequence[Sequence[int]], params: Sequence[Mapping[str, Any]]) -> None:
        """Send requests, one set of `SamplingParams` arguments each; `answer` waits for them."""
        self._connection.send(([list(prompt) for prompt in prompts], [dict(p) for p in params]))

    def answer(self, limit_s: float) -> Batch:
        """
        Raises:
            WorkerError: the engine failed or did not answer in time.
        """
        batch: Batch = self._receive(limit_s)
        return batch

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[Mapping[str, Any]], *, limit_s: float
    ) -> Batch:
        self.ask(prompts, params)
        return self.answer(limit_s)

    def close(self) -> None:
        """End the engine, politely first."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(_STOP_S)
        self.kill()

    def kill(self) -> None:
        """End the worker now; what it started ends with the part."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _receive(self, limit_s: float) -> Any:
        try:
            if not self._connection.poll(max(limit_s, 0.0)):
                raise WorkerError(f"engine {self.spec.name}: no answer in {limit_s:.0f} s. Log: {self._log}")
            kind, value = self._connection.recv()
        except EOFError:
            raise WorkerError(f"engine {self.spec.name} ended. Log: {self._log}") from None
        if kind == "error":
            raise WorkerError(f"engine {self.spec.name}: {value}. Log: {self._log}")
        return value


@contextlib.contextmanager
def engines(specs: Sequence[EngineSpec], logs: Path) -> Iterator[list[Engine]]:
    """Start them all side by side, and end them all. They are not ready yet: see `Engine.await_ready`."""
    started: list[Engine] = []
    try:
        for spec in specs:
            started.append(Engine(spec, logs / f"{spec.name}.log"))
        yield started
    except BaseException:
        for engine in started:
            engine.kill()
        raise
    for engine in started:
        engine.close()


def _serve(connection: Connection, spec: EngineSpec, log: str) -> None:
    """The worker's main function."""
    _redirect_output(log)
    os.environ.update({"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})
    os.environ.update({**runner_environment(spec.runner), **spec.environment})
    try:
        llm = _load(spec)
        connection.send(("ready", None))
        while (asked := connection.recv()) is not None:
            connection.send(("batch", _generate(llm, *asked)))
        llm.llm_engine.engine_core.shutdown()
    except EOFError:  # the part is gone
        return
    except Exception as error:  # noqa: BLE001 -- the process's boundary: whatever it is, the part must know
        traceback.print_exc()
        connection.send(("error", f"{type(error).__name__}: {str(error)[:300]}"))


def _redirect_output(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _load(spec: EngineSpec) -> Any:
    from vllm import LLM
    from vllm.config import ReasoningConfig

    arguments = dict(spec.arguments)
    if "reasoning_config" in arguments:
        arguments["reasoning_config"] = ReasoningConfig(**arguments["reasoning_config"])
    if spec.plugin:
        arguments["logits_processors"] = [PROCESSORS[spec.runner]]
    return LLM(**arguments, disable_log_stats=False)


def _generate(llm: Any, prompts: list[list[int]], params: list[dict[str, Any]]) -> Batch:
    from vllm import SamplingParams

    sampling = [SamplingParams(**{"detokenize": False, **given}) for given in params]
    began = time.perf_counter()
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
    seconds = time.perf_counter() - began
    return Batch([_answer(output.outputs[0]) for output in outputs], seconds, _counters(llm))


def _answer(output: Any) -> Answer:
    logprobs = [
        {token: entry.logprob for token, entry in position.items()} for position in output.logprobs or ()
    ]
    return Answer(list(output.token_ids), output.finish_reason, logprobs)


def _counters(llm: Any) -> dict[str, float]:
    found = {metric.name: metric for metric in llm.get_metrics()}
    return {name: float(found[name].value) for name in _COUNTERS if name in found}
