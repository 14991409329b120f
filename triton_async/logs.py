"""Log lines in Triton's two formats: `default` and `ISO8601`, times in UTC, messages escaped and quoted."""

from __future__ import annotations

import json
import logging
import sys
import time

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


def configure(
    *, verbose: int, info: bool, warning: bool, error: bool, log_format: str, file: str
) -> None:
    """Sends the package's log to `file`, or to standard error. OSError when the file cannot be opened."""
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(log_format == "ISO8601"))
    allowed = {
        "DEBUG": verbose > 0, "INFO": info, "WARNING": warning, "ERROR": error, "CRITICAL": error,
    }  # fmt: skip
    handler.addFilter(lambda record: allowed.get(record.levelname, True))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak only when something is wrong with them.
    root.setLevel(logging.WARNING)
    logging.getLogger("triton_async").setLevel(logging.DEBUG if verbose else logging.INFO)
