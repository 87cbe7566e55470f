# Every target brings what it needs; only make and a Python >= 3.11 have to be there.
# ARGS goes to the program that a target runs: make run ARGS="--port 9000", make test ARGS="-k keys".

SHELL = /bin/sh
VENV = .venv
BIN = $(VENV)/bin
BOOTSTRAP = @sh scripts/bootstrap --venv $(VENV)
ARGS =

.PHONY: help run test adversity money smoke lint fmt bench gauge compare loadtest lock image-check clean

help:
	@echo 'make run          install, then serve the demo and print a curl that works as pasted'
	@echo 'make test         the whole test suite against real PostgreSQL and Redis'
	@echo 'make adversity    the long campaign of attacks, faults and load; hours'
	@echo 'make money        every case of lost, doubled or overspent money, played at length'
	@echo 'make smoke        wheel, clean environment, server, two requests, the usage record'
	@echo 'make lint         ruff, mypy, import order, cython-lint'
	@echo 'make fmt          put the code into its format'
	@echo 'make bench        time each compiled function'
	@echo 'make gauge        CPU time of our own code a request and a chunk, without sockets'
	@echo 'make compare      CPU time a request, side by side with nginx and other gateways'
	@echo 'make loadtest     locust on the mock provider: a ramp and a spike, no failure allowed'
	@echo 'make lock         write requirements/*.lock anew (ARGS=--upgrade takes newer versions)'
	@echo 'make image-check  run the steps of the Dockerfile without a Docker engine (as root)'
	@echo 'make clean        remove everything that was made, but not fastgw-data'

run:
	$(BOOTSTRAP) run
	@exec $(BIN)/fastgw serve --demo $(ARGS)

test:
	$(BOOTSTRAP) run test
	$(BIN)/python -m pytest -n 2 --benchmark-disable $(ARGS)

# ARGS=--short runs every script as `make test` does.
ADVERSITY = dying_provider deliveries relay_fidelity broken_answers drain reloads killed_worker wire.slow \
	slow_readers idle_streams mutated_requests fuzz soak

adversity:
	$(BOOTSTRAP) run test fuzz
	@failed=; for name in $(ADVERSITY); do \
		$(BIN)/python -m tests.adversity.$$name $(ARGS) || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

MONEY = $(sort $(basename $(notdir $(wildcard tests/money/m[0-9][0-9]_*.py))))

money:
	$(BOOTSTRAP) run test
	@failed=; for name in $(MONEY); do \
		$(BIN)/python -m tests.money.$$name $(ARGS) || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

smoke:
	$(BOOTSTRAP) run test
	$(BIN)/python scripts/smoke.py $(ARGS)

lint:
	$(BOOTSTRAP) run lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@PATH="$$(cd $(BIN) && pwd):$$PATH" cython-lint fastgw

fmt:
	$(BOOTSTRAP) run lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench:
	$(BOOTSTRAP) run test
	$(BIN)/python -m pytest bench --benchmark-only $(ARGS)

gauge:
	$(BOOTSTRAP) run test
	$(BIN)/python -m bench.gauge $(ARGS)

compare:
	$(BOOTSTRAP) run test
	$(BIN)/python -m bench.compare $(ARGS)

loadtest:
	$(BOOTSTRAP) run test
	$(BIN)/python -m loadtest.run $(ARGS)

# test and lint are held to what run and build chose, so that one environment can hold them all.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --annotation-style line --custom-compile-command 'make lock' $(ARGS)
CLIENTS = tests/contract/clients
lock:
	$(BOOTSTRAP) lock
	$(COMPILE) --group build -o requirements/build.lock
	$(COMPILE) --group lock -o requirements/lock.lock
	$(COMPILE) pyproject.toml -o requirements/run.lock
	$(COMPILE) pyproject.toml --group test -c requirements/run.lock -o requirements/test.lock
	$(COMPILE) --group fuzz -o requirements/fuzz.lock
	for name in openai-1 anthropic-0 current; do $(COMPILE) $(CLIENTS)/$$name.in \
		-o $(CLIENTS)/$$name.lock || exit 1; done
	$(COMPILE) --group lint -c requirements/run.lock -c requirements/build.lock \
		-o requirements/lint.lock

image-check:
	$(BOOTSTRAP) run test
	$(BIN)/python scripts/image_check.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV).gone build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache .benchmarks bench/bin
	find fastgw tests bench loadtest scripts -name __pycache__ -exec rm -rf {} +
	find fastgw -name '*.so' -delete
