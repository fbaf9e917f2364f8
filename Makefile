# Each target creates the environment that it needs from a bare checkout; PYTHON=python3.13 selects an interpreter.
PYTHON ?= python3
BIN := .venv/bin

PARITY := .venv-parity/bin
# --no-compile, because Python compiles modules when they are first imported, which is faster than compiling all of them.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

# Lets Python write .pyc files. Otherwise every process would compile the modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart check test test-long parity fuzz parity-table browser docs lint format clean

quickstart: .venv/.runtime ## train on digits and evaluate, in minutes on a CPU
	$(BIN)/python train.py --config configs/quickstart.py --workdir runs/quickstart
	$(BIN)/python eval.py --config configs/quickstart.py --checkpoint runs/quickstart

help: ## list these targets
	@awk -F ':.* ## ' '/^[a-z-]+:.* ## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# tests/check.txt lists the files of the quick part; tests/test_contributing.py checks that they exist and cover every
# folder.
check: lint ## lint and the quick part of the tests, for every change
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=5 $$(cat tests/check.txt)

test: .venv/.dev ## run the tests except the notebooks (make parity) and the long ones (make test-long)
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=15 --ignore=tests/test_notebooks.py

# tests/long.txt lists these tests: more cases of what `make test` tests, and those that take minutes, such as 200 saves
# with failing requests. Most of them wait, so this can run beside `make parity`.
test-long: .venv/.dev ## run the long tests
	$(BIN)/python -m pytest -n 4 --dist loadgroup -m long --durations=5 --ignore=tests/test_notebooks.py

parity: .venv-parity/.installed ## compare with PyTorch, timm, transformers, mmsegmentation and mmdetection, and execute the notebooks
	@$(PARITY)/python -c 'import yapf' # mmcv's; it writes a cache, which two processes at once would damage
	$(PARITY)/python -m pytest tests/test_notebooks.py parity tests/demo/test_page.py -n 2 --durations=15

# No mutated input may cause a traceback, a crash, a hang or a wrong answer. Inputs that do are kept in runs/fuzz.
fuzz: .venv-parity/.installed ## feed mutated inputs to all code that reads files
	$(PARITY)/python -m fuzz

# Needs Chromium (on Debian: apt-get install chromium). SCREENSHOTS=DIR keeps screenshots.
browser: .venv-parity/.installed ## test the demo page in Chromium
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

# The target is a stamp file, because bin/python exists before pip does: an incomplete environment is created again.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11; choose another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@rm -rf .venv && $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 2; }
	@touch $@

.venv/.runtime: requirements.txt pyproject.toml | .venv/.made
	$(BIN)/python $(INSTALL) --editable .
	@touch $@

.venv/.dev: requirements-dev.txt requirements-dev-nodeps.txt .venv/.runtime
	$(BIN)/python $(INSTALL) --requirement requirements-dev.txt
	$(BIN)/python $(INSTALL) --no-deps --requirement requirements-dev-nodeps.txt
	@touch $@

# A separate environment for PyTorch, timm, transformers, mmsegmentation and mmdetection, because training and evaluation
# do not need them.
.venv-parity/.installed: requirements-parity.txt requirements-parity-nodeps.txt requirements-dev.txt requirements.txt pyproject.toml | .venv/.made
	@$(BIN)/python -m venv .venv-parity
	$(PARITY)/python $(INSTALL) --requirement requirements-parity.txt --editable .
	$(PARITY)/python $(INSTALL) --no-deps --requirement requirements-parity-nodeps.txt
	@touch $@

clean: ## remove the environments
	rm -rf .venv .venv-parity
