# Each target creates .venv by itself from a bare checkout; PYTHON=python3.13 selects another interpreter.
PYTHON ?= python3
BIN := .venv/bin

PARITY := .venv-parity/bin
# Python compiles modules when they are first imported, which takes less time than compiling whole packages now.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

# Otherwise every process would compile them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart check test parity fuzz parity-table browser docs lint format clean

quickstart: .venv/.runtime ## train on digits and evaluate, in minutes on a CPU
	$(BIN)/python train.py --config configs/quickstart.py --workdir runs/quickstart
	$(BIN)/python eval.py --config configs/quickstart.py --checkpoint runs/quickstart

help: ## list these targets
	@awk -F ':.* ## ' '/^[a-z-]+:.* ## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# tests/check.txt lists the files of the quick part; tests/test_contributing.py keeps the list honest.
check: lint ## lint and the quick part of the tests, for every change
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=5 $$(cat tests/check.txt)

test: .venv/.dev ## run all tests but the notebooks, which parity executes
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=15 --ignore=tests/test_notebooks.py

parity: .venv-parity/.installed ## compare with PyTorch, timm and transformers, and execute the notebooks
	$(PARITY)/python -m pytest tests/test_notebooks.py parity tests/demo/test_page.py -n 2 --durations=15

# Mutated inputs of every kind: none may end in a traceback, a crash, a hang or a wrong answer. Failures are kept in
# runs/fuzz.
fuzz: .venv-parity/.installed ## feed mutated inputs to everything that reads
	$(PARITY)/python -m fuzz

# Tests the demo page in a real browser: needs Chromium (on Debian apt-get install chromium). SCREENSHOTS=DIR keeps
# screenshots.
browser: .venv-parity/.installed ## test the page of demo in Chromium
	$(PARITY)/python $(INSTALL) playwright
	$(PARITY)/python -m pytest tests/demo/test_page.py -k browser -rs

parity-table: .venv-parity/.installed ## measure the tables of docs/parity.md again
	$(PARITY)/python -m parity.report docs/parity.md

docs: .venv/.dev ## build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/.dev ## check the style of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev ## correct most of the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A stamp file, because bin/python exists before pip does: an incomplete environment is created again.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11; choose another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@rm -rf .venv && $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 2; }
	@touch $@

.venv/.runtime: requirements.txt pyproject.toml | .venv/.made
	$(BIN)/python $(INSTALL) --editable .
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	$(BIN)/python $(INSTALL) --requirement requirements-dev.txt
	@touch $@

# PyTorch, timm and transformers have an environment of their own: training and evaluation need none of them.
.venv-parity/.installed: requirements-parity.txt requirements-dev.txt requirements.txt pyproject.toml | .venv/.made
	@$(BIN)/python -m venv .venv-parity
	$(PARITY)/python $(INSTALL) --requirement requirements-parity.txt --editable .
	@touch $@

clean: ## remove the environments
	rm -rf .venv .venv-parity
