# make serve    install what this machine can use, start engine and gateway   MODEL= HOST= PORT= ARGS=
# make test     install and run every test        make check    lint, types, tests without an engine
.DEFAULT_GOAL := serve
.PHONY: serve install dev test check format clean

HOST ?= 127.0.0.1
PORT ?= 8000

serve: install
	@exec .venv/bin/s1 serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

install:
	@scripts/install.sh

dev:
	@scripts/install.sh dev

test: dev
	.venv/bin/python -m pytest

check: dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -m "not engine"

format: dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
