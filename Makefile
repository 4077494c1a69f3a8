# Every target sets up .venv by itself. Needs Python 3.11 or newer and a way to PyPI; no root, compiler, CUDA or EGL
# (test-scatter alone needs a C++ compiler).
#
#   make demo PYTHON=/path/to/python3.12     another interpreter
#   make demo PIP_ARGS="--index-url URL"     more arguments for pip, such as an index that holds CPU builds of torch

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter that really runs (a pyenv shim may not), is new enough and can make environments.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if "$$p" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo "$$p"; break; fi; done)
PIP_ARGS ?=
JOBS ?= 2
DATA ?= ../shared/data/meshes

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
SCATTER := .venv-scatter
TEST := $(PY) -m pytest -n auto --dist worksteal

DOCS := $(VENV)/bin/sphinx-build -W --keep-going -q -d out/doctrees docs out/site

.PHONY: help demo demo-video demo-bend thousand test check docs bench test-scatter format

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'

demo: $(INSTALLED) ## learn real objects, build a room, render it, move one, render again: pictures in out/demo/
	$(PY) examples/demo.py

demo-video: $(INSTALLED) ## film things that fall, make a scene of the clip alone, take one out, film again: out/demo-video/
	$(PY) examples/demo_video.py

demo-bend: $(INSTALLED) ## learn a thing that bends, film twenty of it at different phases beside a skinned glTF file: out/demo-bend/
	$(PY) examples/demo_bend.py

thousand: $(INSTALLED) ## learn a thousand objects (takes long; goes on after a kill), a stand of them: out/thousand/
	$(PY) -m examples.thousand

test: $(INSTALLED) ## all tests, on all cores; what the machine lacks (EGL) is skipped with its reason
	$(TEST)

check: $(INSTALLED) ## formatting, lint, types, documentation, then all tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(DOCS)
	$(TEST)

docs: $(INSTALLED) ## the documentation: out/site/index.html
	$(DOCS)

format: $(INSTALLED) ## put formatting and imports right
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(INSTALLED) ## all benchmarks, JSON in out/bench/; those of learning take the meshes in DATA
	$(PY) -m benchmarks.compose
	$(PY) -m benchmarks.scene
	$(PY) -m benchmarks.scale
	$(PY) -m benchmarks.export
	$(PY) -m benchmarks.view
	$(PY) -m benchmarks.identity
	$(PY) -m benchmarks.certify
	$(PY) -m benchmarks.distinct
	$(PY) -m benchmarks.fuzz
	$(PY) -m benchmarks.parts --stride 16
	$(PY) -m benchmarks.views --set speed posed without-depth disturbed $(if $(wildcard $(DATA)/../lego),lego --lego $(DATA)/../lego) \
		$(if $(wildcard $(DATA)/../room_hololens),room --room $(DATA)/../room_hololens)
	$(PY) -m benchmarks.views --set few --steps 300
	@if [ -d "$(DATA)" ]; then \
		$(PY) -m benchmarks.fit --data "$(DATA)" && $(PY) -m benchmarks.render_check --data "$(DATA)" && \
		$(PY) -m benchmarks.distances --data "$(DATA)"; \
	else echo "benchmarks.fit, benchmarks.render_check and benchmarks.distances skipped: no folder $(DATA) (make bench DATA=FOLDER)"; fi

test-scatter: $(SCATTER)/.installed ## build torch-scatter from source (5-10 minutes) and run the parity tests against it
	PYTHONPATH=$(SCATTER) SIRENSCAPE_REQUIRE_SCATTER=1 $(PY) -m pytest tests/compose/test_segments.py

$(INSTALLED): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Sirenscape needs Python 3.11 or newer with the venv module (Debian, Ubuntu: apt install python3-venv);" \
			"none was found. Name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "Setting up $(VENV) with $(PYTHON), a few minutes the first time" >&2
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt -e '.[demo,bench,photos,usd,view,docs,dev]'
	@touch $@

# Beside .venv, not in it: the default tests must not depend on whether this was ever run.
$(SCATTER)/.installed: $(INSTALLED)
	@command -v c++ >/dev/null || { echo "test-scatter compiles torch-scatter: it needs a C++ compiler (c++)" >&2; exit 1; }
	@echo "Building torch-scatter from source, 5-10 minutes" >&2
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt setuptools wheel
	rm -rf $(SCATTER)
	MAX_JOBS=$(JOBS) $(PIP) install -q $(PIP_ARGS) --no-build-isolation --no-deps --target $(SCATTER) \
		-c constraints.txt torch-scatter
	@touch $@
