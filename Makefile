# Two commands: `make demo` and `make test`. Both create and reuse one virtual environment in the checkout.
# `make test WHEEL=dist/NAME.whl` installs that wheel instead of the checkout, and tests what was installed.
PYTHON ?= python3
WHEEL ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
# The extension in C is built where a compiler is (setup.py); what runs is printed, and is `off` without it.
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard src/headrace/native/c/*) $(WHEEL)
INSTALLED := $(VENV)/.test$(if $(WHEEL),-wheel)
# Two processes, a file of tests stays in one: most tests wait for processes that they start.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
PRINT_NATIVE := $(BIN)/python -c 'from headrace.native import native_target; print("native:", native_target())'

.PHONY: demo test lint docs hashed pins clean

demo: $(VENV)/.demo
	$(BIN)/headrace demo --out headrace-demo

test: $(INSTALLED)
ifeq ($(WHEEL),)
	$(PYTEST)
else
	$(PYTEST) tests docs README.md
	$(PYTEST) -c pyproject.toml --rootdir . --pyargs headrace
endif

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/licences.py >/dev/null

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site: build/site/index.html"

# All pinned packages, each file checked against .ci/hashes.txt. torch is not among them: its CPU builds are other files on
# every index that has them.
hashed: | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r .ci/hashes.txt

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"headrace needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Run: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	@echo "installing headrace and torch into $(VENV) (once, about a minute)"
	$(PIP) $(if $(WHEEL),'$(WHEEL)[train]',-e '.[train]')
	@$(PRINT_NATIVE)
	@touch $@

# pip keeps an installed wheel of the same version; the second call replaces it.
$(INSTALLED): $(SOURCES) | $(BIN)/python
	@echo "installing headrace and everything its tests use into $(VENV) (once, a few minutes)"
	$(PIP) $(if $(WHEEL),'$(WHEEL)[test]',-e '.[test]')
	$(if $(WHEEL),$(PIP) --force-reinstall --no-deps '$(WHEEL)')
	@$(PRINT_NATIVE)
	@rm -f $(VENV)/.test $(VENV)/.test-wheel && touch $@ $(VENV)/.demo

pins:
	rm -rf $(VENV)-pins && $(PYTHON) -m venv $(VENV)-pins && $(VENV)-pins/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-pins/bin/python -m pip install --quiet -e ".[test]"
	$(VENV)-pins/bin/python -m pip freeze --exclude-editable | sed "s/+cpu//" > constraints.txt
	$(VENV)-pins/bin/python -m pip install --quiet uv
	grep -v "^torch==" constraints.txt | $(VENV)-pins/bin/uv pip compile - --no-deps --universal --generate-hashes --no-annotate \
		--no-header --quiet --python-version 3.11.7 -o .ci/hashes.txt
	rm -rf $(VENV)-pins

clean:
	rm -rf $(VENV) build dist src/headrace/native/*.so headrace-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
