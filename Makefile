# make demo: the whole chain on the embedded data.  make test: the test suite.  Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-gguf test-slow lint data clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/smolalign run recipes/nano/pipeline.yaml

# Two files at once, the longest first (tests/conftest.py); threads that wait for work leave the core to others.
test: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -m "not slow and not gguf" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The tests of the real SmolLM2-135M checkpoint that take minutes (see docs/testing.md).
test-gguf: .venv/installed
	$(BIN)/pytest -m "gguf and not slow" -rs

# Half an hour: the whole nano chain with its goals, and LoRA on the real checkpoint and published data.
test-slow: .venv/installed
	$(BIN)/pytest -m slow -rs

lint: .venv/installed
	$(BIN)/ruff check smolalign data tests benchmarks
	$(BIN)/ruff format --check smolalign data tests benchmarks
	$(BIN)/mypy

# The embedded data, byte for byte.
data: .venv/installed
	$(BIN)/python -m data.generators

clean:
	rm -rf .venv runs dist
