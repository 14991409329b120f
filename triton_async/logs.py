"""Log lines in Triton's two formats, `default` and `ISO8601`, or as JSON objects; times in UTC, messages escaped."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from triton_async.defines import LOG_FLUSH_S
from triton_async.lines import Lines

STDOUT, STDERR = 1, 2

_SEVERITIES = {"I": "INFO", "W": "WARNING", "E": "ERROR"}
# What Triton writes for a request without one.
_UNKNOWN_ID = "<id_unknown>"

LEVELS = {"DEBUG": "I", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "E"}


LOG_FORMATS = ("default", "ISO8601", "json")

# As `with_id` and Triton's own messages have it.
_ID = re.compile(r"\[request id: ([^\]]*)\]")

_ACCESS = "triton_async.access"


class Formatter(logging.Formatter):
    """`I1120 12:34:56.123456 <pid> file.py:123] "message"`, or `2026-11-20T12:34:56Z I <pid> file.py:123] ...`, or one
    JSON object a line, with `request_id` where the message is about a request that has one.

    The message is a JSON string, so that text from a client cannot forge a line (CVE-2024-0095). Tables, which
    are our own text, keep their line breaks.
    """

    def __init__(self, form: str) -> None:
        """`form`: one of LOG_FORMATS."""
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        severity = LEVELS.get(record.levelname, "I")
        now = time.gmtime(record.created)
        place = f"{record.process} {record.filename}:{record.lineno}]"
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self.form == "json":
            return _as_json(record, severity, now, text)
        shown = text if getattr(record, "table", False) else json.dumps(text)
        if self.form == "ISO8601":
            return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', now)} {severity} {place} {shown}"
        micros = int(record.created % 1 * 1e6)
        return f"{severity}{time.strftime('%m%d %H:%M:%S', now)}.{micros:06d} {place} {shown}"


def _as_json(record: logging.LogRecord, severity: str, now: time.struct_time, text: str) -> str:
    row: dict[str, Any] = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', now)}.{int(record.created % 1 * 1e6):06d}Z",
        "severity": _SEVERITIES[severity], "pid": record.process, "file": record.filename, "line": record.lineno,
        "message": text,
    }  # fmt: skip
    known = _ID.search(text)
    if known is not None and known[1] != _UNKNOWN_ID:
        row["request_id"] = known[1]
    return json.dumps(row)


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


class AccessLog:
    """A line for each request that was answered, where --log-access asks for them. Loop thread."""

    def __init__(self) -> None:
        #: Whether lines are wanted: to be looked at before `note` is called.
        self.on = False
        self._log = logging.getLogger(_ACCESS)

    def note(
        self, peer: Any, what: str, outcome: object, nbytes: int, began_ns: int, *, request_id: str = ""
    ) -> None:
        """`peer`: of the connection, as its transport says. `what` was asked, `outcome` the status, `nbytes` of the
        answer's body. `began_ns`: when the request was there, of time.monotonic_ns(). `request_id`: its client's.
        """
        client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        took_us = (time.monotonic_ns() - began_ns) // 1000
        known = f" [request id: {request_id[:512]}]" if request_id else ""
        self._log.info("%s %s %s %d bytes %d us%s", client, what[:512], outcome, nbytes, took_us, known)


access = AccessLog()


def with_id(request_id: str, message: str) -> str:
    """The text of an error with the id of its request in front, as Triton has it, unless it says it already."""
    if not request_id or message.startswith("[request id: "):
        return message
    return f"[request id: {request_id[:512]}] {message}"


# What is in force, by Triton's names of the settings.
_settings: dict[str, Any] = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
    "log_format": LOG_FORMATS[0],
}  # fmt: skip


# Called, without arguments, after each change. On the thread that made it.
listeners: list[Callable[[], None]] = []


def settings() -> dict[str, Any]:
    """The settings in force, by Triton's names."""
    return dict(_settings)


def update(changes: Mapping[str, Any]) -> None:
    """Changes settings, checked ones; the file stays. Any thread."""
    _settings.update(changes)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LinesHandler) and isinstance(handler.formatter, Formatter):
            handler.formatter.form = _settings["log_format"]
    logging.getLogger("triton_async").setLevel(logging.DEBUG if _settings["log_verbose_level"] else logging.INFO)
    for listener in listeners:
        listener()


def _wanted(record: logging.LogRecord) -> bool:
    """Whether the settings let a line through. Those of the access log are asked for by an option of their own."""
    if record.levelname == "DEBUG":
        return bool(_settings["log_verbose_level"])
    if record.levelname == "INFO":
        return bool(_settings["log_info"]) or record.name == _ACCESS
    return bool(_settings["log_warning" if record.levelname == "WARNING" else "log_error"])


def file_handler(file: str, log_format: str) -> LinesHandler:
    """For lines that the settings let through, to `file`, or to standard error. OSError."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666) if file else STDERR
    handler = LinesHandler(fd, Formatter(log_format))
    handler.addFilter(_wanted)
    return handler


def configure(
    *, verbose: int, info: bool, warning: bool, error: bool, log_format: str, file: str, access_lines: bool = False
) -> None:
    """Sends the package's log to `file`, or to standard error. OSError when the file cannot be opened."""
    handler = file_handler(file, log_format)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak only when something is wrong with them.
    root.setLevel(logging.WARNING)
    update({
        "log_file": file, "log_info": info, "log_warning": warning, "log_error": error, "log_verbose_level": verbose,
        "log_format": log_format,
    })  # fmt: skip
    access.on = access_lines


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Triton prints its own: `+---+` rules, `| cell |` rows.

    Tables go to the log as they are, so a cell that could break out of its line (names of directories, words of a
    config) is shown with escapes.
    """
    lines = [[cell if cell.isprintable() else ascii(cell)[1:-1] for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join(["", rule, row(lines[0]), rule, *(row(line) for line in lines[1:]), rule])
