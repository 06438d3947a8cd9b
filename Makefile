# Every target sets up what it needs, in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-clusters test-others test-containers check bench bench-speedup bench-micro notebook fix lock clean

demo: .venv/demo
	$(BIN)/farcall run -p 2 examples/pi.py

# Three parts at the same time, for they wait more than they compute; each says what it has to say when it has ended.
CLUSTERS := tests/real tests/engines tests/network tests/integrations tests/node tests/maps tests/remote
CONTAINERS := tests/deploy/test_images.py

test: .venv/test check
	$(MAKE) --jobs=3 --output-sync=target test-clusters test-others test-containers

test-clusters: .venv/test
	$(BIN)/python -m pytest $(CLUSTERS)

test-others: .venv/test
	$(BIN)/python -m pytest $(addprefix --ignore=,$(CLUSTERS) $(CONTAINERS))

test-containers: .venv/test
	$(BIN)/python -m pytest $(CONTAINERS)

check: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/bench
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/maps.py
	$(BIN)/python benchmarks/timed.py
	$(BIN)/python benchmarks/linalg.py
	$(BIN)/python benchmarks/ode.py
	$(BIN)/python benchmarks/tls.py
	$(BIN)/python benchmarks/clusters.py
	$(BIN)/python benchmarks/forwarded.py

# As root: twenty workers on ten hosts, in a quarter of an hour or more.
bench-speedup: .venv/demo
	$(BIN)/python benchmarks/speedup.py

bench-micro: .venv/demo
	cd benchmarks && ../$(BIN)/python -m micro

# On a machine that has nothing else to do, for the notebook shows how long things took.
notebook: .venv/test
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False examples/notebooks/*.ipynb
	$(BIN)/python tests/lab.py docs/notebook.png

fix: .venv/test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The versions in the image, for every Python at once; those that are there stay if they can.
lock: .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra image \
		--no-emit-package farcall --annotation-style line pyproject.toml --output-file deploy/docker/requirements.txt

.venv/bin/python:
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv .venv; }

.venv/demo: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	touch $@

.venv/bench: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
