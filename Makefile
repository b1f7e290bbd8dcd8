# Everything a newcomer or CI does starts here. Needs GNU make 3.81 or later and CPython 3.11 or later.
#   make demo        watch the product work (installs the core, about 30 MB, and requests)
#   make demo-full   the same, ending with a report in HTML and PDF (installs the report extra)
#   make test        checks, then the fast tests
#   make test-all    the same and the slow suites (kills, power loss, packaging)
#   make check       lint, types, import contracts, house rules
#   make fmt         format the sources
#   make bench       measure; asserts nothing
#   make docs        regenerate the reference pages, run every example of the documentation, check its links
#   make release-page  the page and the one-file verifier for auditors, with their SHA-256, into dist
#   make lock        choose dependency versions anew (UPGRADE=1: the newest allowed)
#   make clean       remove what the above made
# Another interpreter: make test PYTHON=python3.12. Another folder for it: VENV=.venv-312.
# The fast tests, which often wait for the disk, run in one process more than there are cores, the slow ones in two;
# in one, to debug them: WORKERS=0.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SOURCES := src tests tools $(wildcard bench)

.PHONY: demo demo-full test test-all test-slow check check-lint check-format check-types check-imports check-source \
	fmt bench docs release-page lock clean FORCE
.DEFAULT_GOAL := test

demo: $(VENV)/.demo
	@$(BIN)/klingai-audit demo --dir demo

demo-full: $(VENV)/.report
	@$(BIN)/klingai-audit demo --dir demo

test: check
	@$(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

test-slow: $(VENV)/.test $(VENV)/.thirdparty
	@$(BIN)/python -m pytest -q -m slow -n $(WORKERS) --maxprocesses 2 --dist worksteal $(PYTEST_ARGS)

# One after the other, also under `make -j`: both suites measure time-outs and share the cores.
test-all: test
	@$(MAKE) test-slow

check: check-lint check-format check-types check-imports check-source

check-lint: $(VENV)/.test
	@$(BIN)/ruff check --quiet --output-format concise $(SOURCES)

check-format: $(VENV)/.test
	@$(BIN)/ruff format --quiet --check $(SOURCES) || { echo "run: make fmt"; exit 1; }

check-types: $(VENV)/.test
	@$(BIN)/mypy --no-error-summary

check-imports: $(VENV)/.test
	@$(BIN)/lint-imports --no-logo --no-cache > $(VENV)/imports.out || { cat $(VENV)/imports.out; exit 1; }

check-source: $(VENV)/.test
	@$(BIN)/python tools/check_source.py

fmt: $(VENV)/.test
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.test
	@$(BIN)/python -m bench

docs: $(VENV)/.test
	@$(BIN)/python -m tools.docs_reference
	@$(BIN)/python -m pytest -q tests/docs $(PYTEST_ARGS)

release-page: $(VENV)/.project
	@$(BIN)/python -m tools.release_files dist

lock: $(VENV)/.lock
	@PATH="$(abspath $(VENV)/lock/bin):$$PATH" tools/lock.sh

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment: each stamp file says that one step is done -----------------------------

FORCE:

$(VENV)/.python: FORCE
	@$(PYTHON) tools/make_venv.py $(VENV)

$(VENV)/.core: $(VENV)/.python requirements/build.txt requirements/core.txt
	@echo "installing the core into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/core.txt
	@touch $@

$(VENV)/.project: $(VENV)/.core pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# What the script uses that the demo audits (else it takes httpx2, which the core has), and what its witness serves with.
$(VENV)/.demo: $(VENV)/.project requirements/demo.txt
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@touch $@

$(VENV)/.report: $(VENV)/.demo requirements/report.txt
	@echo "installing the report extra into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/report.txt
	@touch $@

$(VENV)/.test: $(VENV)/.project requirements/test.txt
	@echo "installing test tools into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/test.txt
	@touch $@

# Kling clients and C2SP readers of others, beside our own packages and away from them; npm may be missing outside CI.
$(VENV)/.thirdparty: $(VENV)/.test requirements/thirdparty.txt requirements/thirdparty-needs.txt \
		requirements/node/package-lock.json
	@echo "installing Kling clients and C2SP readers of others into $(VENV)/thirdparty"
	@rm -rf $(VENV)/thirdparty
	@$(PIP) install --require-hashes --target $(VENV)/thirdparty/python -r requirements/thirdparty-needs.txt
	@$(PIP) install --require-hashes --no-deps --ignore-requires-python --upgrade \
		--target $(VENV)/thirdparty/python -r requirements/thirdparty.txt
	@if command -v npm > /dev/null || [ -n "$$CI" ]; then \
		cp -R requirements/node $(VENV)/thirdparty/node && cd $(VENV)/thirdparty/node && npm ci --silent; fi
	@touch $@

$(VENV)/.lock: $(VENV)/.python requirements/lock.txt
	@$(VENV)/bin/python -m venv --clear $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements/lock.txt
	@touch $@
