# make test    everything that has to hold: lint, types, tests
# make demo    the main job, start to finish, into runs/demo
# make test-vllm  the same for vLLM, which wants an environment of its own (made in minutes)
# make bench   the benchmarks
# make study   the ablations
# make clean   remove what was built; runs/ stays
#
# A machine with Python 3.11 or newer is enough: the first target makes .venv and installs into it what constraints.txt
# pins (a few minutes, most of them torch).  PIP_ARGS is handed to pip, for an index or a folder of your own.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# One thread a process: pytest runs two processes, and results must not depend on how many threads there are.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: test lint types unit test-vllm demo bench study install clean

test: lint types unit

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

unit: $(STAMP)
	$(TEST_ENV) $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# vLLM in an environment of its own: VLLM_ENV names one that is there already.
VLLM_ENV ?= .venv-vllm
test-vllm:
	@test -x $(VLLM_ENV)/bin/vllm || PIP_ARGS="$(PIP_ARGS)" PYTHON=$(PYTHON) tests/lanes/vllm_env.sh $(VLLM_ENV)
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 PYTHONPATH=. \
		$(VLLM_ENV)/bin/python -m pytest -q -p no:cacheprovider tests/lanes/lane_vllm.py

demo: $(STAMP)
	$(VENV)/bin/dream-envs dream --out runs/demo --resume

bench: $(STAMP)
	$(PY) -m dream_envs.baselines.benchmarks

study: $(STAMP)
	$(PY) -m dream_envs.baselines.studies flagship

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "no venv: install python3-venv, or the like" >&2; exit 1; }
	$(PY) -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt setuptools
	$(PY) -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt --no-build-isolation -e '.[train,dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
