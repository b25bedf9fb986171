#!/usr/bin/env bash
# Serve the demo checkpoint, measure it over training/evaluate/sweeps/demo.yaml, write the report:
#   scripts/demo_report.sh [FOLDER]     (default: runs/demo-scaling; about 10 minutes on 2 cores)
# Stopped and started again, it asks only what is missing.
set -euo pipefail
folder=${1:-runs/demo-scaling}
s1=${S1:-$(dirname "$0")/../.venv/bin/s1}
mkdir -p "$folder"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
$s1 serve --port "$port" --log-file "$folder/engine.log" >"$folder/serve.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
until curl -sf "http://127.0.0.1:$port/ready" >/dev/null; do
  kill -0 "$server" 2>/dev/null || { tail -n 20 "$folder/serve.log" >&2; exit 1; }
  sleep 1
done
$s1 evaluate run --url "http://127.0.0.1:$port/v1" --sweep demo --out "$folder"
$s1 evaluate report "$folder"
