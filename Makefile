# Each target sets itself up: a virtual environment in .venv, with the versions pinned in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
SEED ?= 1
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
export NO_MKDOCS_2_WARNING ?= 1

.PHONY: quickstart tune-demo serve test test-all coverage check docs package lock mutants clean

quickstart: $(VENV)/ready
	$(BIN)/mithridate run recipes/quickstart.yaml --out runs/quickstart --jobs $(JOBS)

# Three uploads of the embedded world, three decisions.
tune-demo: $(VENV)/ready
	$(BIN)/python examples/tune_uploads.py

# The fine-tuning service on the embedded defaults; `make serve FOLDER=… PORT=…`.
FOLDER ?= runs/service
PORT ?= 8000
serve: $(VENV)/ready
	$(BIN)/mithridate service start --folder $(FOLDER) --port $(PORT)

test: $(VENV)/ready
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not slow" tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile portfolio/tests

# Every random case, every pairing of methods with adapters, and what needs DeepSpeed or quantized bases; meant for every
# night, not for every commit.
test-all: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bitsandbytes,deepspeed]'
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile portfolio/tests

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --markdown-docs -m markdown-docs README.md docs
	$(BIN)/python -m pytest -q tests/tools/test_site.py tests/typing
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	cd portfolio && ../$(BIN)/ruff check . && ../$(BIN)/ruff format --check . && ../$(BIN)/mypy

# The tests of every commit with the lines and branches they reach; fails below the figure in pyproject.toml.
coverage: $(VENV)/ready
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not slow" --cov --cov-report=term:skip-covered tests

# The generated pages, and the site in build/site.
docs: $(VENV)/ready
	$(BIN)/python -m tools.method_pages
	$(BIN)/python -m tools.which_defense
	$(BIN)/python -m tools.attacks_table
	$(BIN)/mkdocs build --strict --quiet

# Wheel and sdist in dist/; the wheel is installed into an empty environment and tried.
package: $(VENV)/ready
	rm -rf dist build/lib build/package
	$(BIN)/python -m build --quiet
	$(PYTHON) -m venv build/package
	build/package/bin/python -I -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	build/package/bin/python -I -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/package && bin/python -I $(CURDIR)/tools/smoke.py $(CURDIR)/dist

# The pinned versions with the hashes of all their files. Without PyTorch, whose build belongs to the machine.
LOCKED = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-package torch --excludes lock/without.txt --constraints constraints.txt --custom-compile-command "make lock"
lock: $(VENV)/ready
	$(LOCKED) --upgrade --extra dev --output-file lock/mithridate.txt pyproject.toml
	$(LOCKED) --upgrade --extra dev --output-file lock/portfolio.txt portfolio/pyproject.toml

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
