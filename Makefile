# Every target sets up what it needs on a machine that has Python >= 3.11 and nothing else.
# The virtual environment is made again whenever pyproject.toml changes.

PYTHON ?= python3
KILLS ?= 10000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test check bench crash clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    replay conversations through a budget, kill half-way, recover, verify"
	@echo "make test    all tests"
	@echo "make check   format, lint, types, architecture, fast tests"
	@echo "make bench   all benchmarks, with quick defaults"
	@echo "make crash   kill at random moments and recover, KILLS=$(KILLS) times"
	@echo "make clean   remove what the other targets made"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "memopt needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1); try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; Debian and Ubuntu need: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@$(PIP) --editable '.[dev]'
	@touch $@

$(BENCH_READY): $(READY)
	@echo "Adding what only the benchmarks need ..."
	@$(PIP) --editable '.[dev,bench]'
	@touch $@

demo: $(READY)
	@$(BIN)/python -m memopt.bench.demo

test: $(READY)
	@echo "All tests ..."
	@$(BIN)/python -m pytest -n 2

check: $(READY)
	@echo "Format ..."
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check .; exit 1; }
	@echo "Lint ..."
	@$(BIN)/ruff check --quiet .
	@echo "Types ..."
	@$(BIN)/mypy --no-error-summary
	@echo "Architecture ..."
	@$(BIN)/python -m pytest tests/test_architecture.py
	@echo "Fast tests ..."
	@$(BIN)/python -m pytest -n 2 -m 'not slow' --ignore=tests/test_architecture.py

bench: $(BENCH_READY)
	@$(BIN)/memopt bench all --quick

crash: $(READY)
	@$(BIN)/python -m memopt.testing.crash --kills $(KILLS)

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist out
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
