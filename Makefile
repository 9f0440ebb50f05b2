# Verger. `make run` and `make test` prepare the machine first; the work is in scripts/setup, quick when there is none.
#   ARGS    goes to the command: make test ARGS="-k claim -x"
#   PYTHON  another interpreter for .venv: make test PYTHON=python3.12

.DEFAULT_GOAL := help
OTHER_RABBITMQ = $(if $(filter 4,$(RABBITMQ)),TESTS_RABBITMQ=.cache/rabbitmq-4)
.PHONY: help run test bench faults soak fuzz check format setup clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Run Verger on this machine: all roles in one process, with a MongoDB and demo data of its own
	@scripts/setup run
	@exec .venv/bin/verger dev $(or $(ARGS),--demo --schedules examples/schedules.json)

test: ## Run the tests, on a real MongoDB and a real RabbitMQ
	@scripts/setup test
	@exec .venv/bin/python -m pytest $(ARGS)

bench: ## Measure Verger beside its peers, and write bench/report.md: about 40 minutes
	@scripts/setup bench
	@exec .venv/bin/python -m bench $(ARGS)

faults: ## Do to Verger what docs/fault-matrix.md says, and write that page: make faults RABBITMQ=4; about 30 minutes
	@scripts/setup faults
	@exec env $(OTHER_RABBITMQ) .venv/bin/python -m tests.faults $(ARGS)

soak: ## Random faults at half load: make soak SEED=7 MINUTES=5 RABBITMQ=4; 20 minutes unless told otherwise
	@scripts/setup faults
	@exec env $(OTHER_RABBITMQ) .venv/bin/python -m tests.faults.soak $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

fuzz: ## Feed what reads strangers' bytes, for a minute each, unless told otherwise: make fuzz ARGS="crontab --seconds 600"
	@scripts/setup fuzz
	@exec .venv/bin/python -m tests.hostile.fuzz $(ARGS)

check: ## Check style, format, types and layers
	@scripts/setup check
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m mypy
	.venv/bin/python -m pytest -q tests/test_layering.py

format: ## Format the code, and mend what can be mended
	@scripts/setup check
	.venv/bin/python -m ruff check --fix
	.venv/bin/python -m ruff format

setup: ## Prepare this machine for run, test, check and format
	@scripts/setup test

clean: ## Remove what was built; the data of `make run` in .verger stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf bench/peers/.venv bench/peers/agenda/node_modules bench/results-quick bench/results-some
	find . -name __pycache__ -prune -exec rm -rf {} +
