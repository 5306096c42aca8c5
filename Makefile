# Each target sets itself up: a virtual environment in .venv, with the versions pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
SEED ?= 1
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: quickstart test test-all check mutants clean

quickstart: $(VENV)/ready
	$(BIN)/mithridate run recipes/quickstart.yaml --out runs/quickstart --jobs $(JOBS)

test: $(VENV)/ready
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not slow" tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile portfolio/tests

# Every random case and every pairing of methods with adapters; meant for every night, not for every commit.
test-all: $(VENV)/ready
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile portfolio/tests

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --markdown-docs -m markdown-docs README.md docs
	cd portfolio && ../$(BIN)/ruff check . && ../$(BIN)/ruff format --check . && ../$(BIN)/mypy

# Faults put into the code one at a time: `make mutants SAMPLE=300 SEED=1` draws some, `make mutants` takes all of them,
# which is a night's work. Prints one JSON object.
mutants: $(VENV)/mutants-ready
	$(BIN)/python -m benchmarks.mutants $(if $(SAMPLE),--sample $(SAMPLE)) --seed $(SEED) --jobs $(JOBS)

$(VENV)/mutants-ready: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	touch $@

$(VENV)/ready: pyproject.toml portfolio/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e './portfolio[dev]'
	touch $@

clean:
	rm -rf $(VENV) mutants runs build dist
