"""Backends by name; each is imported, and its engine loaded, when the first model asks for it."""

from __future__ import annotations

import threading
from importlib import import_module

from triton_async.backends.base import Backend
from triton_async.errors import InvalidArg

# Backend name -> module of this package and class.
_BACKENDS = {
    "identity": ("identity", "IdentityBackend"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeBackend"),
    "pytorch": ("pytorch", "PyTorchBackend"),
}


class BackendRegistry:
    """Makes each backend once. Any thread."""

    def __init__(self) -> None:
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
                self._made[name] = backend
            return backend

    def in_use(self) -> list[str]:
        """Names of the backends made so far, for the start-up table."""
        with self._lock:
            return sorted(self._made)
