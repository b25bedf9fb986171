"""How many tokens an engine can hold, from vLLM's metrics."""

from __future__ import annotations

import re

_CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{(?P<labels>[^}]*)\}", re.MULTILINE)
_COUNT = re.compile(r'(?:^|,)(?P<name>block_size|num_gpu_blocks)="(?P<value>[0-9]+)"')


def kv_cache_tokens(metrics: str) -> int | None:
    """The KV cache of all the engine's replicas together; None if the metrics don't tell.

    `vllm:cache_config_info` has a line per data-parallel replica, with the cache's size in its labels. Models
    with sliding windows hold more than this says.

    Args:
        metrics: in Prometheus' text format.
    """
    total = 0
    for line in _CACHE_CONFIG.finditer(metrics):
        counts = {found["name"]: int(found["value"]) for found in _COUNT.finditer(line["labels"])}
        total += counts.get("block_size", 0) * counts.get("num_gpu_blocks", 0)
    return total or None
