# Every target makes the virtual environment it needs on its first run and reuses it after that.
# Overridable: make test PYTHON=python3.12 WORKERS=4 ARGS='-k hessian'

PYTHON  ?= python3
VENV    ?= .venv
PEERS   ?= .venv-bench
WORKERS ?= 2
ARGS    ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# A worker for each core and one torch thread for each worker: more threads would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two pips at once would spoil one environment.
.NOTPARALLEL:
.PHONY: help demo test test-all bench lint docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-test  ## fit the NIST problems, then look into a classifier of digits
	$(BIN)/python examples/nist_strd.py
	$(BIN)/python examples/digits.py

test: $(VENV)/.installed-test  ## run the tests and doctests, without those marked slow
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-test  ## run all tests and doctests
	$(PYTEST) --timeout=1200 $(ARGS)

bench: $(VENV)/.installed-bench $(PEERS)/.installed  ## measure, and write docs/benchmarks.md
	TORCHJAC_BENCH_PEERS=$(PEERS) $(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.installed-lint  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-docs  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove the environment and everything built
	rm -rf $(VENV) $(PEERS) build dist site .pytest_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The build tools come from constraints.txt too, so pip needs no isolated environment of its own.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing torchjac[$*] into $(VENV) (minutes on the first run)"
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation --editable '.[$*]'
	@touch $@

# What torchjac is measured against and must not share an environment with. The page says of each that
# cannot be installed that it is missing.
$(PEERS)/.installed: Makefile
	@echo "installing asdex, jax and casadi into $(PEERS)"
	@$(PYTHON) -m venv $(PEERS)
	@for peer in "asdex==0.5.1 jax==0.10.2 numpy scipy" "casadi==3.8.2 numpy scipy"; do \
	  $(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet $$peer \
	    || echo "cannot be installed: $$peer" >&2; \
	done
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "torchjac needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with 'make PYTHON=python3.12 ...'" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) && touch $@
