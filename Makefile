# make serve                              serve the embedded digits model on http://127.0.0.1:8000
# make train RECIPE=table DATA=rows.csv   train, and add the bundle to models/
# make serve MODELS=models                serve what was trained
# make test                               lint, types and tests
# make test-all                           the same, with the long tests
# make coverage                           all tests, half as slow again, and the lines that none of them runs
# make docs                               write the generated parts of docs/reference/ anew
# make containers                         build the images, and try them in a Docker engine
# make lock                               pin what the images install, by digest, in .ci/*.lock
# make sbom                               list what `make serve` has installed, as CycloneDX JSON, in build/sbom.json

PYTHON ?= python3
PORT   ?= 8000
MODELS ?=
RECIPE ?= digits
DATA   ?=
ARGS   ?=

PIP := -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt

.PHONY: serve train test test-all coverage docs containers lock sbom clean

serve: .venv/serve/done
	.venv/serve/bin/lowerbound serve --port $(PORT) $(if $(MODELS),--models "$(MODELS)") $(ARGS)

train: .venv/train/done
	.venv/train/bin/lowerbound train $(RECIPE) $(if $(DATA),--data "$(DATA)") $(ARGS)

# Tests of one file share servers and models. A cluster's own processes take both cores.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder

test: .venv/test/done .venv/test/browser
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	.venv/test/bin/mypy
	.venv/test/bin/hadolint Dockerfile
	.venv/test/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	.venv/test/bin/python -m pytest -m "not slow" --numprocesses 3 $(SIDE_BY_SIDE) --ignore tests/service/ray_serve $(ARGS)
	.venv/test/bin/python -m pytest -m "not slow" tests/service/ray_serve

# Long tests that take both cores, or hold a server under load to its time limits, run one after the other.
ALONE := tests/service/ray_serve tests/service/bulk/test_on_ray.py tests/service/test_faults.py \
	tests/service/deploy/test_monitoring.py tests/service/server

test-all: test
	.venv/test/bin/python -m pytest -m slow --numprocesses 2 $(SIDE_BY_SIDE) $(ALONE:%=--ignore %)
	.venv/test/bin/python -m pytest -m slow $(ALONE)

coverage: .venv/test/done .venv/test/browser
	.venv/test/bin/coverage erase
	.venv/test/bin/coverage run -m pytest $(ARGS)
	.venv/test/bin/coverage combine --quiet
	.venv/test/bin/coverage report

docs: .venv/test/done
	.venv/test/bin/python -m tests.reference_pages

containers:
	$(PYTHON) -m tests.containers

COMPILE := .venv/supply/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--constraint .ci/constraints.txt
WITHOUT_SERVICE = $$(sed -n 's/^\([^= ]*\)==.*/--no-emit-package \1/p' .ci/serve.lock)
WITHOUT_REMOTE = $(WITHOUT_SERVICE) $$(sed -n 's/^\([^= ]*\)==.*/--no-emit-package \1/p' .ci/remote.lock)

lock: .venv/supply/done
	$(COMPILE) --output-file .ci/serve.lock pyproject.toml
	$(COMPILE) --extra remote $(WITHOUT_SERVICE) --output-file .ci/remote.lock pyproject.toml
	$(COMPILE) --extra cuda $(WITHOUT_SERVICE) --output-file .ci/cuda.lock pyproject.toml
	echo "torch; python_version < '3'" | $(COMPILE) --override /dev/stdin \
		--extra train --extra remote $(WITHOUT_REMOTE) --no-emit-package torch --output-file .ci/train.lock pyproject.toml

sbom: .venv/serve/done .venv/supply/done
	mkdir -p build
	.venv/supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file build/sbom.json .venv/serve/bin/python

clean:
	rm -rf .venv build *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/supply/done: .ci/constraints.txt
	$(PYTHON) -m venv --clear .venv/supply
	.venv/supply/bin/python $(PIP) cyclonedx-bom uv
	touch $@

# An environment holds dependencies only: the code runs from this folder.
.venv/serve/done: EXTRA :=
.venv/train/done: EXTRA := [train]
.venv/test/done:  EXTRA := [test]
.venv/benchmark/done: EXTRA := [benchmark]

# The explorer's tests need a Chromium: Playwright's own where it can be reached, else the system's.
.venv/test/browser: .venv/test/done
	.venv/test/bin/playwright install chromium || command -v chromium || command -v chromium-browser || \
		(apt-get update --quiet && apt-get install --quiet --yes chromium)
	touch $@

.venv/%/done: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv --clear .venv/$*
	.venv/$*/bin/python $(PIP) --editable ".$(EXTRA)"
	touch $@
