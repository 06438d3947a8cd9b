# Every target sets up what it needs, in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench bench-micro fix clean

demo: .venv/demo
	$(BIN)/farcall run -p 2 examples/pi.py

test: .venv/test check
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/demo
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/maps.py
	$(BIN)/python benchmarks/timed.py
	$(BIN)/python benchmarks/tls.py

bench-micro: .venv/demo
	cd benchmarks && ../$(BIN)/python -m micro

fix: .venv/test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/bin/python:
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv .venv; }

.venv/demo: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
