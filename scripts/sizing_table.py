"""Print docs/deploy.md's sizing table, computed as `s1 size` does; `--check FILE` compares the one in a file.

It stands between the lines `<!-- sizing -->` and `<!-- /sizing -->`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from server.commands.size import gpu_memory_gib
from server.sizing import Layout, ModelShape, SizingError, size_on_gpus

BEGIN, END = "<!-- sizing -->\n", "<!-- /sizing -->"
SETUPS = (
    ("s1.1-7b", "l40s", 1, Layout(1)),
    ("s1.1-7b", "h100", 1, Layout(1)),
    ("s1.1-14b", "h100", 1, Layout(1)),
    ("s1.1-32b", "h200", 1, Layout(1)),
    ("s1.1-32b", "h100", 2, Layout(2)),
    ("s1.1-32b", "a100-80", 4, Layout(4)),
    ("s1.1-32b", "h100", 8, Layout(8)),
    ("s1.1-32b", "h100", 8, Layout(4, 1, 2)),
    ("s1.1-32b", "h100", 16, Layout(8, 2)),
)
BUDGETS = (1024, 4096, 16384)
OTHERS = 512 + 2048
"""Prompt and answer, as `s1 size` assumes them."""


def table() -> str:
    heads = " | ".join(f"{budget:,}" for budget in BUDGETS)
    lines = [
        f"| model | GPUs | tensor x pipeline x data | KV cache, tokens | {heads} |",
        "|---|---|---|---|" + "---|" * len(BUDGETS),
    ]
    return "\n".join([*lines, *(row(*setup) for setup in SETUPS)])


def row(name: str, gpu: str, gpus: int, layout: Layout) -> str:
    model = ModelShape.known(name)
    sizing = size_on_gpus(
        model, layout, gpu_gib=gpu_memory_gib(gpu), gpu_memory_utilization=0.92, working_gib=5.0
    )
    if sizing.kv_cache_tokens < model.max_model_len:
        raise SizingError(f"{name} on {gpus} {gpu}: vLLM would not start with the whole context")
    cut = f"{layout.tensor} x {layout.pipeline} x {layout.data}"
    cells = [f"{sizing.concurrent(tokens=budget + OTHERS):,}" for budget in BUDGETS]
    tokens = f"{sizing.kv_cache_tokens * layout.data:,}"
    return f"| {name} | {gpus} x {gpu} | {cut} | {tokens} | " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", type=Path)
    checked = parser.parse_args().check
    if checked is None:
        sys.stdout.write(table() + "\n")
        return 0
    if BEGIN + table() + "\n" + END in checked.read_text():
        return 0
    sys.stderr.write(f"{checked}: its sizing table is not what scripts/sizing_table.py prints\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
