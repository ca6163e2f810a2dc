# Bare `make` lists the targets. Everything installs into .venv; nothing else on the machine changes.
PYTHON ?= python3
BIN := .venv/bin
# A test process for each core, with one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: help setup demo test test-crash test-long check bench bench-peers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## make .venv with everything in it

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "whisper-shard needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/whisper-shard doctor --fix
	touch $@

demo: setup  ## the whole journey offline: speak a corpus, prepare, verify, bench, train, score
	$(BIN)/whisper-shard demo demo

test: setup  ## the tests, in a process for each core
	$(PYTEST) -m "not long"

test-crash: setup  ## the long form of the crash tests: many kills at random moments
	$(PYTEST) -m long tests/prepare tests/train

test-long: setup  ## every test, long forms too
	$(PYTEST)

check: setup  ## lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## benchmarks on this machine; results go to benchmarks/results
	$(BIN)/python -m benchmarks.bench_prepare
	$(BIN)/python -m benchmarks.bench_stream
	$(BIN)/python -m benchmarks.bench_index

bench-peers: setup  ## the loader beside webdataset, Lhotse Shar, HF datasets, MosaicML Streaming, LitData
	sh benchmarks/peers.sh

clean:  ## remove .venv and all caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo
