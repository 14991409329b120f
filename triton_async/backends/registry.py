"""Backends by name; each is imported, and its engine loaded, when the first model asks for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from triton_async.backends.base import Backend
from triton_async.errors import InvalidArg

# Backend name -> module of this package and class.
_BACKENDS = {
    "identity": ("identity", "IdentityBackend"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeBackend"),
    "pytorch": ("pytorch", "PyTorchBackend"),
    "tensorrt": ("tensorrt", "TensorRTBackend"),
}


class BackendRegistry:
    """Makes each backend once. Any thread.

    `backend_config`: --backend-config by backend, "" for all. `pools`: the server's memory, see `Backend.pools`.
    """

    def __init__(self, backend_config: Mapping[str, Mapping[str, str]] | None = None, pools: Any = None) -> None:
        self._backend_config = backend_config or {}
        self._pools = pools
        self._made: dict[str, Backend] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Backend:
        """The backend; InvalidArg when there is none of that name, ServerError when its engine is missing."""
        with self._lock:
            backend = self._made.get(name)
            if backend is None:
                if name not in _BACKENDS:
                    raise InvalidArg(
                        f"unable to find backend '{name}'; this server has: {', '.join(sorted(_BACKENDS))}"
                    )
                module, class_name = _BACKENDS[name]
                backend = getattr(import_module(f"triton_async.backends.{module}"), class_name)()
                assert isinstance(backend, Backend)
                backend.settings = {**self._backend_config.get("", {}), **self._backend_config.get(name, {})}
                backend.pools = self._pools
                self._made[name] = backend
            return backend

    def in_use(self) -> list[str]:
        """Names of the backends made so far, for the start-up table."""
        with self._lock:
            return sorted(self._made)
