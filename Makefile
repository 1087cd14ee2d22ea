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
.PHONY: help setup reports test test-fast lint site publish ui clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(BIN)/.ready  ## create .venv from the pinned dependencies

$(BIN)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[pipeline,dev]'
	@# Compile what every job imports once, now, instead of in the first jobs.
	$(BIN)/python -c "import mlflow.tracking, sqlalchemy, snakemake.cli" & \
	  $(BIN)/python -c "import ladder.model.modeling, lm_eval.models.huggingface"; wait
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

clean:  ## delete what the pipeline made (not .venv)
	rm -rf results build mlflow.db mlartifacts mlpending .snakemake reports/all reports/records.csv reports/summary.json \
	  reports/analysis reports/pages reports/tables reports/figures reports/whatif.html reports/families reports/claims.* reports/diagrams
