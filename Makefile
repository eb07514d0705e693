# make          what can be made
# make demo     install, then the main job: masks for expressions, expressions for objects, a page
# make studies  measure the bundled vega-scenes and rewrite docs/results.md;
#               JUDGE=RUN STEPS=RUN: mutual-scenes, too, by a judge, and the run that made it
# make bench    time and memory
# make test     every test; make check: format, lint, types, import levels, docs match --help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help venv demo test check format docs studies bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

venv: $(READY)

# torch is pinned in constraints.txt: unpinned, pip would fetch several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/refseg demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_levels.py tests/test_docs.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m refseg.cli.docs

studies: $(READY)
	$(BIN)/python -m studies.vega all
	$(if $(JUDGE),$(BIN)/python -m studies.mutual scenes --judge $(JUDGE) --run $(STEPS))
	$(BIN)/python -m studies.results

bench: $(READY)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf demo out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
