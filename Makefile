# Each target creates .venv by itself from a bare checkout; PYTHON=python3.13 selects another interpreter.
PYTHON ?= python3
BIN := .venv/bin

PARITY := .venv-parity/bin
# Python compiles modules when they are first imported, which takes less time than compiling whole packages now.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

# Otherwise every process would compile them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test parity fuzz parity-table browser docs lint format clean

quickstart: .venv/.runtime
	$(BIN)/python train.py --config configs/quickstart.py --workdir runs/quickstart
	$(BIN)/python eval.py --config configs/quickstart.py --checkpoint runs/quickstart

test: .venv/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=15

parity: .venv-parity/.installed
	$(PARITY)/python -m pytest parity tests/demo/test_page.py -n 2 --durations=15

# Mutated inputs of every kind: none may end in a traceback, a crash, a hang or a wrong answer. Failures are kept in
# runs/fuzz.
fuzz: .venv-parity/.installed
	$(PARITY)/python -m fuzz

# Tests the demo page in a real browser: needs Chromium (on Debian apt-get install chromium). SCREENSHOTS=DIR keeps
# screenshots.
browser: .venv-parity/.installed
	$(PARITY)/python $(INSTALL) playwright
	$(PARITY)/python -m pytest tests/demo/test_page.py -k browser -rs

parity-table: .venv-parity/.installed
	$(PARITY)/python -m parity.report docs/parity.md

# Builds the documentation site in site/.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev
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

clean:
	rm -rf .venv .venv-parity
