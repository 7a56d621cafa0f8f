# `make demo` and `make test` work on a clean checkout; each sets up .venv when pyproject.toml or constraints.txt
# is newer than what is there.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint docs bench clean

demo: .venv/installed
	$(BIN)/samcli automask examples/ -o out/ --overlay
	@echo "Look at the pictures: out/*.overlay.jpg; the masks are beside them: out/*.json"

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/python -m samcli.cli.reference > docs/cli.md

# Takes hours; stopped, it goes on where it was. What is measured lies in build/bench/.
bench: .venv/installed-dev build/bench/peers/installed
	$(BIN)/python bench/speed.py

clean:
	rm -rf .venv out

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	@touch $@

# mobilesam-mirror and rf-groundingdino, references for tests, ask for torchvision; the tests need it not.
.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps mobilesam-mirror rf-groundingdino
	@touch $@

# Beside the development dependencies, not among them: only the benchmark looks there.
build/bench/peers/installed: bench/requirements.txt .venv/installed-dev
	$(INSTALL) --target build/bench/peers --upgrade -r bench/requirements.txt
	@touch $@
