"""Backends by name; each is imported, and its engine loaded, when the first model asks for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, InferenceService, Watcher
from triton_async.config.paths import safe_name
from triton_async.errors import InvalidArg

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


class BackendRegistry:
    """Makes each backend once. Any thread.

    `backend_config`: --backend-config by backend, "" for all. `pools`: the server's memory, see `Backend.pools`.
    `directory`: --backend-directory, whose folders with a `model.py` are Python-based backends.
    """

    def __init__(
        self,
        backend_config: Mapping[str, Mapping[str, str]] | None = None,
        pools: Any = None,
        directory: str | Path = "",
    ) -> None:
        self._backend_config = backend_config or {}
        self._pools = pools
        self._directory = Path(directory) if directory else None
        # What backends are made with from here on; set before the first model is loaded.
        self.inference: InferenceService | None = None
        self.watcher: Watcher | None = None
        self._made: dict[str, Backend] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Backend:
        """The backend; InvalidArg when there is none of that name, ServerError when its engine is missing."""
        with self._lock:
            backend = self._made.get(name)
            if backend is None:
                backend = self._make(name)
                assert isinstance(backend, Backend)
                backend.settings = {**self._backend_config.get("", {}), **self._backend_config.get(name, {})}
                backend.pools = self._pools
                backend.inference = self.inference
                backend.watcher = self.watcher
                self._made[name] = backend
            return backend

    def _make(self, name: str) -> Any:
        if name in _BACKENDS:
            module, class_name = _BACKENDS[name]
            return getattr(import_module(f"triton_async.backends.{module}"), class_name)()
        file = self._python_file(name)
        if file is None:
            raise InvalidArg(
                f"unable to find backend library for backend '{name}', try specifying runtime on the model "
                f"configuration. This server has: {', '.join(sorted(_BACKENDS))}"
            )
        python: Any = self._made.get("python") or self._make("python")
        return python.based_on(name, file)

    def _python_file(self, name: str) -> Path | None:
        if self._directory is None:
            return None
        file = self._directory / safe_name(name, "backend") / "model.py"
        return file if file.is_file() else None

    def families(self) -> list[Any]:
        """Metric families that models have made. Loop thread."""
        with self._lock:
            made = list(self._made.values())
        return [family for backend in made for family in backend.families()]

    def in_use(self) -> list[str]:
        """Names of the backends made so far, for the start-up table."""
        with self._lock:
            return sorted(self._made)
