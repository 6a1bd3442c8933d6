# Every target makes .venv first if it is missing. EXTRAS=gpu,dev takes the CUDA engine instead of the CPU one.
EXTRAS ?= cpu,dev
BASE ?= smollm2
DTYPE ?= auto
BIN := .venv/bin
# Bytecode is kept, whatever the shell says: each process that a test starts would compile the services anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

# One more than the cores: tests wait for processes that start and for deadlines that pass.
WORKERS ?= $(shell expr $$(nproc) + 1)
# tests/spreading.py says which tests stay on one worker, and in which order.
SPREAD := -n $(WORKERS) --dist loadscope --no-loadscope-reorder

SDK := tests/e2e/test_sdk_matrix.py tests/e2e/test_tinker_sdk.py tests/e2e/test_cookbook.py tests/e2e/test_verifiers.py
CLIENTS := tests/e2e/test_clients.py tests/e2e/test_other_clients.py tests/e2e/test_openapi.py

PACKAGES := tests/environments

HOSTS := tests/fleet

FAMILIES := tests/e2e/test_families_stack.py

# Engines of these run kernels through an interpreter.
SECOND := tests/integration/loader/test_second_runner.py tests/e2e/test_second_runner_demo.py

# Measures memory, which other tests beside it would take part in.
ALONE := tests/integration/standalone/test_plan_memory.py

BENCH := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m benches

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint check fmt bench bench-loader bench-catalog bench-trainer bench-handoff bench-policies bench-tinker test-sdk test-clients test-trackers test-chart test-compose test-seams test-gpu test-v2 test-rules bench-check paper-training docs dist clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp says which extras are there: others are another installation.
INSTALLED := $(shell cat .venv/.installed 2>/dev/null)
ifneq ($(INSTALLED),$(if $(INSTALLED),$(EXTRAS)))
.PHONY: .venv/.installed
endif

.venv/.installed: pyproject.toml deploy/overrides.txt deploy/overrides-cpu.txt deploy/constraints.txt deploy/install.sh
	@deploy/install.sh $(EXTRAS)

install: .venv/.installed ## Make .venv and install everything into it

demo: .venv/.installed ## Train a policy by RL, serve its revisions, roll back (BASE=tiny takes a minute; DTYPE=bfloat16)
	@$(BIN)/mint demo --base $(BASE) --dtype $(DTYPE) --out out/demo

test: .venv/.installed ## Run every test but the slow ones, on real servers and real engines (WORKERS=3)
	$(PYTEST) $(SPREAD) -m "not slow"

# The ends of the ranges in pyproject.toml, in a venv of its own: highest, or lowest-direct.
RESOLUTION ?= highest
ENDS := out/$(RESOLUTION)
TESTS ?= tests

.PHONY: constraints test-newest
constraints: .venv/.installed ## Renew deploy/constraints.txt: the newest versions that pyproject.toml allows
	$(BIN)/python tools/make_constraints.py

test-newest: ## Run the tests on the newest versions of everything, in out/highest; says what differs and what broke (TESTS=tests/unit)
	@rm -rf $(ENDS)
	@mkdir -p out
	@VENV=$(ENDS) RESOLUTION=$(RESOLUTION) deploy/install.sh $(EXTRAS)
	@$(MAKE) --no-print-directory tests-at BIN=$(ENDS)/bin || { $(ENDS)/bin/python tools/versions.py; exit 1; }
	@$(ENDS)/bin/python tools/versions.py

.PHONY: tests-at
tests-at:
	$(PYTEST) $(SPREAD) -m "not slow" $(TESTS) --deselect tests/unit/repository/test_constraints.py

test-slow: .venv/.installed ## Run the slow tests that have no target of their own (WORKERS=3)
	$(PYTEST) $(SPREAD) -m slow $(addprefix --ignore=,$(SDK) $(CLIENTS) $(PACKAGES) $(FAMILIES) $(HOSTS) $(ALONE) $(SECOND) tests/compose tests/chart tests/console tests/docs tests/trackers tests/seams)
	$(PYTEST) -m slow $(ALONE)

test-sdk: .venv/.installed ## Drive the Tinker SDK's versions, the cookbook and verifiers against a running stack (20 minutes)
	$(PYTEST) -m slow $(SDK)

.PHONY: test-env
test-env: .venv/.installed ## Install packages of environments and run episodes of each, unmodified (15 minutes; fetches them)
	$(PYTEST) -m slow $(PACKAGES)

test-clients: .venv/.installed ## Drive people's clients, unmodified, against running stacks (20 minutes the first time; Node's need npm)
	$(PYTEST) tests/e2e/test_openai_client.py tests/e2e/test_anthropic_client.py $(CLIENTS)

.PHONY: test-families
test-families: .venv/.installed ## Train and serve a tiny model of each family in a whole stack
	$(PYTEST) -m slow $(FAMILIES)

.PHONY: test-trackers
test-trackers: .venv/.installed ## Record jobs at MLflow, trackio, TensorBoard and W&B offline through kills; their own clients read them (5 minutes; fetches them once)
	$(PYTEST) tests/trackers

.PHONY: test-console
test-console: .venv/.installed ## Look at the console in Chromium: every page, live steps, races, axe, screenshots (5 minutes; fetches Playwright once)
	@test -d out/playwright || $(BIN)/python -m pip install -q --target out/playwright "playwright==1.65.2" "axe-playwright-python==0.1.8"
	PYTHONPATH=out/playwright $(PYTEST) tests/console

