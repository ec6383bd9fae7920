# Each target makes the environment that it needs. `make PYTHON=python3.12 test` takes another Python.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/tangram/v1/*.proto)
PROTOC = $(BIN)/python -m grpc_tools.protoc -I proto
GENERATED_IN = --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1)

.PHONY: demo test lint bench proto clean

demo: $(VENV)/.with-demo
	$(BIN)/tangram demo

test: $(VENV)/.with-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.with-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy tangram tests
	@# Each example is a program of its own, so several may have a main.py.
	for example in examples/*/; do $(BIN)/mypy $$example || exit 1; done
	$(BIN)/lint-imports
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) $(call GENERATED_IN,$$fresh) $(PROTOS) && \
	diff -r -x __pycache__ -x __init__.py "$$fresh/tangram/v1" tangram/v1 || \
	{ echo "tangram/v1 is not what proto/ says: make proto"; exit 1; }

bench: $(VENV)/.with-bench
	$(BIN)/python -m tests.bench

proto: $(VENV)/.with-dev
	$(PROTOC) $(call GENERATED_IN,.) $(PROTOS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	.import_linter_cache

# uv installs in a third of the time. Without it, pip comes from where this machine has it: with
# Python itself (ensurepip, which Debian keeps in python3-venv), or as Debian's python3-pip.
$(VENV)/.with-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Tangram needs Python 3.11 or later, which $(PYTHON) is not: make PYTHON=python3.11 ..."; \
	exit 1; }
	@if command -v uv >/dev/null; then \
	test -x $(BIN)/python || uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	uv pip install --quiet --python $(BIN)/python -e '.[$*]'; \
	else \
	$(MAKE) --no-print-directory $(BIN)/pip && $(BIN)/python -m pip install --quiet -e '.[$*]'; \
	fi
	@touch $@

$(BIN)/pip:
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	$(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	$(PYTHON) -m venv --without-pip $(VENV) && \
	$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	else \
	echo "apt-get install python3-venv"; \
	exit 1; \
	fi
