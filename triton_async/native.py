"""`libtritonserver.so`: where the package keeps it, and how a process loads it, once, with the server's log behind it.

Backends, caches and agents that are shared libraries find its functions in the process. The server's modules reach its
inside by the addresses of functions (`address`).
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import threading
import time
from pathlib import Path

from triton_async import logs
from triton_async.errors import InternalError, from_code

log = logging.getLogger("triton_async.native")

#: The library, and the folder to compile against: `#include "triton/core/tritonserver.h"`.
LIBRARY = Path(__file__).parent / "lib" / "libtritonserver.so"
INCLUDE = Path(__file__).parent / "include"

# TRITONSERVER_LogLevel -> the setting that turns it on, and the level of Python's.
_LEVELS = (
    ("log_info", logging.INFO), ("log_warning", logging.WARNING), ("log_error", logging.ERROR),
    ("log_verbose_level", logging.DEBUG),
)  # fmt: skip

_LogFunction = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_char_p)


class _ProcessCalls(ctypes.Structure):
    _fields_ = [("log", _LogFunction)]


def _log(level: int, file: bytes | None, line: int, text: bytes | None) -> None:
    """A line of native code, with the place that it names. Any thread."""
    name = os.path.basename((file or b"").decode(errors="replace"))
    message = (text or b"").decode(errors="replace")
    record = log.makeRecord(log.name, _LEVELS[level & 3][1], name, line, "%s", (message,), None)
    log.handle(record)


_calls = _ProcessCalls(_LogFunction(_log))
_loaded: ctypes.CDLL | None = None
_lock = threading.Lock()


def load() -> ctypes.CDLL:
    """The library, loaded for all of the process to see. InternalError when it cannot be. Any thread."""
    global _loaded
    with _lock:
        if _loaded is None:
            try:
                library = ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                log.error("cannot load %s: %s", LIBRARY, error)
                raise InternalError("the C API's library libtritonserver.so cannot be loaded, see the log") from None
            library.ta_register_process(ctypes.byref(_calls))
            # Threads of libraries may outlive the interpreter: whoever waits for it then is ended in the middle of its
            # own code, which C++ does not survive.
            atexit.register(library.ta_register_process, None)
            _loaded = library
            logs.listeners.append(_follow)
            _follow()
        return _loaded


def _follow() -> None:
    """Tells the library which levels are logged now."""
    settings = logs.settings()
    levels = sum(1 << level for level, (setting, _) in enumerate(_LEVELS) if settings[setting])
    if _loaded is not None:
        _loaded.ta_set_log_levels(ctypes.c_uint32(levels))


def check(error: int | None) -> None:
    """Raises the ServerError that the TRITONSERVER_Error at this address stands for, which is deleted; not for None."""
    if not error:
        return
    library = load()
    library.TRITONSERVER_ErrorMessage.restype = ctypes.c_char_p
    c_error = ctypes.c_void_p(error)
    text = library.TRITONSERVER_ErrorMessage(c_error).decode(errors="replace")
    made = from_code(library.TRITONSERVER_ErrorCode(c_error), text)
    library.TRITONSERVER_ErrorDelete(c_error)
    raise made


def open_library(path: Path) -> ctypes.CDLL:
    """A shared library, loaded without the GIL, which ctypes would hold: what a library does meanwhile may take long.
    OSError with the loader's reason.
    """
    process = ctypes.CDLL(None)
    process.dlopen.restype = ctypes.c_void_p
    process.dlerror.restype = ctypes.c_char_p
    handle = process.dlopen(ctypes.c_char_p(os.fsencode(path)), ctypes.c_int(os.RTLD_NOW))
    if not handle:
        raise OSError((process.dlerror() or b"").decode(errors="replace"))
    return ctypes.CDLL(str(path), handle=handle)


def metrics_text() -> str:
    """The lines of the metric families that libraries and programs in this process have made; "" where none could."""
    if _loaded is None:
        return ""
    nbytes = ctypes.c_size_t()
    _loaded.ta_metrics_text.restype = ctypes.c_void_p
    text = ctypes.c_void_p(_loaded.ta_metrics_text(ctypes.byref(nbytes)))
    if not text:
        return ""
    found = ctypes.string_at(text, nbytes.value).decode(errors="replace")
    _loaded.ta_metrics_free(text)
    return found


def drain(timeout_s: float = 30.0) -> bool:
    """Refuses what threads that are not Python's ask of servers of the C API, until the next server is made, and waits
    for their requests that are on their way; whether all were answered. For programs with front-ends of others in them:
    who has the GIL while it waits for threads that wait for the GIL in a request would wait for ever.
    """
    library = load()
    library.ta_count_foreign.restype = ctypes.c_uint64
    library.ta_refuse_foreign(ctypes.c_bool(True))
    end = time.monotonic() + timeout_s
    while library.ta_count_foreign():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def address(name: str) -> int:
    """Where a function of the library is. InternalError when it cannot be loaded, AttributeError when it has none."""
    return ctypes.cast(getattr(load(), name), ctypes.c_void_p).value or 0
