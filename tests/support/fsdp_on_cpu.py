"""`s1 sft` with FSDP 2 over CPU processes: torch shards there too, but accelerate turns it on for GPUs only.

Run by torchrun as `python -m tests.support.fsdp_on_cpu ARGUMENTS OF s1 sft`.
"""

from __future__ import annotations

from typing import Any

import accelerate.state
from accelerate.utils import DistributedType

from training.sft import run
from training.sft.cli import app

_initialize = accelerate.state.AcceleratorState.__init__


def initialize(self: Any, *arguments: Any, **options: Any) -> None:
    is_first = accelerate.state.AcceleratorState._shared_state == {}
    _initialize(self, *arguments, **options)
    if is_first and options.get("fsdp_plugin") is not None:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = options["fsdp_plugin"]


if __name__ == "__main__":
    accelerate.state.AcceleratorState.__init__ = initialize
    run.check_machine = lambda recipe, machine: None
    app(prog_name="s1 sft")
