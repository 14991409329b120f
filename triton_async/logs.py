"""Log lines in Triton's two formats: `default` and `ISO8601`, times in UTC, messages escaped and quoted."""

from __future__ import annotations

import json
import logging
import os
import time

from triton_async.defines import LOG_FLUSH_S
from triton_async.lines import Lines

STDOUT, STDERR = 1, 2

LEVELS = {"DEBUG": "I", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "E"}


class Formatter(logging.Formatter):
    """`I1120 12:34:56.123456 <pid> file.py:123] "message"`, or `2026-11-20T12:34:56Z I <pid> file.py:123] ...`.

    The message is a JSON string, so that text from a client cannot forge a line (CVE-2024-0095). Tables, which
    are our own text, keep their line breaks.
    """

    def __init__(self, iso: bool) -> None:
        super().__init__()
        self._iso = iso

    def format(self, record: logging.LogRecord) -> str:
        severity = LEVELS.get(record.levelname, "I")
        now = time.gmtime(record.created)
        place = f"{record.process} {record.filename}:{record.lineno}]"
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        shown = text if getattr(record, "table", False) else json.dumps(text)
        if self._iso:
            return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', now)} {severity} {place} {shown}"
        micros = int(record.created % 1 * 1e6)
        return f"{severity}{time.strftime('%m%d %H:%M:%S', now)}.{micros:06d} {place} {shown}"


class LinesHandler(logging.Handler):
    """Hands records to the thread that writes them to descriptor `fd`, which it owns unless it is a standard one."""

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines = Lines(fd, told=self._lost)
        self.fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. Never blocks or fails."""
        try:
            text = self.format(record)
        except Exception as error:  # arguments that do not fit their text, or whose own text fails
            text = f"a line of {record.name} can not be written: {type(error).__name__}"
        self.lines.put(text)

    def close(self) -> None:
        """Writes what waits, as far as it can be."""
        super().close()
        if self.lines.flush(LOG_FLUSH_S) and self.fd > STDERR:
            os.close(self.fd)
            self.fd = STDERR

    def _lost(self, count: int) -> str:
        text = "%d lines of the log were lost: whoever reads it was too slow"
        return self.format(logging.LogRecord("triton_async", logging.WARNING, __file__, 0, text, (count,), None))


_console = {fd: Lines(fd) for fd in (STDOUT, STDERR)}


def say(fd: int, text: str) -> None:
    """A line on standard output or standard error that is no line of the log. Never blocks or fails."""
    (_log_lines(fd) or _console[fd]).put(text)


def flush(timeout_s: float = LOG_FLUSH_S) -> None:
    """Waits for what was said and logged to be written, at most `timeout_s`, each way out."""
    for lines in (_log_lines(None), *_console.values()):
        if lines is not None:
            lines.flush(timeout_s)


def dropped() -> int:
    """Lines of the log that were lost so far."""
    lines = _log_lines(None)
    return 0 if lines is None else lines.dropped


def _log_lines(fd: int | None) -> Lines | None:
    """Those of the log, when they go to `fd`; None asks for whatever descriptor."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LinesHandler) and fd in (None, handler.fd):
            return handler.lines
    return None


def configure(
    *, verbose: int, info: bool, warning: bool, error: bool, log_format: str, file: str
) -> None:
    """Sends the package's log to `file`, or to standard error. OSError when the file cannot be opened."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666) if file else STDERR
    handler = LinesHandler(fd, Formatter(log_format == "ISO8601"))
    allowed = {
        "DEBUG": verbose > 0, "INFO": info, "WARNING": warning, "ERROR": error, "CRITICAL": error,
    }  # fmt: skip
    handler.addFilter(lambda record: allowed.get(record.levelname, True))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak only when something is wrong with them.
    root.setLevel(logging.WARNING)
    logging.getLogger("triton_async").setLevel(logging.DEBUG if verbose else logging.INFO)
