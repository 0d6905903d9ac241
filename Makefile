# `make` alone explains the targets.

PYTHON ?= python3
DEMO_OUTPUT := results/demo
WORKERS ?= 3
FUZZ ?= --seconds 3600

# Nothing of the user's own Python leaks into the environment, and pip installs into it alone.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
export PYTHONNOUSERSITE := 1
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `python -m`, not the scripts in .venv/bin: those stop working when the folder is moved.
RUN := PATH="$$PWD/.venv/bin:$$PATH" python -m
PIP_INSTALL := .venv/bin/python -m pip install -c envs/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help env demo test lint floors types fuzz clean

help:
	@echo "make env    make the environment .venv from envs/ (Python 3.11 or newer; PYTHON=python3.12 picks another)"
	@echo "make demo   make env, then run the workflow on a small example, no GPU or hub needed: $(DEMO_OUTPUT)"
	@echo "make lint   make env, then ruff, snakefmt, snakemake --lint, mypy and which module may import which"
	@echo "make test   make lint, then the tests, WORKERS=3 files at a time (one of them waits for Slurm most of its time)"
	@echo "make fuzz   an hour of broken data files, configs, runs, states and models, none of which may end in a traceback"
	@echo "make clean  remove .venv and caches; results/ and .snakemake/ (the record of how they were made) stay"

env: .venv/.installed
	@echo "The environment is .venv. In each terminal make it active first: . .venv/bin/activate"

demo: .venv/.installed
	$(RUN) snakemake --profile profiles/local --configfile=examples/demo.yaml
	@echo "report:  $(DEMO_OUTPUT)/report.html"
	@echo "tables:  $(DEMO_OUTPUT)/tables"
	@echo "figures: $(DEMO_OUTPUT)/figures"

test: lint
	$(RUN) pytest -n $(WORKERS) --no-loadscope-reorder

lint: .venv/.installed-dev
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) snakefmt --check Snakefile rules
	$(RUN) snakemake --lint
	$(MAKE) floors
	$(MAKE) types

# Which module may import which: .importlinter.
floors: .venv/.installed-dev
	PYTHONPATH=workflow_scripts .venv/bin/python -c 'from importlinter.cli import lint_imports_command as run; run()'

# pyproject.toml says which rooms are checked how strictly; the first call takes about a minute, later ones seconds.
types: .venv/.installed-dev
	$(RUN) mypy

# Not part of `make test`. Inputs that fail are kept in fuzz-findings/.
fuzz: .venv/.installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=tests/fuzz:tests/helpers:workflow_scripts .venv/bin/python tests/fuzz/fuzz.py $(FUZZ)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache
	find workflow_scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: results/ and .snakemake/; remove both together, for without .snakemake/ a changed setting reruns nothing"

# A stamp is written last, so a failed installation leaves none and the next call starts again.
.venv/.installed: envs/requirements.txt envs/constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; }
	@rm -f .venv/.installed .venv/.installed-dev
	"$(PYTHON)" -m venv .venv
	$(PIP_INSTALL) -r envs/requirements.txt
	@touch .venv/.installed

.venv/.installed-dev: .venv/.installed envs/requirements-dev.txt
	@rm -f .venv/.installed-dev
	$(PIP_INSTALL) -r envs/requirements-dev.txt
	@touch .venv/.installed-dev
