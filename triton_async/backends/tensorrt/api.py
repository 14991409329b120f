"""TensorRT as one library: `tensorrt` 8.6 to 11 or `tensorrt_rtx`, chosen and imported once. The import seam.

Names that all of them have are used as they are, everything else through `optional`.
"""

from __future__ import annotations

import ctypes
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from triton_async import datatypes
from triton_async.errors import InternalError, InvalidArg, Unsupported
from triton_async.importing import import_module

log = logging.getLogger("triton_async.tensorrt")

# Value of the setting `library` -> modules to try, in order.
LIBRARIES = {
    "": ("tensorrt", "tensorrt_rtx"),
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt_rtx",),
}

# TensorRT's DataType -> ours. `trt.nptype` raises for the newer ones.
_DATATYPES = {
    "FLOAT": datatypes.from_name("FP32"),
    "HALF": datatypes.from_name("FP16"),
    "BF16": datatypes.from_name("BF16"),
    "INT8": datatypes.from_name("INT8"),
    "INT32": datatypes.from_name("INT32"),
    "INT64": datatypes.from_name("INT64"),
    "BOOL": datatypes.from_name("BOOL"),
    "UINT8": datatypes.from_name("UINT8"),
}

# Directories in the text of a failed import; what is missing is named without them.
_DIRECTORIES = re.compile(r"(?:/[^\s/:'\"]+)+/")

_SEVERITIES = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING}


class Heard:
    """What the library said while it was listened to."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._start = messages.count

    def error(self) -> str:
        """The last error, this thread's own before those of the library's threads; a plain word when none came."""
        return self._messages.take(self._start) or "TensorRT gave no reason"


class Messages:
    """Sends what the library says to the log and keeps its last errors: its calls answer with None or False only.

    Any thread, its own included. Calls of a thread report on that thread, builds on theirs too.
    """

    #: Threads whose last error is kept; only those that failed and did not ask are in it.
    KEPT = 1024

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: dict[int, str] = {}
        self._latest = ""
        self.count = 0

    def add(self, severity: str, text: str) -> None:
        """One message. Never raises: the caller is native code."""
        level = _SEVERITIES.get(severity, logging.DEBUG)
        if level == logging.ERROR:
            with self._lock:
                if len(self._errors) >= self.KEPT:
                    del self._errors[next(iter(self._errors))]
                self._errors[threading.get_ident()] = self._latest = text
                self.count += 1
        log.log(level, "%s", text)

    def take(self, since: int | None = None) -> str:
        """The last error of this thread, "" when there is none; then of any thread after error number `since`."""
        with self._lock:
            own = self._errors.pop(threading.get_ident(), "")
            return own or (self._latest if since is not None and self.count > since else "")

    @contextmanager
    def listening(self) -> Iterator[Heard]:
        """For calls that may report from threads of the library: loads and builds."""
        self.take()
        yield Heard(self)


class Library:
    """The library in use. `name`: its module; `trt`: the module itself; `logger`: what every object of it gets."""

    def __init__(self, trt: ModuleType) -> None:
        self.name = trt.__name__
        self.trt: Any = trt
        self.version = str(trt.__version__)
        self.messages = Messages()
        self.logger = _make_logger(self.trt, self.messages)
        # TensorRT's creation of engines is not thread-safe; Triton has one lock for it, too.
        self.lock = threading.Lock()
        self._plugins: set[str] = set()

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    @property
    def major(self) -> int:
        """Major version of the API; TensorRT-RTX counts on its own and has that of TensorRT 10 and later."""
        return 11 if self.is_rtx else int(self.version.split(".", maxsplit=1)[0])

    def optional(self, name: str) -> Any:
        """A name that only some versions have, e.g. "IRuntimeConfig"; None where it is missing."""
        return getattr(self.trt, name, None)

    def datatype(self, dtype: Any, tensor: str) -> int:
        """Our datatype of a tensor of the model. Unsupported for one that no request can carry."""
        found = _DATATYPES.get(dtype.name)
        if found is None:
            raise Unsupported(
                f"tensor '{tensor}' has TensorRT datatype {dtype.name}, which requests and responses cannot carry"
            )
        return found

    def load_plugins(self, setting: str) -> None:
        """Loads the libraries of `plugins="a.so;b.so"`, each once. InvalidArg when one does not load."""
        register = self.optional("init_libnvinfer_plugins")
        with self.lock:
            if register is not None and not self._plugins:
                register(self.logger, "")
                self._plugins.add("")
            for path in filter(None, (part.strip() for part in setting.strip().strip("\"'").split(";"))):
                if path in self._plugins:
                    continue
                try:
                    ctypes.CDLL(path)
                except OSError as error:
                    raise InvalidArg(
                        f"unable to load TensorRT plugin library '{Path(path).name}': {_plain(str(error))}"
                    ) from None
                self._plugins.add(path)

    def engine(self, plan: bytes, host_code: bool) -> tuple[Any, Any]:
        """(runtime, engine) of a plan, on the current device; the runtime must outlive the engine.

        `host_code`: run the code that a version-compatible plan carries. InternalError with TensorRT's reason.
        A device must be current: some versions end the process where there is none.
        """
        with self.lock, self.messages.listening() as heard:
            runtime = created(self.trt.Runtime, self.logger)
            if runtime is None:
                raise InternalError(f"unable to create TensorRT runtime: {heard.error()}")
            if host_code:
                if not hasattr(runtime, "engine_host_code_allowed"):
                    raise Unsupported(f"version-compatible plans need another {self.name} than {self.version}")
                runtime.engine_host_code_allowed = True
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise InternalError(f"unable to create TensorRT engine: {heard.error()}")
            return runtime, engine


def open_library(choice: str = "") -> Library:
    """The library of a `library` setting; "" takes TensorRT where it loads, else TensorRT-RTX.

    InvalidArg for an unknown setting, Unsupported that names what is missing. Slow the first time.
    """
    names = LIBRARIES.get(choice)
    if names is None:
        known = ", ".join(sorted(filter(None, LIBRARIES)))
        raise InvalidArg(f"--backend-config=tensorrt,library is '{choice[:100]}', expected one of: {known}")
    reasons = []
    for name in names:
        try:
            module = import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(_missing(name, error))
            continue
        lacking = _lacking(module)
        if lacking:
            reasons.append(f"{name} {getattr(module, '__version__', '')} has no {lacking}: 8.6 or later is needed")
            continue
        library = Library(module)
        log.info("%s %s", library.name, library.version)
        return library
    raise Unsupported(f"TensorRT cannot be used: {'; '.join(reasons)}. pip install triton-async[gpu]")


def created(make: Any, *arguments: Any) -> Any:
    """What a constructor of the library makes; None when it failed, which the bindings tell by a TypeError."""
    try:
        return make(*arguments)
    except TypeError:
        return None


def _missing(name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == name:
        return f"{name} is not installed"
    log.warning("%s is installed but does not load: %s", name, error)
    return f"{name} is installed but does not load ({_plain(str(error))})"


def _lacking(module: Any) -> str:
    engine = getattr(module, "ICudaEngine", None)
    needed = {"ICudaEngine": engine, "ICudaEngine.num_io_tensors": getattr(engine, "num_io_tensors", None)}
    return next((name for name, found in needed.items() if found is None), "")


def _plain(text: str) -> str:
    return _DIRECTORIES.sub("", text)[:300]


def _make_logger(trt: Any, messages: Messages) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        # Called without the GIL, which the bindings take: rare while a plan runs, since nothing is said then.
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.add(severity.name, text)

    return Logger()
