# Every target works as the first command on a fresh clone: it makes .venv from the hashed requirements.lock first.
# Needs Python 3.11 or later, make and a C++ compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
READY := $(VENV)/.ready

# Nothing that runs here asks the network for updates or reports usage.
export NO_ALBUMENTATIONS_UPDATE := 1
export RAY_USAGE_STATS_ENABLED := 0
# Compiled extensions, if a library builds any, stay inside the checkout.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.cache/torch_extensions

# Whoever builds the site here is not told of another program that builds sites.
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test test-fast lint lint-types lint-rest ui explore bench docs lock clean

demo: $(READY)
	$(BIN)/dagster job execute -m assets.definitions -j clip_cid

# One worker more than cores; a file stays with one, and slow ones come first (tests/conftest.py). A thread for each worker:
# two that share a core wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST)

# For the change at hand: what needs no whole run.
test-fast: $(READY)
	$(PYTEST) -m "not slow"

# Types take as long as all the rest: side by side.
lint: $(READY)
	$(MAKE) --no-print-directory --jobs 2 lint-types lint-rest

lint-types:
	$(BIN)/mypy

lint-rest:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m assets.tools.config_reference --check
	$(BIN)/python -m assets.tools.results_page --check
	$(BIN)/mkdocs build --strict --quiet

ui: $(READY)
	$(BIN)/dagster dev -w workspace.yaml --host 127.0.0.1 --port 3000

# The demo's root, or another: make explore ROOT=data/mine
ROOT ?= data/demo
explore: $(READY)
	$(BIN)/clip-cid explore $(ROOT)

bench: $(READY)
	$(BIN)/python -m benchmarks.run

# The settings' reference and the demo's profile from the code, tables from results, then the site, in .cache/site.
docs: $(READY)
	$(BIN)/python -m assets.tools.config_reference
	$(BIN)/python -m assets.tools.results_page
	$(BIN)/mkdocs build --strict --quiet

# After a change of the dependencies in pyproject.toml.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --upgrade --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .cache .dagster data

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode \
		--requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)
