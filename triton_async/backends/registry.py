"""Backends by name; each is imported, and its engine loaded, when the first model asks for it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, BatchRule, InferenceService, Watcher
from triton_async.config.paths import safe_name
from triton_async.config.place import ModelPlace
from triton_async.errors import InvalidArg, Unavailable

log = logging.getLogger("triton_async.backends")

# The setting of an own engine that has the library of its name take its place.
_NATIVE = "native"

# Where a batching strategy is named, and the file that is one without being named.
_STRATEGY = "TRITON_BATCH_STRATEGY_PATH"
_STRATEGY_FILE = "batchstrategy.so"

# Backend name -> module of this package and class.
_BACKENDS = {
    "fil": ("fil", "FilBackend"),
    "identity": ("identity", "IdentityBackend"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeBackend"),
    "openvino": ("openvino", "OpenVINOBackend"),
    "python": ("python.backend", "PythonBackend"),
    "pytorch": ("pytorch", "PyTorchBackend"),
    "tensorflow": ("tensorflow", "TensorFlowBackend"),
    "tensorrt": ("tensorrt", "TensorRTBackend"),
}

# What a config's `runtime` says where Python code is the backend.
_PYTHON = "model.py"
# Of the engines here whose models may be Python code, what runs those.
_PYTHON_RUNTIMES = {"pytorch": Path(__file__).parent / "pytorch" / "modules" / "torch_module_runtime.py"}


class BackendRegistry:
    """Makes each backend once. Any thread.

    `backend_config`: --backend-config by backend, "" for all. `pools`: the server's memory, see `Backend.pools`.
    `directory`: --backend-directory, whose folders have a library `libtriton_<backend>.so`, or a `model.py` of a
    Python-based backend. `options`: what libraries are told of the server. `cores`, `processes`: see Backend.
    """

    def __init__(  # noqa: PLR0917
        self,
        backend_config: Mapping[str, Mapping[str, str]] | None = None,
        pools: Any = None,
        directory: str | Path = "",
        options: Mapping[str, str] | None = None,
        cores: int = 0,
        processes: int = 1,
    ) -> None:
        self._backend_config = backend_config or {}
        self._pools = pools
        self._directory = Path(directory) if directory else None
        # What backends are made with from here on; set before the first model is loaded.
        self.inference: InferenceService | None = None
        self.watcher: Watcher | None = None
        self._options = dict(options or {})
        self._cores = cores
        self._processes = processes
        self._made: dict[str, Backend] = {}
        self._closed = False
        self._lock = threading.Lock()

    def get(self, name: str, place: ModelPlace | None = None) -> Backend:
        """The backend; InvalidArg when there is none of that name, ServerError when its engine is missing.

        `place`: of the model that asks. A library in its version's folder or its own comes before anything else; one
        of the backend directory where there is no engine of that name, or where its setting `native` asks for it.
        """
        runtime = "" if place is None else place.runtime
        library = self._library(name, place)
        file = self._python_file(name, runtime) if library is None else None
        if library is None and file is None:
            self._check_engine(name, runtime)
        key = str(library or file or name)
        with self._lock:
            backend = self._made.get(key)
            if backend is None:
                if self._closed:
                    raise Unavailable("Server exiting")
                if library is not None:
                    backend = self._add(key, self._native(name, library), name)
                elif file is not None:
                    # There for what all models that are Python have in common, though no model may name it.
                    python: Any = self._made.get("python") or self._add("python", self._make("python"), "python")
                    names = ("python",) if name in _BACKENDS else ("python", name)
                    backend = self._add(key, python.based_on(name, file), *names)
                else:
                    backend = self._add(key, self._make(name), name)
            return backend

    # `names`: whose settings of --backend-config it has, the last before the others.
    def _add(self, key: str, backend: Any, *names: str) -> Backend:
        assert isinstance(backend, Backend)
        backend.settings = self._settings(*names)
        backend.pools = self._pools
        backend.cores = self._cores
        backend.processes = self._processes
        backend.inference = self.inference
        backend.watcher = self.watcher
        self._made[key] = backend
        return backend

    def strategy(self, config: Any, place: ModelPlace) -> Path | None:
        """The library that has the batching strategy of a model; None: there is none. InvalidArg for a named one that
        is not there.
        """
        if config.dynamic_batching is None:
            if _STRATEGY in config.proto.parameters:
                log.warning("%s of model '%s' has no effect without dynamic_batching", _STRATEGY, config.name)
            return None
        if _STRATEGY in config.proto.parameters:
            named = config.proto.parameters[_STRATEGY].string_value
            if not Path(named).is_file():
                raise InvalidArg(f"Batching library path not found: {named}")
            return Path(named)
        folders = [*place.folders]
        if self._directory is not None:
            folders.append(os.path.join(self._directory, safe_name(config.backend, "backend")))
        return _first_file(folders, _STRATEGY_FILE)

    def batch_rule(self, library: Path, config: Any, signature: Any, place: ModelPlace) -> BatchRule:
        """The strategy in `library`, for a version of a model. ServerError when it has none, or does not want to."""
        from triton_async.backends.capi.batching import NativeRule, has_hooks
        from triton_async.backends.capi.handles import Library

        opened = Library(library)
        if not has_hooks(opened):
            raise InvalidArg(f"library '{library.name}' of model '{config.name}' has no batching strategy")
        log.info("model '%s' is batched by the library %s", config.name, library)
        return NativeRule(opened, signature, config=config.json(), directory=place.directory)

    def _settings(self, *names: str) -> dict[str, str]:
        settings: dict[str, str] = {}
        for name in ("", *names):
            settings.update(self._backend_config.get(name, {}))
        settings.pop(_NATIVE, None)
        return settings

    def _library(self, name: str, place: ModelPlace | None) -> Path | None:
        """The library that a model's backend is, None: it is none."""
        runtime = "" if place is None else place.runtime
        if runtime.endswith(".py"):
            return None
        file = safe_name(runtime or _library_name(safe_name(name, "backend")), "runtime")
        folders = () if place is None else place.folders
        native = self._backend_config.get(name, {}).get(_NATIVE, "")
        if native not in ("", "true", "false"):
            raise InvalidArg(f"--backend-config={name},{_NATIVE}={native}: it is true or false")
        if self._directory is not None and (name not in _BACKENDS or native == "true"):
            folders = (*folders, os.path.join(self._directory, name))
        found = _first_file(folders, file)
        if found is None and native == "true":
            raise InvalidArg(
                f"unable to find '{file}' of backend '{name}', which --backend-config={name},{_NATIVE}=true asks for"
            )
        return found

    def _native(self, name: str, library: Path) -> Any:
        from triton_async.backends.capi.backend import NativeBackend

        directory = "" if self._directory is None else str(self._directory)
        return NativeBackend(name, library, {"backend-directory": directory, **self._options})

    def _make(self, name: str) -> Any:
        module, class_name = _BACKENDS[name]
        return getattr(import_module(f"triton_async.backends.{module}"), class_name)()

    # Of a model that neither a library nor Python code runs: that it does not ask for one, and that there is an engine.
    @staticmethod
    def _check_engine(name: str, runtime: str) -> None:
        if name in _BACKENDS and (runtime in ("", _library_name(name)) or (name, runtime) == ("python", _PYTHON)):
            return
        if runtime.endswith(".py") and runtime != _PYTHON:
            raise InvalidArg(
                f"runtime '{runtime}' of backend '{name}' is no library, and a backend in Python is a '{_PYTHON}'"
            )
        if runtime:
            raise InvalidArg(
                f"unable to find '{runtime}' for backend '{name}', searched: the version's folder, the model's "
                f"folder, the folder '{name}' of the backend directory"
            )
        raise InvalidArg(
            f"unable to find backend library for backend '{name}', try specifying runtime on the model "
            f"configuration. This server has: {', '.join(sorted(_BACKENDS))}"
        )

    # What runs all models of a Python-based backend, None: it is none. An engine of that name goes before it, unless
    # the model's config asks for Python.
    def _python_file(self, name: str, runtime: str) -> Path | None:
        if name == "python" or not (runtime == _PYTHON or (runtime == "" and name not in _BACKENDS)):
            return None
        if self._directory is not None:
            file = self._directory / safe_name(name, "backend") / _PYTHON
            if file.is_file():
                return file
        return _PYTHON_RUNTIMES.get(name)

    def families(self, name: str = "") -> list[Any]:
        """Metric families that models have made, or those of this name. Loop thread."""
        with self._lock:
            made = list(self._made.values())
        return [family for backend in made for family in backend.families(name)]

    def close(self) -> None:
        """Closes all backends, behind their models. None is made any more. Blocking."""
        with self._lock:
            self._closed = True
            made = list(self._made.values())
            self._made.clear()
        for backend in made:
            try:
                backend.close()
            except Exception:
                log.exception("backend '%s' could not be closed properly", backend.name)

    def in_use(self) -> list[str]:
        """Names of the backends made so far, for the start-up table."""
        with self._lock:
            return sorted({backend.name for backend in self._made.values()})


def _first_file(folders: Iterable[str], name: str) -> Path | None:
    paths = [os.path.join(folder, name) for folder in folders]
    return next((Path(path) for path in paths if os.path.isfile(path)), None)


def _library_name(name: str) -> str:
    """The library of a backend whose models say nothing of a runtime."""
    return f"libtriton_{name}.so"
