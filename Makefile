# Everything a newcomer needs: `make demo` and `make test`. Set-up runs once and is redone only when
# pyproject.toml or constraints.txt change.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check bench bench-gpu clean setup
.DEFAULT_GOAL := help

help:
	@echo "make demo       set up, then search for a student on the embedded world (about 4 minutes)"
	@echo "make test       set up, then run every test"
	@echo "make check      set up, then ruff, pyright and import-linter"
	@echo "make bench      set up, then measure every layer and print the table (18 minutes on 2 quiet cores)"
	@echo "make bench-gpu  set up, then measure what needs a GPU"
	@echo "make clean      remove the virtual environment and caches; ./runs stays"

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@echo "==> setting up .venv (Python packages at the versions of constraints.txt; a few minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "==> set up: $$($(BIN)/python --version), torch $$($(BIN)/python -c 'import torch; print(torch.__version__)')"

demo: setup
	@$(BIN)/sweeps run quickstart

# Two at once, which spend half their time waiting for processes to start: each with one thread, and a module's
# tests together, since they share clusters, servers and sweeps.
test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

# Alone on the machine. Each measurement sets its own threads. BENCH_ARGS: --only, --quick, --json, --against.
bench: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-gpu: setup
	@$(BIN)/python -m benchmarks --gpu $(BENCH_ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
