# The verbs of this repository. `make help` lists them; each does all the set-up that it needs.

.DEFAULT_GOAL := help
.PHONY: help up down status doctor demo-scaling test test-unit test-integration test-e2e test-full chaos fuzz check bench gen picture screenshots sync sync-run

# uv trusts a list of authorities of its own unless told; the system's list knows a company's too.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS := 1
endif

# uv from PATH or the user's cache; looked up when a verb needs it, and once.
uv = $(eval uv := $$(shell scripts/bootstrap.sh))$(if $(uv),$(uv),$(error uv could not be installed, see above))
run := .venv/bin/
# Said to make, these names are meant for us. In the environment they may be somebody else's.
settings = $(foreach name,KAFKA LOGS TRAFFIC,$(if $(filter command,$(origin $(name))),FRAUDSCALE_$(name)='$($(name))'))
# Unit tests share nothing. Files of integration tests share what each of two processes starts, and wait for it most of
# the time. A platform takes the whole machine.
side_by_side := --numprocesses logical --maxprocesses 4
two_files := --numprocesses 2 --dist loadfile
marked := -m "not slow"

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: sync-run ## Start the whole platform on this machine; Ctrl-C stops it (TRAFFIC=0: without sample transactions; KAFKA=zookeeper: on Kafka 3.9; LOGS=opensearch: with central logs)
	@$(settings) $(run)fraudscale up

down: sync-run ## Stop the platform, and what a crashed run left
	@$(run)fraudscale down

status: sync-run ## Tell what runs
	@$(run)fraudscale status

doctor: sync-run ## Examine this machine: versions, tools, ports, memory, disk
	@$(settings) $(run)fraudscale doctor

demo-scaling: sync-run ## Load the platform until it goes 4 → 5 → 6 → 5 → 4, and compare with the rehearsal (TIME_SCALE=10: in three minutes)
	@$(settings) $(run)fraudscale demo-scaling

test: test-unit test-integration test-e2e ## Run the unit, integration and e2e tests that are not slow (about 14 minutes)

test-full: marked := -m slow
test-full: test-integration test-e2e ## Run the slow ones of the integration and e2e tests

test-unit: sync ## Run the unit tests
	$(run)pytest tests/unit $(side_by_side)

test-integration: sync ## Run the tests on a real broker, MLflow, Prometheus …
	$(run)pytest tests/integration $(marked) $(two_files)

test-e2e: sync ## Run the tests on whole platforms
	$(run)pytest tests/e2e $(marked)

chaos: sync ## Kill Kafka consumers and brokers for many rounds, and count every record (ROUNDS=40 SEED=… KAFKA=zookeeper)
	$(run)pytest tests/integration/test_chaos.py -m slow -k "random and $(or $(KAFKA),kraft)" -s --timeout 3600 --rounds $(or $(ROUNDS),40) $(if $(SEED),--seed $(SEED))

fuzz: sync ## Send odd requests to every HTTP server, and look for 500, hangs and growth (REQUESTS=100000 SEED=…)
	$(run)pytest tests/integration/test_http_fuzz.py -m slow -s --timeout 3600 --requests $(or $(REQUESTS),100000) $(if $(SEED),--seed $(SEED))

check: sync ## Formatting, lint, types, layers, that lock and generated files are current, and what the unit tests cover
	$(run)ruff format --check
	$(run)ruff check
	$(run)mypy
	$(run)lint-imports --no-cache
	$(run)python scripts/check_structure.py
	$(uv) lock --check
	$(run)python scripts/generate.py --check
	$(call requirements) | diff -u requirements.txt - || { echo 'requirements.txt is not current: make gen'; exit 1; }
	$(run)pytest tests/unit $(side_by_side) --cov --cov-report=
	$(run)python scripts/check_coverage.py

bench: sync ## Run the benchmarks; tables here, figures in benchmarks/results/
	@code=0; for file in benchmarks/*.py; do echo "== $$file"; $(run)python $$file || code=1; done; exit $$code

gen: sync ## Write the files that are generated from the code and the lock
	$(run)python scripts/generate.py
	$(call requirements) > requirements.txt

picture: sync ## Run the platform and draw its terminal for the README (docs/images/up.svg)
	$(run)python scripts/picture.py

screenshots: sync ## Take pictures of the console of the platform that runs (docs/images/console*.png); needs Chromium
	@$(run)python scripts/screenshots.py

requirements = $(uv) export --quiet --frozen --no-default-groups --no-hashes --no-emit-project --no-header

# What tests and checks need; then what running needs, which leaves the rest of an environment alone.
sync:
	@$(uv) sync --frozen
sync-run:
	@$(uv) sync --frozen --inexact --no-group dev
