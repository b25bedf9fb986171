#!/usr/bin/env bash
# Proof and price of budget forcing on this machine, in under 8 minutes on one H100: docs/gpu.md.
#   loadtest/gpu_check.sh MODEL_DIR [OUT_DIR] [--help for more]
#   PYTHON=python3 PYTHONPATH=… loadtest/gpu_check.sh …    where vLLM is not in .venv
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x "$root/.venv/bin/python" ] && PYTHON=$root/.venv/bin/python
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
missing=$("$PYTHON" -c '
import importlib.util
names = ("vllm", "torch", "triton", "transformers", "zmq", "starlette", "httpx", "structlog")
print(*(name for name in names if importlib.util.find_spec(name) is None))')
if [ -n "$missing" ]; then
  printf 'gpu_check: %s has no %s: install them, or put them on PYTHONPATH (docs/gpu.md)\n' "$PYTHON" "$missing" >&2
  exit 2
fi
exec "$PYTHON" -m loadtest.gpu_check "$@"
