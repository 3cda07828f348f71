# Two commands from nothing: `make demo` runs the main job on real text, `make test` passes the tests.
# Both make a virtual environment in .venv and install into it what they need.

PYTHON ?= python3
VENV ?= .venv
PRESET ?= small
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint check bench install clean

demo: $(STAMP)
	$(BIN)/heredity demo --preset $(PRESET) -o runs/demo-$(PRESET)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# The 1.1 B families of the documentation are made by the same files: see their --help. Here: a small one.
bench: $(STAMP)
	$(BIN)/python benchmarks/gram.py --quick
	$(BIN)/python benchmarks/synthetic.py runs/bench/family --preset small --models a b c
	$(BIN)/python benchmarks/merge.py runs/bench/family runs/bench/out --no-peer

install: $(STAMP)

# A torch that is in the environment already (any build of the pinned version) is kept.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[models,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
