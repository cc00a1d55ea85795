PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := cpu,export,starter,bench,dev
READY := $(VENV)/.ready

.PHONY: demo test lint clean

# Builds the starter bundle once, then recognises the photos that scikit-image and scikit-learn ship.
demo: $(READY)
	@test -f bundle/bundle.json || $(BIN)/rar-export starter bundle
	@$(BIN)/rar-recognize bundle --rank wca $$($(BIN)/python -m rar.export.photos)

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p rar.runtime -p rar.export -p rar.benchmarks

$(READY): pyproject.toml setup.py $(wildcard cpp_ext/*)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off --editable ".[$(EXTRAS)]" --config-settings editable_mode=strict
	touch $@

clean:
	rm -rf $(VENV) build bundle *.egg-info runtime/*.so
