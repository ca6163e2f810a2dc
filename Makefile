# Bare `make` lists the targets. Everything installs into .venv; nothing else on the machine changes.
PYTHON ?= python3
BIN := .venv/bin
# One test process per core, with one thread each. What they compile is kept for the processes that they start.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: help setup demo test test-slow test-crash test-long check bench bench-peers gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## create .venv with everything in it

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "whisper-shard needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/whisper-shard doctor --fix
	touch $@

demo: setup  ## every command offline: synthesize a corpus, prepare, verify, inspect, bench, train, score
	$(BIN)/whisper-shard demo demo

test: setup  ## the quick tests, in one process per core (under four minutes on two)
	$(PYTEST) -m "not slow and not long"

test-slow: setup  ## those of two seconds or more: real weights, several ranks, killed processes (six to eight minutes)
	$(PYTEST) -m "slow and not long"

test-crash: setup  ## the long crash tests: many kills at random moments
	$(PYTEST) -m long tests/prepare tests/tars tests/train

test-long: setup  ## all tests, including the long ones
	$(PYTEST)

check: setup  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## benchmarks on this machine; results go to benchmarks/results
	$(BIN)/python -m benchmarks.bench_prepare
	$(BIN)/python -m benchmarks.bench_stream
	$(BIN)/python -m benchmarks.bench_index

bench-peers: setup  ## the loader against webdataset, Lhotse Shar, HF datasets, MosaicML Streaming, LitData; disk and S3
	sh benchmarks/peers.sh

gpu: setup  ## all measurements of a GPU in 25 minutes: tests, parity, speed, memory (DEVICE=cpu: with a small model)
	$(BIN)/python -m benchmarks.bench_gpu $(if $(DEVICE),--device $(DEVICE))

clean:  ## remove .venv, caches, build/ and demo/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build demo
