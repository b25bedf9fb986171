"""What an engine's workers can be told between two decoding steps (`--worker-extension-cls`).

vLLM hands a `collective_rpc` to its workers through the queue that also carries the steps, and between two of
them: every tensor-parallel rank takes the word before the same step, so that all go on choosing the same
tokens. Ray's compiled graphs carry the steps past that queue; with pipeline stages, where several are under
way, the order is lost, and such an engine is told nothing (`may_be_told`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from server.engine.ended_by import EndedBy

QUALIFIED_NAME = "server.engine.worker_control.WorkerControl"


@runtime_checkable
class Controlled(Protocol):
    """A logits processor that can be told to end a request's thinking."""

    def end_thinking(self, receipt_id: str, ended_by: EndedBy) -> bool | None:
        """Leave the thinking after the next token; now, or when the request takes a row.

        Returns:
            Whether it is still thinking; None if it stands in no row.
        """
        ...


class WorkerControl:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def s1_end_thinking(self, receipt_id: str, ended_by: str) -> bool | None:
        """As `Controlled.end_thinking`; None also where nothing is sampled."""
        for processor in _processors(self.model_runner):
            return processor.end_thinking(receipt_id, EndedBy[ended_by.upper()])
        return None


def may_be_told(parallel_config: Any) -> bool:
    """Whether this engine was started with `WorkerControl`, and all its ranks hear at the same step."""
    in_order = parallel_config.distributed_executor_backend != "ray" or (
        parallel_config.pipeline_parallel_size == 1
    )
    return bool(parallel_config.worker_extension_cls == QUALIFIED_NAME and in_order)


def _processors(runner: Any) -> Iterator[Controlled]:
    """Ours, of whichever runner this is."""
    batch = getattr(runner, "input_batch", None)
    if batch is not None:
        processors = batch.logitsprocs.non_argmax_invariant
    else:
        sampler = runner.sampler
        processors = () if sampler is None else sampler.logits_processors
    for processor in processors:
        if isinstance(processor, Controlled):
            yield processor
