# The two commands a new user needs: make demo, make test. Both install what is missing, once.

PYTHON_VENV := .venv/bin/python
# Two workers of one thread each: more threads than cores only wait for each other.
PYTEST_FLAGS ?= -n 2
DEMO_DIR := demo

.PHONY: help demo test lint format clean

help:
	@echo "make demo    install, generate a sample set in $(DEMO_DIR)/ and fit it"
	@echo "make test    install with the test tools, run all tests"
	@echo "make lint    ruff and the import directions"
	@echo "make format  let ruff rewrite the code"
	@echo "make clean   remove .venv/, $(DEMO_DIR)/ and caches"

.venv/.stamp-run: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh run

.venv/.stamp-dev: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh dev

demo: .venv/.stamp-run
	$(PYTHON_VENV) -m fitting.demo $(DEMO_DIR)
	$(PYTHON_VENV) -m fitting.run $(DEMO_DIR)
	@echo "demo: rendered people with known truth in $(DEMO_DIR)/images, fitted them; report: $(DEMO_DIR)/fits/report.html"

test: .venv/.stamp-dev
	OMP_NUM_THREADS=1 $(PYTHON_VENV) -m pytest $(PYTEST_FLAGS)

lint: .venv/.stamp-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

format: .venv/.stamp-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv $(DEMO_DIR) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
