# `make help` lists the targets. Everything runs in a virtual environment that `make init` builds.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Which PyTorch: `pinned` by constraints.txt, or the `oldest` or `newest` that the trainer allows.
TORCH ?= pinned
CONSTRAINTS := $(if $(filter pinned,$(TORCH)),constraints.txt,$(VENV)/constraints-$(TORCH).txt)
# Which build of it: `auto`, the CPU build where there is no GPU; `default`, what pip finds; or a backend's name of uv.
TORCH_BACKEND ?= auto
READY := $(VENV)/.ready$(if $(filter-out pinned,$(TORCH)),-$(TORCH))
# Enough to run jobs and to serve their results: without the operator's controller and tools for developers.
RUN_READY := $(VENV)/.ready-to-run$(if $(filter-out pinned,$(TORCH)),-$(TORCH))
PACKAGES := crds storage report operator trainer charts
TESTS ?= tests
# For `make images`; empty: see `images/build.py --help`.
BUILDER ?=
REGISTRY ?=
TAG ?=
BASE_IMAGE ?=
TORCH_VARIANT ?=
# For two cores, as half of the time is spent waiting; each has one thread.
WORKERS ?= 5
# Of the benchmarks on a GPU.
WHEELS ?= wheels-gpu
GPU_VENV ?= .venv-gpu
export OMP_NUM_THREADS ?= 1
# Of hundreds of processes that tests start, each would compile the code again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help init demo test test-families test-images test-slow gpu e2e coverage generate verify docs images push kind release lint type format \
	bench bench-operator bench-checkpoint bench-peers bench-gpu wheels-gpu clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

init: $(READY) ## build the virtual environment; TORCH=oldest|pinned|newest TORCH_BACKEND=auto|default|cpu|...

$(READY): INSTALL = -e crds -e storage -e report -e 'operator[cli,controller,local]' -e 'trainer[serve,wandb]' -e charts --group dev
$(RUN_READY): INSTALL = -e crds -e storage -e report -e 'operator[cli,local]' -e 'trainer[serve]'
$(READY) $(RUN_READY): constraints.txt pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH),pinned)
	@$(PYTHON) .ci/constraints.py $(TORCH) > $(CONSTRAINTS)
endif
	@$(BIN)/python .ci/install.py --constraint $(CONSTRAINTS) --torch-backend $(TORCH_BACKEND) $(INSTALL)
	@touch $@

# With everything there, what is enough is there too.
demo: $(or $(wildcard $(READY)),$(RUN_READY)) ## fine-tune tiny-sd on a subject: 2 pods on this machine, real S3, 4 to 5 minutes
	@unset OMP_NUM_THREADS; $(BIN)/dreambooth run examples/quickstart.yaml --state .dreambooth-demo \
		--upload examples/tiny-sd/model=s3://dreambooth/models/tiny-sd \
		--upload examples/tiny-sd/clip=s3://dreambooth/models/tiny-clip \
		--upload examples/tiny-sd/dino=s3://dreambooth/models/tiny-dino \
		--upload examples/subjects=s3://dreambooth/subjects

# What the other targets below run, and not this one.
OTHERS := tests/e2e tests/trainer/families tests/images/test_operator_image.py

test: $(READY) ## run all tests but those of the targets below: 18 to 35 minutes on two cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' --durations=30 $(OTHERS:%=--ignore=%) $(TESTS)

test-families: $(READY) ## train a tiny model of every family, and compare with plain diffusers
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' tests/trainer/families

test-images: $(READY) ## build the operator's image, and test it: about 4 minutes; needs buildah, debootstrap and root
	$(BIN)/python -m pytest -m 'not slow' tests/images/test_operator_image.py

test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -m slow $(TESTS)

gpu: $(READY) ## run every stage of training on this machine's GPU: at most 6 minutes
	DREAMBOOTH_TEST_GPU=real $(BIN)/python -m pytest tests/gpu

e2e: $(READY) ## run whole jobs: on the API server double, KUBEBUILDER_ASSETS or DREAMBOOTH_E2E_KUBECONFIG
	$(BIN)/python -m pytest -m 'not slow' $(OPTIONS) tests/e2e