.PHONY: test-fleet
test-fleet: .venv/.installed ## Kill, freeze and cut off each part of a stack over hosts (25 minutes; root, nftables, haproxy)
	$(PYTEST) $(HOSTS)

test-chart: .venv/.installed ## Render the Helm chart and check every object of it (4 minutes; fetches Helm and schemas once)
	@$(BIN)/python -c "import helm_python, kubernetes_validate" 2>/dev/null || \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint deploy/constraints.txt \
			--requirement deploy/helm/requirements.txt
	$(PYTEST) tests/chart tests/unit/deploy

test-compose: .venv/.installed ## Run the compose stack through podman and docker-compose: jobs, crashes of each part (30 minutes)
	$(PYTEST) -m slow tests/compose

test-gpu: .venv/.installed ## Run the tests for a GPU (15 minutes on an H100; two GPUs: all); skipped without one
	$(PYTEST) -W default -m gpu tests/gpu

test-v2: .venv/.installed ## Run the loader's tests and the demo on vLLM's second runner, CUDA's, by Triton's interpreter (20 minutes)
	$(PYTEST) -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(SECOND)

test-seams: .venv/.installed ## Compare what the loader uses of vLLM with the official CUDA build, which is not installed
	$(PYTEST) -m seams tests/seams

test-rules: .venv/.installed ## Run the alerts' tests and parse every expression of the dashboards (promtool; skipped without)
	$(PYTEST) -rs tests/unit/repository/test_observability.py

lint: .venv/.installed ## Format, lint, types, import contracts, generated docs
	@$(MAKE) --no-print-directory --jobs 2 lint-types lint-rest

.PHONY: lint-types lint-rest
lint-types:
	$(BIN)/mypy

lint-rest:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python tools/make_docs.py --check
	$(BIN)/python tools/check_words.py

check: lint ## Lint, and the fast tests
	$(PYTEST) $(SPREAD) -q tests/unit tests/sim

fmt: .venv/.installed ## Format, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.installed ## Run every benchmark: JSON and plots in out/bench
	$(BENCH)

bench-loader: .venv/.installed ## Run the loader's benchmarks
	$(BENCH) loader

bench-catalog: .venv/.installed ## Run the catalog's benchmark at a million policies (POLICIES=20000: smaller)
	$(BENCH) catalog $(if $(POLICIES),--policies $(POLICIES))

bench-trainer: .venv/.installed ## Run the trainer's benchmarks
	$(BENCH) trainer dtypes operations

.PHONY: bench-jobs
bench-jobs: .venv/.installed ## Run the benchmarks of jobs on files: training against TRL, which goes into out/trl
	$(BENCH) jobs jobs_ingest jobs_graders

bench-handoff: .venv/.installed ## Run the hand-over benchmark: adapter against merged model
	$(BENCH) handoff

.PHONY: bench-rollout
bench-rollout: .venv/.installed ## Run the benchmarks of sampling ahead and of the costs of episodes
	$(BENCH) rollout fleet_rollout episodes

.PHONY: bench-fleet
bench-fleet: .venv/.installed ## Run the benchmarks of a fleet: relays to one NATS server and to three, a second trainer, a new engine, conversations over four engines, and the simulated fleet
	$(BENCH) fleet_bus trainer_pool engine_join engine_prefixes fleet

.PHONY: bench-console
bench-console: .venv/.installed ## Time the console's pages over a stack with 100,000 policies, and 50 viewers of a job (POLICIES=1000000: more)
	$(BENCH) console $(if $(POLICIES),--policies $(POLICIES))

bench-policies: .venv/.installed ## Run the benchmark of three policies at once
	$(BENCH) policies

paper-training: .venv/.installed ## Print the paper's tables of hand-over and of concurrent policies, at our scale
	$(BENCH) paper_training

bench-tinker: .venv/.installed ## Run the Tinker API's benchmark: against the bare loop, through the official SDK
	$(BENCH) tinker

.PHONY: soak
soak: .venv/.installed ## Load a stack for an hour (MINUTES=60; LOAD=steps: training alone): fails if memory, files or rows grow
	$(BENCH) soak --minutes $(or $(MINUTES),60) --load $(or $(LOAD),all)

bench-check: .venv/.installed ## Compare what was measured last with the baselines
	$(BENCH) --check

.PHONY: site test-docs
site: .venv/.installed ## Build the documentation as a site into out/site; a wrong link or anchor fails it
	@$(BIN)/python -c "import material, mkdocs_swagger_ui_tag" 2>/dev/null || \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint deploy/constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

test-docs: .venv/.installed ## Run every command of README and of the Start pages as pasted, in a copy of the checkout
	$(PYTEST) -m slow tests/docs

dist: .venv/.installed ## Build wheel, sdist, the client's wheel and SBOM into dist/, with the constraints and overrides that an installation takes
	rm -rf dist
	$(BIN)/uv build --quiet --build-constraint deploy/constraints.txt --out-dir dist
	$(BIN)/uv build --quiet --build-constraint deploy/constraints.txt --out-dir dist --wheel libs/mint_client
	cp deploy/overrides.txt deploy/overrides-cpu.txt deploy/constraints.txt dist/
	$(BIN)/uv tool run --quiet --constraints deploy/constraints.txt --from cyclonedx-bom cyclonedx-py environment --output-reproducible --output-file dist/mint.cdx.json $(BIN)/python

docs: .venv/.installed ## Regenerate the generated documents
	$(BIN)/python tools/make_docs.py

clean: ## Remove .venv, caches and out/
	rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
