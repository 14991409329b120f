"""The log of C programs: where their servers' lines go, and how what is wanted of it changes while they run."""

from __future__ import annotations

import ctypes
import logging

from triton_async import logs, native
from triton_async.config.settings import Settings, UsageError, parse
from triton_async.errors import InvalidArg

# What a program has not asked for is not printed.
QUIET = ("--log-info=false", "--log-warning=false", "--log-error=false")

# TRITONSERVER_LogLevel
_LEVELS = {logging.INFO: 0, logging.WARNING: 1, logging.ERROR: 2, logging.CRITICAL: 2, logging.DEBUG: 3}

# Option -> its setting (triton_async.logs), and the field of Settings.
_CHANGEABLE = {
    "log-info": ("log_info", "log_info"), "log-warning": ("log_warning", "log_warning"),
    "log-error": ("log_error", "log_error"), "log-format": ("log_format", "log_format"),
    "log-verbose": ("log_verbose_level", "log_verbose"),
}  # fmt: skip


class ProgramHandler(logging.Handler):
    """Lines that the settings let through: to the program's callback, if it has one, else to `inner`, which it owns."""

    def __init__(self, inner: logs.LinesHandler) -> None:
        super().__init__()
        self.inner = inner
        self._call_back = native.load().ta_call_back_log
        self._call_back.restype = ctypes.c_bool
        self._call_back.argtypes = (
            ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_uint64, ctypes.c_char_p,
        )  # fmt: skip

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if not self.inner.filter(record):
            return
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        told = self._call_back(
            _LEVELS.get(record.levelno, 0), record.filename.encode(errors="replace"), record.lineno,
            int(record.created * 1e6), text.encode(errors="replace"),
        )  # fmt: skip
        if not told:
            self.inner.handle(record)

    def close(self) -> None:
        """See logging.Handler."""
        super().close()
        self.inner.close()


def handler(settings: Settings) -> logging.Handler:
    """Of a program's server. OSError when its file cannot be opened."""
    return ProgramHandler(logs.file_handler(settings.log_file, settings.log_format))


def change(option: str, value: str) -> None:
    """An option of the log gets another value, for all servers of the process, until the last of them is stopped.
    InvalidArg.
    """
    setting, field = _CHANGEABLE[option]
    try:
        settings = parse([f"--{option}={value}", "--model-repository=/"])
    except UsageError as error:
        raise InvalidArg(" ".join(error.message.split())) from None
    changed = getattr(settings, field)
    logs.update({setting: changed})
    if setting == "log_format":
        for one in logging.getLogger("triton_async").handlers:
            if isinstance(one, ProgramHandler) and isinstance(one.inner.formatter, logs.Formatter):
                one.inner.formatter.form = changed
