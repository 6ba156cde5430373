# Everything runs from a .venv in the repository; a fresh machine needs python3 (3.11 or 3.12), make and nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: demo serve check test test-nightly test-engines test-gpu engines bench clean

demo: $(READY)                ## set up, start the platform, wake a real model from disk, print its timeline, stop
	$(BIN)/python scripts/demo.py

serve: $(READY)               ## the same, stays up on http://127.0.0.1:8343 (console at /)
	$(BIN)/python scripts/demo.py --stay

check: $(READY)               ## what CI checks before it runs a test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

test: $(READY) system-packages demo-model deploy-tools     ## all tests but the nightly ones
	$(BIN)/python -m pytest -m "not nightly and not gpu and not engines"

test-nightly: $(READY) system-packages demo-model deploy-tools
	$(BIN)/python -m pytest -m "nightly" --timeout 3600

docs: $(READY)                ## the documentation as a site, in site/; a broken link is an error
	$(BIN)/python scripts/build_docs.py

engines:                      ## build the environment of the vllm engine (.venv-engines/vllm: 2 minutes, 3.2 GB)
	$(PYTHON) scripts/build_engines.py

test-engines: $(READY) engines    ## the conformance suite on every engine, vLLM included
	$(BIN)/python -m pytest -m "engines" --timeout 1200

test-gpu: $(READY)            ## tests of the engine on a CUDA device; skipped with their reason where there is none
	$(BIN)/python -m pytest tests/gpu -m gpu -rs

bench: $(READY) demo-model    ## every benchmark, its short form; results in benchmarks/*/results
	$(BIN)/sllm bench cold-start
	@scripts/install-system-packages.sh bench
	$(BIN)/sllm bench fetch

.PHONY: system-packages demo-model deploy-tools docs
system-packages:
	@scripts/install-system-packages.sh

deploy-tools: $(READY)        ## helm, kubectl and terraform for the tests of deploy/, into .demo/tools
	@$(BIN)/python scripts/fetch_deploy_tools.py .demo/tools

demo-model: $(READY)
	@$(BIN)/python scripts/fetch_demo_model.py .demo/model

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[engine,ingest,s3,hub,redis,etcd,otel,bench,docs,deploy,dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
