"""PyTorch itself: imported at first use, with the settings that a process has once."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from triton_async.cgroup import quota_cpus
from triton_async.errors import InvalidArg, Unavailable
from triton_async.importing import import_module

# Process-wide switch of PyTorch, by the parameter that sets it -> how to set it.
_SWITCHES: dict[str, Callable[[Any, bool], None]] = {
    "ENABLE_JIT_EXECUTOR": lambda torch, on: torch._C._jit_set_profiling_executor(on),
    "ENABLE_JIT_PROFILING": lambda torch, on: torch._C._jit_set_profiling_mode(on),
    "ENABLE_TENSOR_FUSER": lambda torch, on: torch._C._jit_set_texpr_fuser_enabled(on),
    "DISABLE_CUDNN": lambda torch, on: setattr(torch.backends.cudnn, "enabled", not on),
}


class Library:
    """PyTorch and its process-wide settings. Made once; any thread. Unavailable when PyTorch is not installed. `cores`:
    see `Backend.cores`.
    """

    def __init__(self, cores: int = 0) -> None:
        # Compiled packages trust the shapes and types they are called with unless this is set before their first run.
        os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
        # Idle threads of OpenMP's pools spin otherwise, and take the cores from the event loop and from other models.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            self.torch: Any = import_module("torch")
        except ImportError as error:
            raise Unavailable(
                "unable to load backend 'pytorch': PyTorch can not be imported "
                f"({error}); install it with: pip install 'triton-async[pytorch]'"
            ) from None
        # TorchScript is what a model is in, not what anybody here chose. Once: loads on several threads must not put
        # back each other's filters.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        with warnings.catch_warnings():
            # PyTorch warns once of views of read-only bytes. They are meant: who writes to its inputs gets copies.
            warnings.simplefilter("ignore")
            self.torch.from_numpy(np.frombuffer(b"\0", np.uint8))
        # PyTorch counts cores and knows nothing of a container's CPU quota.
        self.threads = max(1, min(self.torch.get_num_threads(), cores or quota_cpus() or 1 << 30))
        # Held while a file is loaded: torch.export.load keeps what it reads in a global, and refuses a second one; the
        # filters of warnings and of a logger that are set meanwhile are the process's.
        self.loading = threading.Lock()
        self._lock = threading.Lock()
        # Parameter -> who set it -> model name and value. A switch is free again when nobody is left.
        self._claims: dict[str, dict[int, tuple[str, bool]]] = {}
        self._inter_op_threads = 0

    def claim(self, owner: object, model: str, switches: Mapping[str, bool]) -> None:
        """Sets process-wide switches for a version of a model, until `release`. InvalidArg when another loaded model
        has one the other way; versions of one model may differ, the one loaded last decides."""
        with self._lock:
            for key, value in switches.items():
                for other, claimed in self._claims.get(key, {}).values():
                    if other != model and claimed != value:
                        raise InvalidArg(
                            f"model '{model}': parameter '{key}' is {_text(value)}, but PyTorch has one such setting "
                            f"in a process and model '{other}' is loaded with {_text(claimed)}"
                        )
            for key, value in switches.items():
                self._claims.setdefault(key, {})[id(owner)] = (model, value)
                _SWITCHES[key](self.torch, value)

    def release(self, owner: object) -> None:
        """Gives up what `claim` took; a switch that nobody holds goes back to PyTorch's default."""
        with self._lock:
            for key, claims in self._claims.items():
                if claims.pop(id(owner), None) is not None:
                    left = [value for _, value in claims.values()]
                    _SWITCHES[key](self.torch, left[-1] if left else key.startswith("ENABLE_"))

    def set_inter_op_threads(self, model: str, count: int) -> None:
        """Size of the process's inter-op pool. InvalidArg when it was set to another or the pool is at work."""
        with self._lock:
            if self._inter_op_threads == count:
                return
            if not self._inter_op_threads:
                try:
                    self.torch.set_num_interop_threads(count)
                except RuntimeError:
                    pass
                else:
                    self._inter_op_threads = count
                    return
            if self.torch.get_num_interop_threads() == count:
                return
            raise InvalidArg(
                f"model '{model}': parameter 'INTER_OP_THREAD_COUNT' is {count}, but PyTorch's inter-op pool already "
                f"has {self.torch.get_num_interop_threads()} threads; its size can be set once in a process"
            )


def _text(value: bool) -> str:
    return "true" if value else "false"
