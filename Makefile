VENV ?= .venv
PYTHON ?= $(if $(wildcard $(VENV)/.made),$(VENV)/bin/python,python3)
PYTEST_ARGS ?=
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
SERVE_SETTINGS := MODEL HOST HTTP_PORT GRPC_PORT METRICS_PORT DEVICE DTYPE FRONT_ENDS

# Only what is on make's command line: HOST and the like may be in the environment by chance.
is_given = $(filter command%,$(origin $(1)))
option_name = --$(shell echo $(1) | tr A-Z_ a-z-)
serve_options = $(foreach name,$(SERVE_SETTINGS),\
	$(if $(call is_given,$(name)),$(call option_name,$(name)) '$($(name))'))
settings := VENV PYTHON PYTEST_ARGS ARGS GATEWAY_PORT $(SERVE_SETTINGS)
unknown := $(filter-out $(settings),$(foreach name,$(.VARIABLES),$(if $(call is_given,$(name)),$(name))))
$(if $(unknown),$(error there is no setting $(unknown); there are $(settings)))
gateway_port = $(if $(call is_given,GATEWAY_PORT),$(GATEWAY_PORT),9000)

# It wants an older huggingface-hub than transformers does: so beside the environment.
LITELLM := .runtime/litellm-1.106.2

.DEFAULT_GOAL := help
.PHONY: help serve test k8s-check drills bench-engine bench-memory bench-serving bench-cache bench-batch bench-gateway bench-tasks loadtest check install clean host

help: ## This text
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "serve takes $(SERVE_SETTINGS) GATEWAY_PORT,"
	@echo "a port of 0 being any free one, and in ARGS any other option of tritonlm serve --help:"
	@echo "make serve MODEL=gpt2 ARGS=\"--max-num-seqs 64\""
	@echo "PYTHON is the interpreter to make the environment VENV with."

serve: $(VENV)/.installed ## Install what is missing, serve MODEL (the demo unless set) until Ctrl-C
	@exec $(BIN)/tritonlm serve --gateway-port $(gateway_port) $(serve_options) $(ARGS)

test: $(VENV)/.installed-dev $(LITELLM) ## Run the tests, with PYTEST_ARGS
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit $(PYTEST_ARGS)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/integration $(PYTEST_ARGS)
	$(BIN)/python -m pytest tests/drills $(PYTEST_ARGS)

drills: $(VENV)/.installed-dev ## Kill, hang and crowd servers under load: some ten minutes
	$(BIN)/python -m pytest tests/drills -m 'drill or not drill' $(PYTEST_ARGS)

bench-engine: $(VENV)/.installed ## Measure the engine beside others; ARGS=--help
	$(BIN)/python -m benchmarks.engine $(ARGS)

bench-memory: $(VENV)/.installed ## Watch the engine's memory over 10,000 requests
	$(BIN)/python -m benchmarks.memory $(ARGS)

bench-serving: $(VENV)/.installed ## Measure a server as clients see it; ARGS=--help
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-cache: $(VENV)/.installed ## Measure what an answer from the gateway's cache saves
	$(BIN)/python -m benchmarks.cache $(ARGS)

bench-batch: $(VENV)/.installed ## Measure batches: padded, Triton's, continuous; ARGS=--help
	$(BIN)/python -m benchmarks.batches $(ARGS)

bench-tasks: $(VENV)/.installed ## Measure what batches of embeds are worth; ARGS=--help
	$(BIN)/python -m benchmarks.tasks $(ARGS)

bench-gateway: $(VENV)/.installed ## Measure what the gateway costs; ARGS=--help
	$(BIN)/python -m benchmarks.gateway $(ARGS)

loadtest: $(VENV)/.installed-dev ## Load every way in for 20 s, of HOST or a server of its own
	$(BIN)/python -m loadtests $(if $(call is_given,HOST),--server '$(HOST)') \
		--users 7 --spawn-rate 7 --run-time 20s --slo loadtests/short.yaml \
		--html build/loadtest.html $(ARGS)

check: $(VENV)/.installed-dev ## Lint and check types
	$(BIN)/ruff check
	$(BIN)/mypy

k8s-check: .tools/.installed ## Render, validate and judge what Kubernetes and Docker get
	.tools/bin/python -m k8s.check

install: $(VENV)/.installed-dev ## Install all that serve, test and check need

clean: ## Delete the environment, the downloaded tritonserver and all caches
	rm -rf $(VENV) .runtime .tools build src/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

host:
	@command -v $(PYTHON) > /dev/null || \
		{ echo "tritonlm: there is no $(PYTHON): apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) src/tritonlm/server/host.py $(VENV)

$(VENV)/.made: | host
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | host $(VENV)/.made
	$(PIP_INSTALL) -e '.[engine]'
	@touch $@

$(LITELLM): | $(VENV)/.installed-dev
	$(PIP_INSTALL) --quiet --no-deps --target $@ litellm==1.106.2 fastuuid==0.14.0 \
		importlib-metadata==8.7.0 pydantic-settings==2.15.0 python-dotenv==1.2.4 zipp==3.23.0

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

.tools/.installed: k8s/tools.txt | host
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip --disable-pip-version-check install --quiet --no-compile -r $<
	@touch $@
