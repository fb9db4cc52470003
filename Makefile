# make demo | test | docs | quick | check | bench: each makes .venv on first use and reuses it until the requirements change.
.DELETE_ON_ERROR:
.PHONY: help demo test docs install-check quick check format bench clean

# The first Python that is new enough; choose another with `make PYTHON=/path/to/python3 ...`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
ARGS ?=
# A worker for each core; one that has run out of tests takes over some of another's.
PYTEST = $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal
CHANGED = $(wildcard $(sort $(shell git status --porcelain 2>/dev/null | sed -nE 's#.*(src/scvi|tests)/([a-z_0-9]+)/.*#tests/\2#p')))

help:
	@echo "make demo    fit 1021 cells from five batches, print the scores, write a report (scvi-demo/)"
	@echo "make test    run the tests               (ARGS='-m \"not slow\"' for the quick ones)"
	@echo "make docs    build the documentation     (docs/_build/html; ARGS='-D run_pages=0 -D plot_gallery=0' runs no code)"
	@echo "make install-check    wheel and sdist built, installed into a fresh environment, sizes and times"
	@echo "make quick   run those of what changed   (ARGS=tests/fit for those of another layer)"
	@echo "make check   lint, formatting and types  (make format mends the formatting)"
	@echo "make bench   quality, speed, memory      (DATA=folder of the benchmark files)"

demo: $(VENV)/report.stamp
	$(BIN)/scvi demo $(ARGS)

test: $(VENV)/plot,test.stamp
	$(PYTEST) $(ARGS)

# Every block of Python on the pages and every tutorial is run; a warning is an error; a browser opens what was built.
docs: $(VENV)/docs,plot,test.stamp
	$(BIN)/python -m sphinx -W --keep-going -q -b html $(ARGS) docs docs/_build/html
	$(BIN)/python -m pytest -q -p no:cacheprovider docs/test_site.py
	@echo docs/_build/html/index.html

install-check: $(VENV)/plot,test.stamp
	$(BIN)/python benchmarks/install.py $(ARGS)

# The layers with changes that are not committed, the house rules, and what one estimator answers.
quick: $(VENV)/plot,test.stamp
	$(PYTEST) -m "not slow" -k "not test_common.py or (SCVI and not LinearSCVI and not CondSCVI)" \
	    tests/test_architecture.py tests/estimators/test_common.py $(or $(ARGS),$(CHANGED))

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/train_step.py --data $(DATA) --profile
	$(BIN)/python benchmarks/joint_step.py --data $(DATA)
	$(BIN)/python benchmarks/kernels.py --data $(DATA)
	$(BIN)/python benchmarks/setup.py --data $(DATA)
	$(BIN)/python benchmarks/inference.py --data $(DATA)
	$(BIN)/python benchmarks/quality.py --data $(DATA)
	$(BIN)/python benchmarks/autozi.py --data $(DATA)
	$(BIN)/python benchmarks/linear_factors.py --data $(DATA)
	$(BIN)/python benchmarks/annotation.py --data $(DATA)
	$(BIN)/python benchmarks/annotation.py --data $(DATA) --steps --sets pbmc_cite_10k_5k
	$(BIN)/python benchmarks/imputation.py --data $(DATA)
	$(BIN)/python benchmarks/hidden_counts.py --data $(DATA)
	$(BIN)/python benchmarks/proteins.py --data $(DATA)
	$(BIN)/python benchmarks/differential.py --data $(DATA)
	$(BIN)/python benchmarks/differential_model.py --data $(DATA)
	$(BIN)/python benchmarks/importance_weights.py
	$(BIN)/python benchmarks/time_to_quality.py --data $(DATA)
	$(BIN)/python benchmarks/overfitting.py --data $(DATA)
	$(BIN)/python benchmarks/precision.py --data $(DATA)
	$(BIN)/python benchmarks/tune.py --data $(DATA)
	$(BIN)/python benchmarks/scaling.py --data $(DATA)
	$(BIN)/python benchmarks/command.py --data $(DATA)
	$(BIN)/python benchmarks/query_mapping.py --data $(DATA)
	$(BIN)/python benchmarks/checks.py --data $(DATA)
	$(BIN)/python benchmarks/far.py --data $(DATA)
	$(BIN)/python benchmarks/out_of_core.py --data $(DATA)
	$(BIN)/python benchmarks/readers.py
	$(BIN)/python benchmarks/roundtrip.py --data $(DATA)
	$(BIN)/python benchmarks/memory.py --data $(DATA)

clean:
	rm -rf $(VENV) build dist scvi-demo docs/_build docs/gallery docs/gallery_2020 docs/api/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp is named after the extras it stands for.
$(VENV)/%.stamp: $(VENV)/created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$*]"
	@touch "$@"

$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: say make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
