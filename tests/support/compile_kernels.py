"""Compile every kernel for an NVIDIA GPU that may be absent: `python -m tests.support.compile_kernels 90`.

Prints the name of each kernel that became machine code.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from server.engine import kernels

# Pointers are int32 and scalars int32, but for these.
_INT64 = {"slots_ptr", "row_slots_ptr"}
_FLOAT = {"logits_ptr"}


def compile_kernel(kernel: Any, capability: int, *, ids: str = "*i32", **constants: Any) -> None:
    """`ids`: type of the pointer to sampled or drafted ids."""
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("sampled_ptr", "input_ids_ptr"):
            signature[name] = ids
        elif name.endswith("_ptr"):
            signature[name] = "*i64" if name in _INT64 else "*fp32" if name in _FLOAT else "*i32"
        else:
            signature[name] = "i32"
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 1})
    if compiled.asm["cubin"]:
        sys.stdout.write(f"{kernel.__name__}\n")


def main(capability: int) -> None:
    for replay in (False, True):
        compile_kernel(kernels.advance, capability, REPLAY=replay, BLOCK=1024)
    for ids in ("*i32", "*i64"):
        for ends_answer in (False, True):
            compile_kernel(kernels.plan_rows, capability, ids=ids, MARKER_ENDS_ANSWER=ends_answer)
    compile_kernel(kernels.edit_logits, capability, BLOCK=2048)
    for ids in ("*i32", "*i64"):
        for speculative in (False, True):
            compile_kernel(kernels.post, capability, ids=ids, SPECULATIVE=speculative)


if __name__ == "__main__":
    main(int(sys.argv[1]))