coverage: $(READY) ## run the tests and report which lines they reach, in htmlcov/
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' --ignore=tests/e2e \
		--cov --cov-report=term:skip-covered --cov-report=html $(TESTS)

generate: $(READY) ## write the CRD, the reference, the pages of models and metrics, the chart's files and every copy of VERSION
	$(BIN)/python -m dreambooth_api.codegen.generate
	$(BIN)/python -m dreambooth_trainer.codegen.generate
	$(BIN)/python -m dreambooth_charts.generate

verify: $(READY) ## fail when what `make generate` writes differs from what is committed
	$(BIN)/python -m dreambooth_api.codegen.generate --check
	$(BIN)/python -m dreambooth_trainer.codegen.generate --check
	$(BIN)/python -m dreambooth_charts.generate --check

docs: generate ## write the generated pages, then check links, examples and commands of all pages
	$(BIN)/python -m pytest tests/docs

images: ## build both images; variables: BUILDER REGISTRY TAG BASE_IMAGE TORCH_VARIANT=cuda|cpu
	$(PYTHON) images/build.py $(if $(BUILDER),--builder=$(BUILDER)) $(if $(REGISTRY),--registry=$(REGISTRY)) \
		$(if $(TAG),--tag=$(TAG)) $(if $(BASE_IMAGE),--base-image=$(BASE_IMAGE)) \
		$(if $(TORCH_VARIANT),--torch-variant=$(TORCH_VARIANT))

push: $(READY) ## build both images, push them and the chart to REGISTRY, an OCI registry; variables as for images
	$(if $(REGISTRY),,$(error REGISTRY is required, for example make push REGISTRY=registry.example.com/team))
	$(PYTHON) images/build.py --push --registry=$(REGISTRY) $(if $(BUILDER),--builder=$(BUILDER)) \
		$(if $(TAG),--tag=$(TAG)) $(if $(BASE_IMAGE),--base-image=$(BASE_IMAGE)) \
		$(if $(TORCH_VARIANT),--torch-variant=$(TORCH_VARIANT))
	$(BIN)/python .ci/push_chart.py $(REGISTRY)

kind: ## create a kind cluster, load both images into it and install the chart; needs docker, kind, kubectl, helm
	PYTHON=$(PYTHON) TORCH_VARIANT=$(TORCH_VARIANT) .ci/kind

release: $(READY) ## check version and changelog, then build all packages and the chart into dist/
	$(BIN)/python .ci/release.py

lint: $(READY) ## ruff, and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY) ## mypy --strict
	$(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(READY) ## measure the trainer against bare PyTorch; ROWS="cache ranks" for some, ROWS=--help lists them
	$(BIN)/python -m tests.bench $(ROWS)

bench-operator: $(READY) ## measure the operator at 1,000 jobs, against a bare loop
	$(BIN)/python -m tests.bench.operator $(ROWS)

bench-checkpoint: $(READY) ## measure what saving costs the training, against waiting for it and against boto3
	$(BIN)/python -m tests.bench.checkpoint $(ROWS)

bench-peers: $(READY) ## measure the trainer against the DreamBooth scripts of DIFFUSERS, a checkout of diffusers
	DIFFUSERS=$(or $(DIFFUSERS),$(error DIFFUSERS is required, for example make bench-peers DIFFUSERS=../diffusers)) \
		$(BIN)/python -m tests.bench.peers $(ROWS)

wheels-gpu: $(READY) ## download what `make bench-gpu` needs besides torch and transformers into WHEELS, for a machine without a network
	$(BIN)/python -m tests.bench.gpu.wheels $(WHEELS)

# On a bare machine: PYTHON is the Python of the system that has torch and transformers.
bench-gpu: ## measure the trainer on this machine's GPU in 9 minutes, with the wheels in WHEELS; ROWS=--help lists the rows
	$(PYTHON) -m venv --system-site-packages $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --no-index --no-deps $(WHEELS)/*.whl
	PYTHONPATH=crds:storage:report:trainer $(GPU_VENV)/bin/python -m tests.bench.gpu $(ROWS)

clean: ## remove the virtual environment, build outputs and all caches; results of runs stay
	rm -rf $(VENV) dist htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
