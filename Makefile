# make demo   from nothing to a served, streamed Korean transcript, on a corpus it synthesises itself
# make test   everything that can be checked on this machine
# Each target sets up what it needs, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The newest supported Python that starts (a version manager's shim may be there and fail).
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PY := $(BIN)/python
STARTED := $(shell date +%s)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
QUIETLY := grep -vE '^WARNING: Location|^ *DEPRECATION' >&2
MERMAID := mermaid@11.16.0
MERMAID_SHA256 := 74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b
# Environments are made side by side.
MAKEFLAGS += --jobs=2

.PHONY: help demo demo-streaming serve test test-fast lint docs clean setup setup-dev setup-server setup-rtx setup-gateway setup-embedded setup-broker setup-kiwi gateway lmplz setup-ray test-ray setup-nemo-itn

help:
	@echo "make demo    corpus -> manifests -> tokenizer -> training -> scores -> export -> served transcript"
	@echo "make demo-streaming   the same, and a streaming model that is spoken to"
	@echo "make test    lint, types and every test (trains the demo model once)"
	@echo "make docs    build the documentation site (build/site/index.html)"
	@echo "make test-fast   the tests that need neither a trained model nor NeMo"
	@echo "make serve   serve the exported model on 127.0.0.1 (ports 8001 gRPC, 8002 metrics)"
	@echo "make gateway   HTTP in front of it on 127.0.0.1:9000: OpenAI's transcription API"
	@echo "make lmplz   build KenLM's estimator, for language models of any size"
	@echo "make clean   remove what was built: environments, demo data, experiments, exported models"

# ---- environments -------------------------------------------------------------------------------

setup: .venv/.ready
setup-dev: .venv/.ready-dev
setup-server: .server/.ready
setup-rtx: .rtx/.ready

.venv/.ready: requirements.txt constraints.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or 3.12 with venv is needed: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "== setting up .venv with $(PYTHON) (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@cp constraints.txt .venv/constraints.txt
	@grep -v '^kenlm' requirements.txt > .venv/requirements.txt
	@rm -rf .venv/wheels
	@# kenlm is compiled meanwhile (a minute of a core). Where it cannot be, all but language models still works.
	@kenlm=$$(grep '^kenlm' requirements.txt); \
	$(BIN)/pip wheel -q --no-deps -w .venv/wheels $$kenlm > .venv/kenlm.log 2>&1 & wheel=$$!; \
	$(BIN)/pip install -q --no-compile -r .venv/requirements.txt 2> >($(QUIETLY)) || { kill $$wheel; exit 1; }; \
	wait $$wheel && $(BIN)/pip install -q --no-compile --no-deps .venv/wheels/kenlm-*.whl 2> >($(QUIETLY)) \
	|| printf '   %s\n' "$$kenlm (language models) is left out: building it takes a C++ compiler and Python's headers" \
	   "(see .venv/kenlm.log); with those (Debian: g++, python3-dev) run .venv/bin/pip install $$kenlm"
	@$(BIN)/pip install -q --no-deps -e . 2> >($(QUIETLY))
	@$(PY) -c 'from ko_asr import checkout; checkout.install()'
	@# pip compiles with one core, this with all. Some packages bring files that never compile.
	@$(PY) -W ignore -m compileall -q -j 0 .venv/lib > /dev/null || true
	@touch $@

.venv/.ready-dev: .venv/.ready requirements-dev.txt requirements-gateway.txt requirements-trackers.txt
	@$(BIN)/pip install -q -r requirements-dev.txt 2> >($(QUIETLY))
	@touch $@

.server/.ready: .venv/.ready requirements-server.txt export/setup_server.py export/backends/onnxruntime/model.py
	@$(PY) export/setup_server.py
	@touch $@

setup-gateway: .gateway/.ready

.gateway/.ready: requirements-gateway.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or 3.12 with venv is needed: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "== setting up .gateway (a minute, once)"
	@$(PYTHON) -m venv .gateway
	@.gateway/bin/pip install -q -r requirements-gateway.txt 2> >($(QUIETLY))
	@.gateway/bin/pip install -q --no-deps -e . 2> >($(QUIETLY))
	@touch $@

# ONNX Runtime beside it, for ENGINE=embedded.
setup-embedded: .gateway/.ready-embedded

.gateway/.ready-embedded: .gateway/.ready requirements-embedded.txt
	@echo "== adding ONNX Runtime to .gateway"
	@.gateway/bin/pip install -q -r requirements-embedded.txt 2> >($(QUIETLY))
	@touch $@

# Clients of message brokers beside it, for --broker.
setup-broker: .gateway/.ready-broker

.gateway/.ready-broker: .gateway/.ready requirements-broker.txt
	@echo "== adding clients of message brokers to .gateway"
	@.gateway/bin/pip install -q -r requirements-broker.txt 2> >($(QUIETLY))
	@touch $@

# Kiwi into each environment that is there, for finished text; Triton's models import it from .server/venv.
setup-kiwi: .venv/.ready requirements-kiwi.txt
	@for python in .venv/bin/python .gateway/bin/python .server/venv/bin/python; do \
		if [ -x $$python ]; then \
			echo "== adding Kiwi to $${python%/bin/python}"; \
			$(BIN)/pip --python $$python install -q -r requirements-kiwi.txt 2> >($(QUIETLY)); fi; done

