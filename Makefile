# Two commands: `make quickstart` runs the main job, `make test` the tests. Each makes .venv if it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# How many processes run the tests side by side, each with one thread.
WORKERS ?= 2

# An environment of its own with exactly the lower bounds of pyproject.toml.
LOWEST ?= .venv-lowest

.PHONY: quickstart test test-slow test-lowest lint docs format clean

quickstart: $(VENV)/.installed
	$(BIN)/python examples/quickstart.py --output_dir outputs/quickstart

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --durations=40 --durations-min=3

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "slow and not gpu" -n $(WORKERS)

test-lowest: $(LOWEST)/.installed-test
	$(LOWEST)/bin/python -m pytest -n $(WORKERS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pylint --jobs $(WORKERS) --disable=all --enable=duplicate-code --min-similarity-lines=10 src/segzoo

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[plot]"
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

$(LOWEST)/.installed-test: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/python -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist outputs site .pytest_cache .ruff_cache .mypy_cache .hypothesis src/segzoo.egg-info
