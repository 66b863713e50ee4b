# Two commands: `make demo` and `make test`. Both create and reuse one virtual environment in the checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test lint docs pins clean

demo: $(VENV)/.demo
	$(BIN)/headrace demo --out headrace-demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/licences.py >/dev/null

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site: build/site/index.html"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"headrace needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Run: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing headrace and torch into $(VENV) (once, about a minute)"
	$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing headrace and everything its tests use into $(VENV) (once, a few minutes)"
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.demo

pins:
	rm -rf $(VENV)-pins && $(PYTHON) -m venv $(VENV)-pins && $(VENV)-pins/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-pins/bin/python -m pip install --quiet -e ".[test]"
	$(VENV)-pins/bin/python -m pip freeze --exclude-editable | sed "s/+cpu//" > constraints.txt
	rm -rf $(VENV)-pins

clean:
	rm -rf $(VENV) headrace-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