setup-ray: .ray/.ready

.ray/.ready: requirements-ray.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or 3.12 with venv is needed: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv .ray
	@.ray/bin/pip install -q -r requirements-ray.txt 2> >($(QUIETLY))
	@.ray/bin/pip install -q --no-deps -e . 2> >($(QUIETLY))
	@touch $@

# NVIDIA's inverse text normaliser, to compare with (recipes/evaluate_text.py --normaliser nemo); 1.1 GB.
setup-nemo-itn: .nemo-itn/.ready

.nemo-itn/.ready: requirements-nemo-itn.txt
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or 3.12 with venv is needed: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv .nemo-itn
	@.nemo-itn/bin/pip install -q -r requirements-nemo-itn.txt 2> >($(QUIETLY))
	@touch $@

# TensorRT-RTX compiles graphs without a GPU (tests/export/test_tensorrt.py); it never serves.
.rtx/.ready: .venv/.ready requirements-rtx.txt
	@$(PY) -m venv --clear --without-pip .rtx
	@$(BIN)/pip --python .rtx/bin/python install -q -r requirements-rtx.txt 2> >($(QUIETLY))
	@touch $@

# Where npm is there, the site brings mermaid along (docs/hooks.py); elsewhere a reader's browser fetches it.
.docs/.ready: requirements-docs.txt
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or 3.12 with venv is needed: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv .docs
	@.docs/bin/pip install -q -r requirements-docs.txt 2> >($(QUIETLY))
	@rm -rf .docs/package
	@if command -v npm > /dev/null && cd .docs && npm pack --silent $(MERMAID) > /dev/null 2>&1; then \
		tar -xzf mermaid-*.tgz package/dist/mermaid.min.js && rm mermaid-*.tgz && \
		echo "$(MERMAID_SHA256)  package/dist/mermaid.min.js" | sha256sum --check --quiet; fi
	@touch $@

# ---- the demo -----------------------------------------------------------------------------------

demo: .server/.ready .gateway/.ready
	@$(PY) recipes/demo.py --started $(STARTED)

demo-streaming: .server/.ready .gateway/.ready
	@$(PY) recipes/demo.py --started $(STARTED) --streaming --no-bench

serve: .server/.ready
	@$(PY) export/serve.py --model-repository triton/

# Starts the server as well where TRITON is on this machine and nothing listens there; it ends with the gateway.
# ENGINE=embedded needs none. OPTIONS are the gateway's own, as OPTIONS="--alias whisper-1".
TRITON ?= 127.0.0.1:8001
PORT ?= 9000
ENGINE ?= triton
OPTIONS ?=
$(if $(filter $(ENGINE),triton embedded),,$(error ENGINE is triton or embedded, not $(ENGINE)))
GRPC = $(lastword $(subst :, ,$(TRITON)))
LISTENS = (: < /dev/tcp/$(subst :,/,$(TRITON))) 2> /dev/null
ifeq ($(ENGINE),embedded)
gateway: .gateway/.ready-embedded
	@exec .gateway/bin/python -m ko_asr.gateway --engine embedded --repository triton/ --port $(PORT) $(OPTIONS)
else
gateway: .gateway/.ready .server/.ready
	@trap 'exit 143' TERM; trap 'exit 130' INT; trap 'kill $$(jobs -p) 2> /dev/null || true; wait' EXIT; \
	if [[ "$(TRITON)" == 127.0.0.1:* ]] && ! $(LISTENS); then \
		$(PY) export/serve.py --model-repository triton/ --grpc-port=$(GRPC) --metrics-port=$$(($(GRPC) + 1)) & server=$$!; \
		until $(LISTENS); do kill -0 $$server 2> /dev/null || exit 2; sleep 0.2; done; fi; \
	.gateway/bin/python -m ko_asr.gateway --triton $(TRITON) --port $(PORT) $(OPTIONS) & wait $$!
endif

lmplz: .venv/.ready
	@$(PY) recipes/build_lmplz.py

# ---- checks -------------------------------------------------------------------------------------

docs: .docs/.ready
	@NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --strict --quiet

lint: .venv/.ready-dev docs
	@mkdir -p .build
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .build/lint-imports.log 2>&1 || { cat .build/lint-imports.log; exit 1; }
	@$(BIN)/shellcheck .ci/run
	@$(BIN)/hadolint Dockerfile deploy/lambda/Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml

# The one test that `make test` skips: Ray cannot share .venv (requirements-ray.txt says why).
test-ray: .venv/.ready-dev .ray/.ready
	@$(BIN)/pytest -rs tests/corpora/test_ksponspeech.py -k ray

# What needs neither a trained model nor NeMo.
test-fast: .venv/.ready-dev
	@$(BIN)/pytest -q -m "not slow" -n 2 --dist loadfile

# Two processes that share the trained models (tests/conftest.py); a file stays in one of them.
test: .venv/.ready-dev .server/.ready .rtx/.ready .gateway/.ready-embedded .gateway/.ready-broker lint
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

clean:
	@rm -rf .venv .server .rtx .ray .nemo-itn .gateway .docs .build data/demo data/demo_corpus tokenizers/demo experiments/fastconformer_ko_demo experiments/fastconformer_ko_streaming_demo results/demo
	@git clean -qfdX triton
